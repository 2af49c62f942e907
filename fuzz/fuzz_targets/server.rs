//! Feeds `distcache_fuzz::server` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::server::body(data));
