//! Build script of every daemon. Packs the relocations of the program (RELR): unpacked they are megabytes that every start reads and keeps resident.

pub fn main() {
    println!("cargo::rerun-if-changed=../component-base/daemon-build.rs");
    if std::env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("gnu") {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}
