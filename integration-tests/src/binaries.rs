//! Where the programs under test and the tools are.

use std::path::{Path, PathBuf};

/// The workspace's root folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_path_buf).unwrap_or_default()
}

/// Cargo's target folder.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from)
}

/// The folder with the release binaries: `COXSWAIN_BIN`, or where `make build` puts them.
///
/// # Panics
/// If they are not built.
pub fn folder() -> PathBuf {
    let dir = std::env::var_os("COXSWAIN_BIN").map_or_else(|| target().join("release"), PathBuf::from);
    assert!(
        dir.join("kube-apiserver").exists(),
        "{} has no kube-apiserver: run `make build` first",
        dir.display()
    );
    dir
}

/// Upstream's kubectl of this release (`1.36`), or the machine's own (`system`).
///
/// # Panics
/// If it is not installed.
pub fn kubectl(which: &str) -> PathBuf {
    if which == "system" {
        let path = std::env::var("PATH").unwrap_or_default();
        let found = path.split(':').map(|d| Path::new(d).join("kubectl")).find(|p| p.exists());
        return found.unwrap_or_else(|| kubectl("1.36"));
    }
    tool("kubectl-1.36")
}

/// What `scripts/install-test-tools` installed under that name.
///
/// # Panics
/// If it is not installed.
pub fn tool(name: &str) -> PathBuf {
    let path = target().join("tools").join(name);
    assert!(path.exists(), "{} is missing: run scripts/install-test-tools", path.display());
    path
}

/// One of upstream's daemons of this release, in the folder `COXSWAIN_UPSTREAM`. Nothing where that is not set: then
/// what needs it is left out, and says so.
///
/// # Panics
/// If the folder does not hold it.
pub fn upstream(name: &str) -> Option<PathBuf> {
    let Some(folder) = std::env::var_os("COXSWAIN_UPSTREAM").map(PathBuf::from) else {
        println!("left out: COXSWAIN_UPSTREAM names no folder with upstream's {name}");
        return None;
    };
    let path = folder.join(name);
    assert!(path.exists(), "COXSWAIN_UPSTREAM: {} is missing", path.display());
    Some(path)
}
