//! Runs the fuzz body `pool` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::pool::body(data));
