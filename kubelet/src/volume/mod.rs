//! Volumes of a pod on the node's disk: set-up, refresh of their content, and removal. Paths are upstream's
//! (`<root>/pods/<uid>/volumes/kubernetes.io~<type>/<name>`).

pub mod atomic;
pub mod csi;
pub mod host_path;
pub mod local;
pub mod mounts;
pub mod ownership;
pub mod payload;
pub mod persistent;
pub mod setup;
pub mod subpath;
pub mod token;

use std::path::{Path, PathBuf};

/// Where a pod's files are.
#[derive(Clone, Debug)]
pub struct PodDirs {
    pub root: PathBuf,
}

impl PodDirs {
    pub fn new(kubelet_root: &Path, uid: &str) -> Self {
        Self { root: kubelet_root.join("pods").join(uid) }
    }

    pub fn volume(&self, plugin: &str, name: &str) -> PathBuf {
        self.root.join("volumes").join(format!("kubernetes.io~{plugin}")).join(name)
    }

    /// Marks volumes whose first set-up is complete, so that it is not done twice.
    pub fn ready_marker(&self, plugin: &str, name: &str) -> PathBuf {
        self.root.join("plugins").join(format!("kubernetes.io~{plugin}")).join(name).join("ready")
    }

    pub fn etc_hosts(&self) -> PathBuf {
        self.root.join("etc-hosts")
    }

    pub fn container(&self, name: &str) -> PathBuf {
        self.root.join("containers").join(name)
    }

    pub fn subpath(&self, volume: &str, container: &str, index: usize) -> PathBuf {
        self.root.join("volume-subpaths").join(volume).join(container).join(index.to_string())
    }
}
