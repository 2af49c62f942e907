//! Runs the fuzz body `snoop` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::snoop::body(data));
