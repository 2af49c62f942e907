//! Runs the fuzz body `measure` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::measure::body(data));
