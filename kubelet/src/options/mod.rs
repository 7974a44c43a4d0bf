//! What the kubelet is told: command-line flags and the `KubeletConfiguration` file. Flags win over the file.

pub mod config;
pub mod flags;

pub use config::KubeletConfiguration;
pub use flags::{Flags, INERT};
