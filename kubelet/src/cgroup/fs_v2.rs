//! cgroup v2: one hierarchy; controllers are switched on from the root downwards.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::{Limits, join, remove_dir};

pub struct V2 {
    mount: PathBuf,
    warned: Mutex<HashSet<&'static str>>,
}

/// `cpu.weight` (1–10000) for cgroup v1's shares (2–262144), on the logarithmic curve that runtimes use today:
/// 1024 shares are the default weight of 100.
pub fn weight(shares: i64) -> i64 {
    if shares <= 2 {
        return 1;
    }
    if shares >= 262_144 {
        return 10_000;
    }
    let l = (shares as f64).log2();
    let exponent = (l * l + 125.0 * l) / 612.0 - 7.0 / 34.0;
    10f64.powf(exponent).ceil() as i64
}

impl V2 {
    pub fn new(mount: &Path) -> Self {
        Self { mount: mount.to_path_buf(), warned: Mutex::default() }
    }

    pub fn mount(&self) -> &Path {
        &self.mount
    }

    fn set(&self, controller: &'static str, path: &str, file: &str, value: &str) -> io::Result<()> {
        let file = join(&self.mount, path).join(file);
        if !file.exists() {
            if self.warned.lock().insert(controller) {
                tracing::warn!(
                    controller,
                    "cgroup controller is missing: its limits are not enforced for pods"
                );
            }
            return Ok(());
        }
        fs::write(&file, value)
            .map_err(|e| io::Error::new(e.kind(), format!("writing {value} to {}: {e}", file.display())))
    }

    /// Lets children of `dir` use the controllers that it has itself.
    fn delegate(&self, dir: &Path) {
        let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
        for controller in ["cpu", "memory", "pids", "cpuset", "hugetlb", "io"] {
            if available.split_whitespace().any(|c| c == controller) {
                // One that cannot be delegated shows by its missing files, and is reported there.
                let _ = fs::write(dir.join("cgroup.subtree_control"), format!("+{controller}"));
            }
        }
    }

    pub fn apply(&self, path: &str, l: &Limits) -> io::Result<()> {
        let target = join(&self.mount, path);
        if !target.exists() {
            let mut dir = self.mount.clone();
            for part in path.trim_matches('/').split('/') {
                self.delegate(&dir);
                dir.push(part);
                if !dir.exists() {
                    fs::create_dir(&dir).map_err(|e| {
                        io::Error::new(e.kind(), format!("creating cgroup {}: {e}", dir.display()))
                    })?;
                }
            }
        }
        self.delegate(&target);
        if let Some(shares) = l.cpu_shares {
            self.set("cpu", path, "cpu.weight", &weight(shares).to_string())?;
        }
        if let Some((quota, period)) = l.cpu_quota {
            self.set("cpu", path, "cpu.max", &format!("{quota} {period}"))?;
        }
        if let Some(memory) = l.memory {
            self.set("memory", path, "memory.max", &memory.to_string())?;
        }
        if let Some(pids) = l.pids {
            self.set("pids", path, "pids.max", &pids.to_string())?;
        }
        Ok(())
    }

    pub fn remove(&self, path: &str) -> io::Result<()> {
        remove_dir(&join(&self.mount, path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights() {
        assert_eq!(weight(2), 1);
        assert_eq!(weight(1024), 100);
        assert_eq!(weight(262_144), 10_000);
        assert!((weight(100)..=weight(102)).contains(&weight(101)));
    }

    #[test]
    fn limits_land_in_files() {
        let root = std::env::temp_dir().join(format!("kubelet-cg2-{}", std::process::id()));
        let dir = root.join("kubepods/podx");
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("memory.max"), "max").unwrap();
        let limits = Limits { memory: Some(4096), pids: Some(5), ..Limits::default() };
        V2::new(&root).apply("/kubepods/podx", &limits).unwrap();
        assert_eq!(fs::read_to_string(dir.join("memory.max")).unwrap(), "4096");
        assert!(!dir.join("pids.max").exists(), "a missing controller is skipped");
        fs::remove_dir_all(&root).unwrap();
    }
}
