//! Runs the fuzz body `slots` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::slots::body(data));
