//! Pod cgroups under `kubepods`, with the cgroupfs driver, on cgroup v1 and v2. The runtime puts containers
//! below what is made here. A controller that is missing is named once in the log and left out.

mod fs_v1;
mod fs_v2;

use std::{io, path::Path};

use k8s_openapi::api::core::v1::Pod;

use crate::pod::{resources, spec};

/// Limits of one cgroup; `None` leaves the kernel's default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub cpu_shares: Option<i64>,
    /// Quota and period in microseconds.
    pub cpu_quota: Option<(i64, i64)>,
    pub memory: Option<i64>,
    pub pids: Option<i64>,
}

/// Makes, limits and removes cgroups.
pub struct Cgroups {
    backend: Backend,
    root: String,
    enabled: bool,
}

enum Backend {
    V1(fs_v1::V1),
    V2(fs_v2::V2),
}

/// Path of the pod's QoS parent below the cgroup root.
pub fn qos_parent(root: &str, qos: &str) -> String {
    let base = format!("{}/kubepods", root.trim_end_matches('/'));
    match qos {
        "Burstable" => format!("{base}/burstable"),
        "BestEffort" => format!("{base}/besteffort"),
        _ => base,
    }
}

/// The limits of a pod as a whole.
pub fn pod_limits(pod: &Pod, period: Option<i64>, pids: i64) -> Limits {
    let s = spec::spec(pod);
    let cpu_request = resources::pod_request(s, "cpu");
    let cpu_limit = resources::pod_limit(s, "cpu");
    let shares = if cpu_request == 0 { cpu_limit.unwrap_or(0) } else { cpu_request };
    Limits {
        cpu_shares: Some(resources::cpu_shares(shares)),
        cpu_quota: period
            .and_then(|p| cpu_limit.map(|l| (resources::cpu_quota(l, p), p)))
            .filter(|(q, _)| *q > 0),
        memory: resources::pod_limit(s, "memory").filter(|m| *m > 0),
        pids: (pids > 0).then_some(pids),
    }
}

impl Cgroups {
    /// Finds out the kernel's version of cgroups. On v1, refuses if `fail_v1`, as upstream's `failCgroupV1`.
    pub fn detect(root: &str, enabled: bool, fail_v1: bool) -> anyhow::Result<Self> {
        let root = if root.is_empty() { "/".to_owned() } else { root.to_owned() };
        let mount = Path::new("/sys/fs/cgroup");
        let backend = if mount.join("cgroup.controllers").exists() {
            Backend::V2(fs_v2::V2::new(mount))
        } else {
            if fail_v1 {
                anyhow::bail!(
                    "kubelet is configured to not run on a host using cgroup v1. cgroup v1 support is unsupported and will be removed in a future release. To continue to use cgroup v1, set failCgroupV1: false in the kubelet configuration"
                );
            }
            tracing::warn!("cgroup v1 detected: it is supported, but move to cgroup v2");
            Backend::V1(fs_v1::V1::discover()?)
        };
        Ok(Self { backend, root, enabled })
    }

    pub fn is_v2(&self) -> bool {
        matches!(self.backend, Backend::V2(_))
    }

    /// `cgroup_parent` of the pod's sandbox and containers; empty if cgroups per QoS are off.
    pub fn pod_path(&self, pod: &Pod) -> String {
        if !self.enabled {
            return String::new();
        }
        self.path_of(spec::uid(pod), spec::qos_class(pod))
    }

    fn path_of(&self, uid: &str, qos: &str) -> String {
        format!("{}/pod{uid}", qos_parent(&self.root, qos))
    }

    fn apply(&self, path: &str, limits: &Limits) -> io::Result<()> {
        match &self.backend {
            Backend::V1(fs) => fs.apply(path, limits),
            Backend::V2(fs) => fs.apply(path, limits),
        }
    }

    /// `kubepods` and its QoS children. `allocatable` is (CPU thousandths, memory bytes) to hold pods to.
    pub fn ensure_roots(&self, allocatable: (i64, i64), enforce: bool) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let limits = Limits {
            cpu_shares: Some(resources::cpu_shares(allocatable.0)),
            memory: enforce.then_some(allocatable.1),
            ..Limits::default()
        };
        self.apply(&qos_parent(&self.root, "Guaranteed"), &limits)?;
        for qos in ["Burstable", "BestEffort"] {
            self.apply(&qos_parent(&self.root, qos), &Limits { cpu_shares: Some(2), ..Limits::default() })?;
        }
        Ok(())
    }

    /// Gives the burstable pods together the share of CPU they request.
    pub fn set_burstable_shares(&self, milli_cpu: i64) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        let limits = Limits { cpu_shares: Some(resources::cpu_shares(milli_cpu)), ..Limits::default() };
        self.apply(&qos_parent(&self.root, "Burstable"), &limits)
    }

    /// Makes the pod's cgroup, or brings its limits up to date.
    pub fn ensure_pod(&self, pod: &Pod, period: Option<i64>, pids: i64) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        self.apply(&self.pod_path(pod), &pod_limits(pod, period, pids))
    }

    /// Sets only these limits of the pod's cgroup.
    pub fn limit_pod(&self, pod: &Pod, limits: &Limits) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        self.apply(&self.pod_path(pod), limits)
    }

    /// Removes the pod's cgroup, whichever QoS class it was made for.
    pub fn remove_pod(&self, uid: &str) -> io::Result<()> {
        if !self.enabled {
            return Ok(());
        }
        for qos in ["Guaranteed", "Burstable", "BestEffort"] {
            let path = self.path_of(uid, qos);
            match &self.backend {
                Backend::V1(fs) => fs.remove(&path)?,
                Backend::V2(fs) => fs.remove(&path)?,
            }
        }
        Ok(())
    }

    /// UIDs of pods that have cgroups.
    pub fn pods(&self) -> Vec<String> {
        let base = match &self.backend {
            Backend::V1(fs) => fs.any_controller(),
            Backend::V2(fs) => Some(fs.mount().to_path_buf()),
        };
        let Some(base) = base.filter(|_| self.enabled) else { return Vec::new() };
        ["Guaranteed", "Burstable", "BestEffort"]
            .iter()
            .filter_map(|qos| std::fs::read_dir(join(&base, &qos_parent(&self.root, qos))).ok())
            .flatten()
            .filter_map(|e| e.ok()?.file_name().to_str()?.strip_prefix("pod").map(str::to_owned))
            .collect()
    }
}

fn join(mount: &Path, path: &str) -> std::path::PathBuf {
    mount.join(path.trim_start_matches('/'))
}

/// Removes a cgroup with its children. The kernel needs a moment after the last process ended. Processes that are
/// still in it after that belong to no container that the runtime knows, such as the init of one whose start was
/// broken off; nobody else would ever end them, so they are killed.
fn remove_dir(path: &Path) -> io::Result<()> {
    let entries = match std::fs::read_dir(path) {
        Ok(e) => e,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|t| t.is_dir()) {
            remove_dir(&entry.path())?;
        }
    }
    for attempt in 0..20 {
        match std::fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) if e.raw_os_error() == Some(nix::libc::EBUSY) => {
                if attempt % 10 == 5 {
                    kill_processes(path);
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            Err(e) => return Err(e),
        }
    }
    Err(io::Error::other(format!("cgroup {} is still in use", path.display())))
}

fn kill_processes(cgroup: &Path) {
    let procs = std::fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another PID namespace, and would mean ourselves to kill(2).
    for pid in procs.lines().filter_map(|l| l.parse::<i32>().ok()).filter(|pid| *pid > 1) {
        tracing::warn!(pid, cgroup = %cgroup.display(), "killing a process that was left in a pod's cgroup");
        // It may have ended meanwhile.
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftover_processes_are_killed() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let dir = std::env::temp_dir().join(format!("cgroup-test-{}", child.id()));
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join("cgroup.procs"), format!("0\n1\n{}\n", child.id())).unwrap();
        kill_processes(&dir);
        std::fs::remove_dir_all(&dir).unwrap();
        assert!(!child.wait().unwrap().success());
    }

    #[test]
    fn paths_and_limits() {
        assert_eq!(qos_parent("/", "Burstable"), "/kubepods/burstable");
        assert_eq!(qos_parent("/x", "Guaranteed"), "/x/kubepods");
        let pod: Pod = serde_json::from_value(serde_json::json!({"spec": {"containers": [
            {"name": "a", "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]}}))
        .unwrap();
        let l = pod_limits(&pod, Some(100_000), -1);
        assert_eq!(l.cpu_quota, Some((50_000, 100_000)));
        assert_eq!(l.memory, Some(64 << 20));
        assert_eq!(l.cpu_shares, Some(512));
        assert_eq!(l.pids, None);
    }
}
