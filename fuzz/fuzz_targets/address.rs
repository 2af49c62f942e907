//! Feeds `distcache_fuzz::address` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::address::body(data));
