//! Feeds `distcache_fuzz::pool` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::pool::body(data));
