//! Runs the fuzz body `options` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::options::body(data));
