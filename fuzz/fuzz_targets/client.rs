//! Feeds `distcache_fuzz::client` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::client::body(data));
