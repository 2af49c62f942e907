//! Feeds `distcache_fuzz::measure` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::measure::body(data));
