//! cgroup v1: one hierarchy per controller (or set of controllers).

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    path::{Path, PathBuf},
};

use parking_lot::Mutex;

use super::{Limits, join, remove_dir};

const NEEDED: &[&str] =
    &["cpu", "memory", "pids", "cpuset", "cpuacct", "hugetlb", "blkio", "devices", "freezer"];

pub struct V1 {
    /// Controller → mount point.
    controllers: BTreeMap<String, PathBuf>,
    /// Every hierarchy there is, systemd's and the unified one too: runtimes make folders in all of them.
    hierarchies: Vec<PathBuf>,
    warned: Mutex<HashSet<&'static str>>,
}

impl V1 {
    pub fn discover() -> anyhow::Result<Self> {
        let table = fs::read_to_string("/proc/self/mountinfo")?;
        let controllers = parse(&table);
        if controllers.is_empty() {
            anyhow::bail!(
                "no cgroup controller is mounted: mount cgroup v2 on /sys/fs/cgroup, or the v1 controllers below it"
            );
        }
        Ok(Self { controllers, hierarchies: hierarchies(&table), warned: Mutex::default() })
    }

    pub fn any_controller(&self) -> Option<PathBuf> {
        self.controllers.get("cpu").or_else(|| self.controllers.values().next()).cloned()
    }

    fn set(&self, controller: &'static str, path: &str, file: &str, value: i64) -> io::Result<()> {
        let Some(mount) = self.controllers.get(controller) else {
            if self.warned.lock().insert(controller) {
                tracing::warn!(
                    controller,
                    "cgroup controller is missing: its limits are not enforced for pods"
                );
            }
            return Ok(());
        };
        let file = join(mount, path).join(file);
        fs::write(&file, value.to_string())
            .map_err(|e| io::Error::new(e.kind(), format!("writing {value} to {}: {e}", file.display())))
    }

    pub fn apply(&self, path: &str, l: &Limits) -> io::Result<()> {
        for (name, mount) in &self.controllers {
            let dir = join(mount, path);
            if !dir.exists() {
                fs::create_dir_all(&dir).map_err(|e| {
                    io::Error::new(e.kind(), format!("creating cgroup {}: {e}", dir.display()))
                })?;
            }
            if name == "cpuset" {
                inherit_cpuset(mount, path)?;
            }
        }
        if let Some(shares) = l.cpu_shares {
            self.set("cpu", path, "cpu.shares", shares)?;
        }
        if let Some((quota, period)) = l.cpu_quota {
            self.set("cpu", path, "cpu.cfs_period_us", period)?;
            self.set("cpu", path, "cpu.cfs_quota_us", quota)?;
        }
        if let Some(memory) = l.memory {
            self.set("memory", path, "memory.limit_in_bytes", memory)?;
        }
        if let Some(pids) = l.pids {
            self.set("pids", path, "pids.max", pids)?;
        }
        Ok(())
    }

    pub fn remove(&self, path: &str) -> io::Result<()> {
        self.hierarchies.iter().try_for_each(|m| remove_dir(&join(m, path)))
    }
}

/// A new cpuset is empty and takes no process: fill it from its parent, top down.
fn inherit_cpuset(mount: &Path, path: &str) -> io::Result<()> {
    let mut dir = mount.to_path_buf();
    for part in path.trim_matches('/').split('/') {
        let parent = dir.clone();
        dir.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(now) = fs::read_to_string(dir.join(file))
                && now.trim().is_empty()
            {
                fs::write(dir.join(file), fs::read_to_string(parent.join(file))?)?;
            }
        }
    }
    Ok(())
}

fn hierarchies(mountinfo: &str) -> Vec<PathBuf> {
    let mut out: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|l| l.split_once(" - "))
        .filter(|(_, right)| matches!(right.split(' ').next(), Some("cgroup" | "cgroup2")))
        .filter_map(|(left, _)| left.split(' ').nth(4).map(PathBuf::from))
        .collect();
    out.sort();
    out.dedup();
    out
}

fn parse(mountinfo: &str) -> BTreeMap<String, PathBuf> {
    let mut out = BTreeMap::new();
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        if right.next() != Some("cgroup") {
            continue;
        }
        let (Some(point), Some(options)) = (left.split(' ').nth(4), right.nth(1)) else { continue };
        for option in options.split(',').filter(|o| NEEDED.contains(o)) {
            out.entry(option.to_owned()).or_insert_with(|| PathBuf::from(point));
        }
        // systemd's own hierarchy has no controller; the runtime makes its own folders there.
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_mountinfo() {
        let m = parse(
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n31 25 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n32 25 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
        );
        assert_eq!(m["cpu"], Path::new("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(m.len(), 2);
        let all = hierarchies(
            "1 2 0:1 / /a rw - cgroup cgroup rw,cpu\n1 2 0:1 / /b rw - cgroup2 x rw\n1 2 0:1 / /c rw - tmpfs x rw\n",
        );
        assert_eq!(all, [Path::new("/a"), Path::new("/b")]);
    }
}
