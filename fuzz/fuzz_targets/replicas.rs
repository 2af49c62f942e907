//! Runs the fuzz body `replicas` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::replicas::body(data));
