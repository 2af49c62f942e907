//! Feeds `distcache_fuzz::slots` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::slots::body(data));
