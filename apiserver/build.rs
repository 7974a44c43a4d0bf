//! Does what the build scripts of all daemons do, and compresses the API's descriptions, which the server reads only
//! to answer OpenAPI requests.
#![allow(clippy::expect_used)]

#[path = "../component-base/daemon-build.rs"]
mod daemon;

use std::io::Write as _;
use std::path::Path;
use std::{env, fs};

const DESCRIPTIONS: &str = "data/descriptions-v1.36.txt";

fn main() {
    daemon::main();
    println!("cargo::rerun-if-changed={DESCRIPTIONS}");
    let text = fs::read(DESCRIPTIONS).expect("the file is part of the crate");
    let out = Path::new(&env::var("OUT_DIR").expect("cargo sets it")).join("descriptions.z");
    let file = fs::File::create(out).expect("OUT_DIR is writable");
    let mut z = flate2::write::ZlibEncoder::new(file, flate2::Compression::best());
    z.write_all(&text).and_then(|()| z.finish().map(drop)).expect("OUT_DIR is writable");
}
