//! Clocks of single processes. The kernel's time namespaces leave the wall clock alone, so libfaketime stands between
//! the server and the C library: it adds what a file says. The monotonic clock stays as it is.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where Debian's libfaketime is, below the libraries of the architecture.
const LIBRARY: &str = "faketime/libfaketimeMT.so.1";

/// A library and its settings, as [`integration_tests::group::Config::preload`] takes them; none where it is missing.
pub fn preload() -> Option<(PathBuf, Vec<(String, String)>)> {
    let library =
        std::fs::read_dir("/usr/lib").ok()?.flatten().map(|d| d.path().join(LIBRARY)).find(|p| p.exists())?;
    let folder = std::env::temp_dir().join(format!("coxswain-clocks-{}", std::process::id()));
    let settings = [
        ("FAKETIME_TIMESTAMP_FILE", format!("{}-{{n}}", folder.display())),
        ("FAKETIME_CACHE_DURATION", "1".to_owned()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        ("DONT_FAKE_MONOTONIC", "1".to_owned()),
    ];
    Some((library, settings.map(|(k, v)| (k.to_owned(), v)).into()))
}

fn file(n: u32) -> PathBuf {
    std::env::temp_dir().join(format!("coxswain-clocks-{}-{n}", std::process::id()))
}

/// Sets a server's clock so many seconds ahead; it notices within a second.
///
/// # Errors
/// The file cannot be written.
pub fn set(n: u32, seconds: i32) -> anyhow::Result<()> {
    let path = file(n);
    // In one step: it may be read at any time.
    let new = path.with_extension("new");
    std::fs::write(&new, format!("{seconds:+}\n")).with_context(|| new.display().to_string())?;
    std::fs::rename(&new, &path).with_context(|| path.display().to_string())
}

/// Takes the files away.
pub fn remove(members: impl Iterator<Item = u32>) {
    for n in members {
        let path = file(n);
        if Path::exists(&path) {
            let _ = std::fs::remove_file(path);
        }
    }
}
