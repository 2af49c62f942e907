//! Feeds `distcache_fuzz::snoop` what the fuzzer finds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| distcache_fuzz::snoop::body(data));
