//! Feeds `distcache_fuzz::sessiond` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::sessiond::body(data));
