//! Runs the fuzz body `sessiond` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::sessiond::body(data));
