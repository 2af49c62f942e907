//! Linker arguments of the shared library.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = std::env::var("CARGO_CFG_TARGET_VENDOR").unwrap_or_default();
    if target == "apple" {
        println!("cargo:rustc-cdylib-link-arg=-Wl,-install_name,@rpath/libdistcache.1.dylib");
        return;
    }
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libdistcache.so.1");
    // Servers unload their modules and load them again. The library's destructors for thread data still run
    // when a thread ends, so its code must stay loaded.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
}
