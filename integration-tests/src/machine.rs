//! A machine of its own that boots systemd: a container over this machine's files, in which the daemons are
//! installed as an operator would install them, with units, configuration files and certificates.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use ctl::cluster::layout::Layout;
use ctl::cluster::{pki, system_images};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::cluster::{free_slot, options};
use crate::command::{self, Output};
use crate::{binaries, eventually};

/// A booted machine; dropping it removes it.
pub struct Machine {
    root: PathBuf,
    namespace: String,
    nspawn: Child,
    leader: u32,
    _slot: nix::fcntl::Flock<fs::File>,
    _state: tempfile::TempDir,
}

/// Debian's path of the daemons' configuration.
const CONFIG: &str = "etc/kubernetes";
/// The daemons, which are also the names of their units.
pub const DAEMONS: [&str; 5] =
    ["kube-apiserver", "kube-scheduler", "kube-controller-manager", "kubelet", "kube-proxy"];

impl Machine {
    /// Boots a machine with everything installed and nothing of it started.
    ///
    /// # Panics
    /// If a step fails.
    pub fn boot() -> Self {
        component_base::process::install_crypto();
        let (slot, lock) = free_slot();
        let state =
            tempfile::Builder::new().prefix("coxswain-machine-").tempdir().expect("a temporary folder");
        let dir = |name: &str| {
            let d = state.path().join(name);
            fs::create_dir_all(&d).expect("a folder");
            d
        };
        let (upper, work, root) = (dir("upper"), dir("work"), dir("root"));
        let (containerd, kubelet) = (dir("containerd"), dir("kubelet"));
        let layers = format!("lowerdir=/,upperdir={},workdir={}", upper.display(), work.display());
        mount(Some("overlay"), &root, Some("overlay"), MsFlags::empty(), Some(layers.as_str()))
            .expect("an overlay over /");
        let layout = Layout::new(dir("pki"), slot, 6443);
        install(&root, &layout, state.path());
        let namespace = format!("coxsys{slot}");
        make_namespace(&namespace, &layout);
        let log = fs::File::create(state.path().join("console.log")).expect("a log file");
        let mut nspawn = Command::new("systemd-nspawn");
        nspawn
            .env("SYSTEMD_NSPAWN_API_VFS_WRITABLE", "1")
            .args([
                "--quiet",
                "--register=no",
                "--keep-unit",
                "--capability=all",
                "--system-call-filter=@known",
            ])
            .args(["--boot", "--console=pipe", "--link-journal=no"])
            .arg(format!("--directory={}", root.display()))
            .arg(format!("--machine={namespace}"))
            .arg(format!("--network-namespace-path=/run/netns/{namespace}"))
            // Overlays cannot be stacked on an overlay.
            .arg(format!("--bind={}:/var/lib/containerd", containerd.display()))
            .arg(format!("--bind={}:/var/lib/kubelet", kubelet.display()))
            .arg("systemd.unit=multi-user.target")
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log file"))
            .stderr(log);
        let nspawn = nspawn.spawn().expect("systemd-nspawn: apt-get install systemd-container");
        let leader = eventually("the machine's first process", 20, || {
            let children =
                fs::read_to_string(format!("/proc/{0}/task/{0}/children", nspawn.id())).unwrap_or_default();
            children
                .split_whitespace()
                .next()
                .and_then(|p| p.parse().ok())
                .ok_or_else(|| "none yet".to_owned())
        });
        let machine = Self { root, namespace, nspawn, leader, _slot: lock, _state: state };
        eventually("the machine has booted", 60, || {
            let out = machine.run("systemctl", &["is-system-running"]);
            if matches!(out.stdout.trim(), "running" | "degraded") { Ok(()) } else { Err(format!("{out:?}")) }
        });
        // The runtime makes cgroups in the old controllers' hierarchies, which such a machine gets read-only.
        machine.sh("for m in $(findmnt -rn -t cgroup -o TARGET); do mount -o remount,rw,bind $m; done").ok();
        machine
    }

    /// Runs a program in the machine.
    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        let mut c = Command::new("nsenter");
        c.args(["-t", &self.leader.to_string(), "-m", "-p", "-n", "-u", "-i", "--", program]).args(args);
        command::run(c, None)
    }

    /// Runs a shell script in the machine.
    pub fn sh(&self, script: &str) -> Output {
        self.run("sh", &["-ec", script])
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.run("systemctl", &["show", "--value", "-p", name, unit]).stdout.trim().to_owned()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for d in DAEMONS {
                eprintln!("{}", self.run("journalctl", &["-u", d, "-n", "15", "--no-pager", "-q"]).stdout);
            }
        }
        // Ending its first process ends everything in the machine.
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(i32::try_from(self.leader).unwrap_or(i32::MAX)),
            nix::sys::signal::Signal::SIGKILL,
        );
        let _ = self.nspawn.wait();
        let _ = umount2(&self.root, MntFlags::MNT_DETACH);
        command::run(ip(&["netns", "delete", &self.namespace]), None);
    }
}

fn ip(args: &[&str]) -> Command {
    let mut c = Command::new("ip");
    c.args(args);
    c
}

/// The machine's network: nothing but itself, with the addresses of an API server and a node.
fn make_namespace(name: &str, layout: &Layout) {
    command::run(ip(&["netns", "add", name]), None).ok();
    let inside = |args: &[&str]| command::run(ip(&[&["-n", name], args].concat()), None).ok();
    inside(&["link", "set", "lo", "up"]);
    inside(&["link", "add", "eth0", "type", "veth", "peer", "name", "far"]);
    inside(&["link", "set", "far", "up"]);
    inside(&["address", "add", &format!("{}/24", layout.host_ip()), "dev", "eth0"]);
    inside(&["address", "add", &format!("{}/24", layout.node_ip(1)), "dev", "eth0"]);
    inside(&["link", "set", "eth0", "up"]);
    inside(&["route", "add", "default", "dev", "eth0"]);
}

/// Puts binaries, units, certificates and configuration files where an operator puts them.
fn install(root: &Path, layout: &Layout, state: &Path) {
    layout.create().expect("folders");
    pki::ensure(layout, 1).expect("certificates");
    let put = |path: &str, text: &str, mode: u32| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        // Not through a file of the machine below.
        let _ = fs::remove_file(&path);
        ctl::cluster::layout::write(&path, text, mode).expect("a file");
    };
    let read = |p: PathBuf| fs::read_to_string(&p).unwrap_or_else(|e| panic!("{}: {e}", p.display()));
    for d in DAEMONS {
        fs::copy(binaries::folder().join(d), root.join("usr/bin").join(d)).expect("a binary");
        put(
            &format!("etc/systemd/system/{d}.service"),
            &read(binaries::workspace().join(format!("systemd/{d}.service"))),
            0o644,
        );
    }
    fs::copy(binaries::folder().join("ctl"), root.join("usr/bin/ctl")).expect("a binary");
    for e in fs::read_dir(layout.state.join("pki")).expect("certificates").flatten() {
        put(&format!("{CONFIG}/pki/{}", e.file_name().to_string_lossy()), &read(e.path()), 0o600);
    }
    for (user, file) in [
        ("admin", "admin.conf"),
        ("kube-scheduler", "scheduler.conf"),
        ("kube-controller-manager", "controller-manager.conf"),
        ("kubelet-node1", "kubelet.conf"),
        ("kube-proxy", "kube-proxy.conf"),
    ] {
        put(&format!("{CONFIG}/{file}"), &read(layout.kubeconfig(user)), 0o600);
    }
    put(
        &format!("{CONFIG}/kube-proxy.yaml"),
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\nclientConnection: {kubeconfig: /etc/kubernetes/kube-proxy.conf}\nhostnameOverride: node1\nconntrack: {maxPerCore: 0, min: 0}\n",
        0o644,
    );
    put(
        &format!("{CONFIG}/kubelet.yaml"),
        "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\nfailCgroupV1: false\nevictionHard: {memory.available: 100Mi, nodefs.available: 1%, nodefs.inodesFree: 1%, imagefs.available: 1%}\nfailSwapOn: false\nimageGCHighThresholdPercent: 100\ncgroupDriver: cgroupfs\nauthentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: /etc/kubernetes/pki/ca.crt}}\nauthorization: {mode: Webhook}\ntlsCertFile: /etc/kubernetes/pki/kubelet-node1-serving.crt\ntlsPrivateKeyFile: /etc/kubernetes/pki/kubelet-node1-serving.key\ncontainerRuntimeEndpoint: unix:///run/containerd/containerd.sock\n",
        0o644,
    );
    let node = layout.node_ip(1);
    put(
        "etc/default/kubelet",
        &format!("KUBELET_ARGS=--hostname-override=node1 --node-ip={node} --cni-conf-dir=/etc/cni/net.d\n"),
        0o644,
    );
    put(
        "etc/default/kube-apiserver",
        &format!(
            "KUBE_APISERVER_ARGS=--advertise-address={} --service-cluster-ip-range=10.96.0.0/16\n",
            layout.host_ip()
        ),
        0o644,
    );
    put(
        "etc/default/kube-controller-manager",
        &format!(
            "KUBE_CONTROLLER_MANAGER_ARGS=--allocate-node-cidrs=true --cluster-cidr={} --service-cluster-ip-range=10.96.0.0/16\n",
            layout.pod_cidr()
        ),
        0o644,
    );
    put(
        "etc/containerd/config.toml",
        &format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"{}\"\n  restrict_oom_score_adj = true\n  [plugins.\"io.containerd.grpc.v1.cri\".cni]\n    bin_dir = \"/usr/lib/cni\"\n    conf_dir = \"/etc/cni/net.d\"\n",
            system_images::PAUSE
        ),
        0o644,
    );
    let images = system_images::archive(&options(state.join("unused"), layout.slot, layout.port))
        .expect("system images");
    fs::write(root.join("usr/share/coxswain-images.tar"), images).expect("the images");
}
