//! Paths below a cluster's state folder, and its names and addresses.

use std::net::Ipv4Addr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

/// Where a cluster keeps what, and what its parts are called.
#[derive(Debug, Clone)]
pub struct Layout {
    pub state: PathBuf,
    pub slot: u8,
    pub port: u16,
}

/// Range of service addresses; the same in every cluster, since they never leave a node.
pub const SERVICE_CIDR: &str = "10.96.0.0/16";
/// Address of the `kubernetes` service, the first of [`SERVICE_CIDR`].
pub const KUBERNETES_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 1);
/// Address that cluster DNS will have.
pub const DNS_SERVICE_IP: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The API's own DNS name.
pub const CLUSTER_DOMAIN: &str = "cluster.local";

impl Layout {
    pub fn new(state: PathBuf, slot: u8, port: u16) -> Self {
        Self { state, slot, port }
    }

    /// Makes the folders; only root may look inside.
    pub fn create(&self) -> anyhow::Result<()> {
        for d in ["pki", "log", "run", "config"] {
            let d = self.state.join(d);
            std::fs::create_dir_all(&d).with_context(|| format!("making {}", d.display()))?;
        }
        std::fs::set_permissions(&self.state, PermissionsExt::from_mode(0o711)).context("state folder")
    }

    pub fn options_file(&self) -> PathBuf {
        self.state.join("cluster.json")
    }
    pub fn pki(&self, file: &str) -> PathBuf {
        self.state.join("pki").join(file)
    }
    pub fn config(&self, file: &str) -> PathBuf {
        self.state.join("config").join(file)
    }
    pub fn kubeconfig(&self, user: &str) -> PathBuf {
        self.state.join(format!("{user}.kubeconfig"))
    }
    pub fn log(&self, daemon: &str) -> PathBuf {
        self.state.join("log").join(format!("{daemon}.log"))
    }
    pub fn pid_file(&self, daemon: &str) -> PathBuf {
        self.state.join("run").join(format!("{daemon}.pid"))
    }
    pub fn data(&self) -> PathBuf {
        self.state.join("apiserver")
    }
    /// Folder of one node.
    pub fn node(&self, n: u32) -> PathBuf {
        self.state.join(self.node_name(n))
    }
    pub fn containerd_socket(&self, n: u32) -> PathBuf {
        self.node(n).join("containerd.sock")
    }

    pub fn node_name(&self, n: u32) -> String {
        format!("node{n}")
    }
    pub fn bridge(&self) -> String {
        format!("cox{}", self.slot)
    }
    pub fn namespace(&self, n: u32) -> String {
        format!("cox{}-{}", self.slot, self.node_name(n))
    }
    /// Host end of a node's link.
    pub fn link(&self, n: u32) -> String {
        format!("cox{}n{n}", self.slot)
    }
    /// Cgroup under which a node keeps its pods.
    pub fn cgroup(&self, n: u32) -> String {
        format!("/{}", self.namespace(n))
    }
    /// The host's address on the bridge, where nodes find the API server.
    pub fn host_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(10, 89, self.slot, 1)
    }
    pub fn node_ip(&self, n: u32) -> Ipv4Addr {
        Ipv4Addr::new(10, 89, self.slot, 10 + u8::try_from(n).unwrap_or(u8::MAX - 10))
    }
    /// Range of the pods' addresses, of which each node gets a /24.
    pub fn pod_cidr(&self) -> String {
        format!("10.{}.0.0/16", 100 + self.slot)
    }

    /// The last lines of a daemon's log, for error messages.
    pub fn log_tail(&self, daemon: &str) -> String {
        let path = self.log(daemon);
        let text = std::fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        // What matters of a long record is at its beginning.
        let lines: Vec<&str> = text.lines().map(|l| l.get(..400).unwrap_or(l)).collect();
        let tail = lines[lines.len().saturating_sub(8)..].join("\n  ");
        format!("the end of {}:\n  {tail}", path.display())
    }
}

/// Writes a file with exactly this mode, so that a key is never readable by others, not even for a moment.
pub fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    use std::io::Write;
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(path)
        .with_context(|| format!("writing {}", path.display()))?;
    file.write_all(text.as_bytes()).with_context(|| format!("writing {}", path.display()))
}
