//! Gives the shared library the name by which programs ask for it at run time.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_VENDOR").unwrap_or_default();
    if target == "apple" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libdistcache.1.dylib");
        return;
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdistcache.so.1");
    // Servers unload their modules and load them again. What threads of theirs have in thread-local
    // storage is released by code of ours when they end, so that code has to stay.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
