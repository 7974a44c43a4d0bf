//! The version that every daemon reports: the Kubernetes release whose API and behaviour it has.

/// The release as `/version` and `--version` print it.
pub const GIT_VERSION: &str = concat!("v1.36.0+coxswain.", env!("CARGO_PKG_VERSION"));
/// Major part of [`GIT_VERSION`].
pub const MAJOR: &str = "1";
/// Minor part of [`GIT_VERSION`].
pub const MINOR: &str = "36";

/// What `--version` prints.
pub const LINE: &str = concat!("Kubernetes v1.36.0+coxswain.", env!("CARGO_PKG_VERSION"));

/// The processor's name as the API, images and `/version` spell it.
pub const ARCHITECTURE: &str = if cfg!(target_arch = "x86_64") {
    "amd64"
} else if cfg!(target_arch = "aarch64") {
    "arm64"
} else {
    std::env::consts::ARCH
};

/// What a daemon runs on, as `/version`, metrics and user agents name it.
#[must_use]
pub fn platform() -> String {
    format!("linux/{ARCHITECTURE}")
}
