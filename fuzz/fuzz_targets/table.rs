//! Feeds `distcache_fuzz::table` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::table::body(data));
