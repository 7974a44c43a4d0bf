//! Removal of a cluster: pods first, then daemons, then what they left in the kernel, then the files. Every step
//! works on whatever is there, so that a half-made or half-removed cluster can be removed too.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::bail;
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::Options;
use super::layout::Layout;
use super::{network, process};

/// How long a daemon may take to end by itself.
const GRACE: Duration = Duration::from_secs(8);

pub async fn run(options: &Options, layout: &Layout, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("removing a cluster needs root: run it as root, for instance with sudo");
    }
    let _ = options;
    progress("stopping the daemons");
    let daemons = process::known(layout);
    let is_runtime = |d: &String| d.starts_with("containerd-");
    std::thread::scope(|scope| {
        for d in daemons.iter().filter(|d| !is_runtime(d)) {
            scope.spawn(|| process::stop(layout, d, GRACE));
        }
    });
    progress("removing the containers");
    for d in daemons.iter().filter(|d| is_runtime(d)) {
        process::stop(layout, d, GRACE);
    }
    kill_shims(layout);
    progress("removing mounts, cgroups, namespaces and links");
    let mut left = Vec::new();
    left.extend(unmount_below(&layout.state));
    left.extend(unmount_pod_namespaces(layout));
    left.extend(remove_cgroups(layout));
    left.extend(network::remove(layout));
    if left.is_empty()
        && let Err(e) = fs::remove_dir_all(&layout.state)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        left.push(format!("{}: {e}", layout.state.display()));
    }
    if left.is_empty() {
        return Ok(());
    }
    bail!("some of the cluster could not be removed; run it again:\n  - {}", left.join("\n  - "))
}

/// Ends the cluster's containers: everything in its cgroups, and the shims that watch over them, which are known
/// by the address of our containerd in their command line.
fn kill_shims(layout: &Layout) {
    for _ in 0..50 {
        let mut victims = Vec::new();
        for root in cgroup_roots(layout) {
            collect_processes(&root, &mut victims);
        }
        victims.extend(shims(layout));
        if victims.is_empty() {
            return;
        }
        for pid in victims {
            // Gone already, if this fails.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn shims(layout: &Layout) -> Vec<i32> {
    let ours = format!("{}/", layout.state.display());
    let Ok(dir) = fs::read_dir("/proc") else { return Vec::new() };
    dir.filter_map(|e| e.ok()?.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| {
            let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
            let mut args = line.split(|b| *b == 0).map(String::from_utf8_lossy);
            let program = args.next().unwrap_or_default();
            program.contains("containerd-shim")
                && args.any(|a| a.starts_with(&ours) && a.ends_with("/containerd.sock"))
        })
        .collect()
}

/// The folders of the cluster's nodes in every cgroup hierarchy.
fn cgroup_roots(layout: &Layout) -> Vec<std::path::PathBuf> {
    let prefix = format!("{}-", layout.bridge());
    let mut bases = vec![Path::new("/sys/fs/cgroup").to_path_buf()];
    bases.extend(
        fs::read_dir("/sys/fs/cgroup")
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.path())
            .filter(|p| p.is_dir()),
    );
    let mut roots = Vec::new();
    for base in bases {
        for e in fs::read_dir(&base).into_iter().flatten().flatten() {
            if e.file_name().to_string_lossy().starts_with(&prefix) && e.path().is_dir() {
                roots.push(e.path());
            }
        }
    }
    roots
}

fn collect_processes(cgroup: &Path, out: &mut Vec<i32>) {
    let procs = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    out.extend(procs.lines().filter_map(|l| l.parse::<i32>().ok()));
    for e in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if e.path().is_dir() {
            collect_processes(&e.path(), out);
        }
    }
}

fn remove_cgroups(layout: &Layout) -> Vec<String> {
    let mut left = Vec::new();
    for root in cgroup_roots(layout) {
        // The kernel may need a moment after the last process went.
        for attempt in 0..20 {
            match remove_cgroup(&root) {
                Ok(()) => break,
                Err(e) if attempt == 19 => left.push(format!("cgroup {}: {e}", root.display())),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        }
    }
    left
}

fn remove_cgroup(dir: &Path) -> std::io::Result<()> {
    for e in fs::read_dir(dir)?.flatten() {
        if e.path().is_dir() {
            remove_cgroup(&e.path())?;
        }
    }
    fs::remove_dir(dir)
}

/// Every mount point for which `ours` holds, deepest first.
fn unmount(ours: impl Fn(&str) -> bool) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut points: Vec<String> =
        text.lines().filter_map(|l| l.split(' ').nth(4)).map(unescape).filter(|p| ours(p)).collect();
    points.reverse();
    let mut left = Vec::new();
    for p in points {
        if let Err(e) = umount2(p.as_str(), MntFlags::MNT_DETACH) {
            left.push(format!("mount {p}: {e}"));
        }
    }
    left
}

fn unmount_below(state: &Path) -> Vec<String> {
    let prefix = format!("{}/", state.display());
    unmount(|p| p.starts_with(&prefix))
}

/// Pods' network namespaces are mounted outside the state folder; containerd's records say which are ours.
fn unmount_pod_namespaces(layout: &Layout) -> Vec<String> {
    let mut left = Vec::new();
    for namespace in recorded_namespaces(layout) {
        left.extend(unmount(|p| {
            p == namespace || p == format!("/run/netns/{}", namespace.rsplit('/').next().unwrap_or_default())
        }));
        // Not there when the runtime removed it itself.
        let _ = fs::remove_file(&namespace);
    }
    left
}

/// The network namespaces of the pods that were left. The OCI bundle of a running sandbox names its own; of one that was
/// being stopped there is no bundle any more, but containerd still has its record.
fn recorded_namespaces(layout: &Layout) -> Vec<String> {
    let below =
        |dir: &Path| fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect::<Vec<_>>();
    let mut found = Vec::new();
    for node in below(&layout.state) {
        for bundle in below(&node.join("run/io.containerd.runtime.v2.task/k8s.io")) {
            found.extend(named_in(&bundle.join("config.json")));
        }
        found.extend(named_in(&node.join("containerd/io.containerd.metadata.v1.bolt/meta.db")));
    }
    found.sort();
    found.dedup();
    found
}

/// The network namespaces of pods whose paths are somewhere in a file.
fn named_in(file: &Path) -> Vec<String> {
    const BEFORE: &[u8] = b"/netns/cni-";
    let bytes = fs::read(file).unwrap_or_default();
    let ends = bytes.windows(BEFORE.len()).enumerate().filter(|(_, w)| *w == BEFORE);
    let names = ends.filter_map(|(at, _)| {
        let name = bytes[at + BEFORE.len()..].iter().take_while(|b| b.is_ascii_hexdigit() || **b == b'-');
        let name: String = name.map(|b| char::from(*b)).collect();
        // What is cut off, or written over, is no name.
        (name.len() == 36).then(|| format!("/var/run/netns/cni-{name}"))
    });
    names.collect()
}

fn unescape(path: &str) -> String {
    path.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_found_among_other_bytes() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("meta.db");
        let (whole, cut) = ("14dd2c28-5566-9545-c582-9b606f7dbeb0", "14dd2c28-5566");
        let text =
            format!("\0\u{1}\"NetNSPath\":\"/var/run/netns/cni-{whole}\",\u{2}/netns/cni-{cut}\0/netns/cni-");
        fs::write(&file, text).expect("written");
        assert_eq!(named_in(&file), [format!("/var/run/netns/cni-{whole}")]);
        assert!(named_in(&dir.path().join("none")).is_empty());
    }
}
