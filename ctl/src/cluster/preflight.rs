//! What must be there before a cluster can start: rights, programs, kernel features, free ports. Everything that
//! is missing is said at once, with the way to mend it.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::bail;

use super::Options;
use super::layout::Layout;
use super::process;

/// Programs of Debian packages that a cluster needs, with the package that has them.
const PROGRAMS: [(&str, &str); 6] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    ("ip", "iproute2"),
    ("nsenter", "util-linux"),
    ("iptables-restore", "iptables"),
    ("conntrack", "conntrack"),
];
/// Where distributions put CNI plugins.
const CNI_FOLDERS: [&str; 3] = ["/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"];

/// The folder that holds the CNI plugins.
pub fn cni_folder() -> Option<PathBuf> {
    CNI_FOLDERS.iter().map(PathBuf::from).find(|d| d.join("bridge").exists() && d.join("host-local").exists())
}

/// Checks everything and reports all that is wrong.
///
/// # Errors
/// One message with a line for each thing to mend.
pub fn check(options: &Options, layout: &Layout) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!(
            "a cluster needs root (namespaces, mounts, containers): run it as root, for instance with sudo"
        );
    }
    let mut wrong = Vec::new();
    for (program, package) in PROGRAMS {
        if find(program).is_none() {
            wrong.push(format!("{program} is not installed: apt-get install {package}"));
        }
    }
    if cni_folder().is_none() {
        wrong.push(format!(
            "no CNI plugins in {}: apt-get install containernetworking-plugins",
            CNI_FOLDERS.join(", ")
        ));
    }
    for daemon in ["kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy"] {
        let path = options.binaries.join(daemon);
        if !path.exists() {
            wrong.push(format!("{} is missing: run make build, or give --binaries", path.display()));
        }
    }
    for file in [&options.pause, &options.busybox] {
        if !file.exists() {
            wrong.push(format!(
                "{} is missing: run make build (pause), apt-get install busybox-static",
                file.display()
            ));
        }
    }
    wrong.extend(cgroup_problem(Path::new("/sys/fs/cgroup")));
    if !process::running(layout, "kube-apiserver")
        && let Err(e) = TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], options.port)))
    {
        wrong.push(format!(
            "port {} cannot be used ({e}): stop what listens there, or choose another with --port",
            options.port
        ));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    bail!("this machine is not ready for a cluster:\n  - {}", wrong.join("\n  - "))
}

/// A program on PATH or where distributions put system programs.
fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    path.split(':')
        .chain(["/usr/sbin", "/sbin", "/usr/local/sbin"])
        .map(|d| Path::new(d).join(program))
        .find(|p| p.exists())
}

/// Pods need the cpu, memory and pids controllers, in either version of the hierarchy.
fn cgroup_problem(root: &Path) -> Option<String> {
    let needed = ["cpu", "memory", "pids"];
    let v2 = std::fs::read_to_string(root.join("cgroup.controllers")).ok();
    let missing: Vec<&str> = match v2 {
        Some(list) => needed.into_iter().filter(|c| !list.split_whitespace().any(|x| x == *c)).collect(),
        None => needed.into_iter().filter(|c| !root.join(c).join("cgroup.procs").exists()).collect(),
    };
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "the kernel offers no {} cgroup controller under {}: enable it (kernel command line cgroup_enable=…) or mount it",
        missing.join(", "),
        root.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_controllers_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let problem = cgroup_problem(dir.path()).unwrap();
        assert!(problem.contains("cpu, memory, pids"), "{problem}");
        std::fs::write(dir.path().join("cgroup.controllers"), "cpuset cpu io memory\n").unwrap();
        assert!(cgroup_problem(dir.path()).unwrap().contains("no pids"));
        std::fs::write(dir.path().join("cgroup.controllers"), "cpu memory pids\n").unwrap();
        assert_eq!(cgroup_problem(dir.path()), None);
    }
}
