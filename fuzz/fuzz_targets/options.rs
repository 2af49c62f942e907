//! Feeds `distcache_fuzz::options` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::options::body(data));
