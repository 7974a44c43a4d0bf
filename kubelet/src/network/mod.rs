//! The node's pod network: writes a CNI configuration (bridge, host-local, portmap) for the node's podCIDR, so
//! that a single node needs no network add-on. Off unless a folder is given: who runs an add-on keeps it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::{Value, json};

/// Sorts before what people add by hand, after what an add-on calls `00-…` or `05-…`.
const FILE: &str = "10-coxswain.conflist";

/// Writes the configuration into one folder.
#[derive(Clone, Debug)]
pub struct CniWriter {
    dir: PathBuf,
    /// Where host-local keeps its leases.
    leases: PathBuf,
}

/// The configuration for these pod CIDRs (one per address family).
pub fn conflist(cidrs: &[String], leases: &Path) -> Value {
    let ranges: Vec<Value> = cidrs.iter().map(|c| json!([{ "subnet": c }])).collect();
    let routes: Vec<Value> =
        cidrs.iter().map(|c| json!({"dst": if c.contains(':') { "::/0" } else { "0.0.0.0/0" }})).collect();
    json!({
        "cniVersion": "0.4.0",
        "name": "coxswain",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                // Traffic that leaves the pod network takes the node's address.
                "ipMasq": true,
                "ipam": {
                    "type": "host-local",
                    "dataDir": leases.to_string_lossy(),
                    "ranges": ranges,
                    "routes": routes,
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true},
        ],
    })
}

impl CniWriter {
    /// `leases` is where host-local keeps which addresses are taken.
    pub fn new(dir: PathBuf, leases: PathBuf) -> Self {
        Self { dir, leases }
    }

    /// Writes the configuration, at once or not at all; returns whether it changed.
    pub fn write(&self, cidrs: &[String]) -> anyhow::Result<bool> {
        let path = self.dir.join(FILE);
        let text = format!("{:#}\n", conflist(cidrs, &self.leases));
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(false);
        }
        fs::create_dir_all(&self.dir).with_context(|| format!("creating {}", self.dir.display()))?;
        let tmp = self.dir.join(".coxswain.tmp");
        fs::write(&tmp, text).with_context(|| format!("writing {}", tmp.display()))?;
        fs::rename(&tmp, &path).with_context(|| format!("writing {}", path.display()))?;
        tracing::info!(path = %path.display(), "wrote the CNI configuration");
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_once_per_cidr() {
        let root = std::env::temp_dir().join(format!("kubelet-cni-{}", std::process::id()));
        let w = CniWriter::new(root.join("net.d"), root.join("leases"));
        assert!(w.write(&["10.1.2.0/24".into()]).unwrap());
        assert!(!w.write(&["10.1.2.0/24".into()]).unwrap());
        assert!(w.write(&["10.1.3.0/24".into(), "fd00::/64".into()]).unwrap());
        let v: Value =
            serde_json::from_str(&fs::read_to_string(root.join("net.d").join(FILE)).unwrap()).unwrap();
        assert_eq!(v["plugins"][0]["ipam"]["ranges"][1][0]["subnet"], "fd00::/64");
        fs::remove_dir_all(root).unwrap();
    }
}
