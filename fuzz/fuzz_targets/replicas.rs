//! Feeds `distcache_fuzz::replicas` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::replicas::body(data));
