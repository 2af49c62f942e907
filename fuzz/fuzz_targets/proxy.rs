//! Feeds `distcache_fuzz::proxy` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::proxy::body(data));
