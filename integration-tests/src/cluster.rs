//! One cluster per test.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Command;
use std::sync::Arc;

use ctl::cluster::{Cluster, Options, control_plane, node, process};
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;
use tokio::sync::oneshot;

use crate::bare::told_to_end;
use crate::command::{self, Output};
use crate::{binaries, eventually};

/// What cluster a test wants.
#[derive(Debug, Clone)]
pub struct Config {
    pub nodes: u32,
    pub proxy_mode: &'static str,
    /// (`kubelet`, `--v=4`)
    pub extra_flags: Vec<(String, String)>,
}

impl Default for Config {
    fn default() -> Self {
        Self { nodes: 1, proxy_mode: "iptables", extra_flags: Vec::new() }
    }
}

/// A running cluster; dropping it removes everything.
pub struct TestCluster {
    cluster: Arc<Cluster>,
    /// Dropped with the cluster: nobody waits for signals then.
    _watched: oneshot::Sender<()>,
    runtime: tokio::runtime::Runtime,
    /// Keeps other tests off this cluster's names and addresses.
    _slot: Flock<File>,
    _state: tempfile::TempDir,
}

impl TestCluster {
    /// Boots a cluster of one node.
    pub fn start() -> Self {
        Self::with(Config::default())
    }

    /// Boots a cluster and waits until its nodes are Ready and the default namespace has its service account.
    ///
    /// # Panics
    /// If it does not come up: the failing step and the end of its log are in the message.
    pub fn with(config: Config) -> Self {
        // Ports are found free and used a moment later; another program may have taken one in between.
        Self::boot(config.clone()).unwrap_or_else(|e| {
            eprintln!("{e}\nbooting once more");
            Self::boot(config).unwrap_or_else(|e| panic!("{e}"))
        })
    }

    fn boot(config: Config) -> Result<Self, String> {
        component_base::process::install_crypto();
        let (slot, lock) = free_slot();
        let state = tempfile::Builder::new().prefix("coxswain-test-").tempdir().expect("a temporary folder");
        let options = Options {
            nodes: config.nodes,
            proxy_mode: config.proxy_mode.into(),
            extra_flags: config.extra_flags,
            ..options(state.path().join("cluster"), slot, free_port())
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let cluster = Arc::new(Cluster::new(options).expect("options of a cluster"));
        let watched = remove_when_told(cluster.clone());
        let c = Self { cluster, _watched: watched, runtime, _slot: lock, _state: state };
        if let Err(e) = c.runtime.block_on(c.cluster.up(&|_| {})) {
            return Err(format!("the cluster does not come up: {e:#}\n{}", c.logs()));
        }
        eventually("the default service account", 20, || {
            let out = c.ctl(&["get", "serviceaccount", "default", "-o", "name"]);
            if out.code == 0 { Ok(()) } else { Err(out.stderr) }
        });
        Ok(c)
    }

    /// Our own command line, as the administrator.
    pub fn ctl(&self, args: &[&str]) -> Output {
        self.ctl_with_input(args, None)
    }

    /// As [`Self::ctl`], with standard input: for `-f -`.
    pub fn ctl_with_input(&self, args: &[&str], stdin: Option<&str>) -> Output {
        let mut c = Command::new(self.cluster.options.binaries.join("ctl"));
        c.arg("--kubeconfig").arg(self.cluster.layout.kubeconfig("admin")).args(args);
        command::run(c, stdin)
    }

    /// Upstream's command line; `which` as [`binaries::kubectl`] takes it.
    pub fn kubectl(&self, which: &str, args: &[&str], stdin: Option<&str>) -> Output {
        let mut c = Command::new(binaries::kubectl(which));
        c.arg("--kubeconfig").arg(self.cluster.layout.kubeconfig("admin")).args(args);
        // A cache of its own: discovery of another test's cluster may be of another state.
        c.arg("--cache-dir").arg(self.cluster.layout.state.join("kubectl-cache"));
        command::run(c, stdin)
    }

    /// Creates what a manifest says.
    #[track_caller]
    pub fn create(&self, manifest: &str) {
        self.ctl_with_input(&["create", "-f", "-"], Some(manifest)).ok();
    }

    /// The value of a JSONPath on an object; empty if it is not there.
    pub fn field(&self, object: &str, path: &str) -> String {
        self.ctl(&["get", object, "-o", &format!("jsonpath={path}")]).stdout
    }

    /// Waits until a JSONPath on an object has this value.
    #[track_caller]
    pub fn wait_field(&self, object: &str, path: &str, value: &str, seconds: u64) {
        eventually(&format!("{object} {path} = {value}"), seconds, || {
            let out = self.ctl(&["get", object, "-o", &format!("jsonpath={path}")]);
            if out.code == 0 && out.stdout == value {
                return Ok(());
            }
            let details = self.ctl(&["describe", object]);
            Err(format!("it is {:?} {}\n{}", out.stdout, out.stderr, details.stdout))
        });
    }

    /// Waits until a pod is Ready.
    #[track_caller]
    pub fn wait_ready(&self, pod: &str, seconds: u64) {
        self.wait_field(
            &format!("pod/{pod}"),
            r#"{.status.conditions[?(@.type=="Ready")].status}"#,
            "True",
            seconds,
        );
    }

    /// A client nobody here wrote.
    pub fn client(&self) -> kube::Client {
        self.runtime.block_on(self.cluster.client()).expect("a client")
    }

    /// Runs a future to its end.
    pub fn block_on<F: Future>(&self, f: F) -> F::Output {
        self.runtime.block_on(f)
    }

    pub fn layout(&self) -> &ctl::cluster::layout::Layout {
        &self.cluster.layout
    }

    /// `kube-apiserver`, `kube-scheduler`, `kube-controller-manager`, `kubelet-node1`, `kube-proxy-node1`.
    ///
    /// # Panics
    /// If it does not run.
    #[track_caller]
    pub fn pid(&self, daemon: &str) -> u32 {
        process::pid(&self.cluster.layout, daemon)
            .unwrap_or_else(|| panic!("{daemon} does not run: {}", self.cluster.layout.log_tail(daemon)))
    }

    /// Sends a signal to a daemon and, for a killing one, waits until it is gone.
    #[track_caller]
    pub fn signal(&self, daemon: &str, signal: Signal) {
        self.pid(daemon);
        process::signal(&self.cluster.layout, daemon, signal);
        if matches!(signal, Signal::SIGKILL | Signal::SIGTERM) {
            eventually(&format!("{daemon} ends"), 20, || {
                if process::running(&self.cluster.layout, daemon) {
                    Err("it still runs".into())
                } else {
                    Ok(())
                }
            });
        }
    }

    /// Starts the API server if it does not run, and waits until it is ready.
    pub fn start_api_server(&self) {
        self.block_on(self.cluster.start_api_server()).expect("kube-apiserver starts");
    }

    /// Starts whatever daemon does not run.
    pub fn start_daemons(&self) {
        let (o, l) = (&self.cluster.options, &self.cluster.layout);
        self.start_api_server();
        control_plane::start_scheduler(o, l).expect("kube-scheduler starts");
        control_plane::start_controller_manager(o, l).expect("kube-controller-manager starts");
        for n in 1..=o.nodes {
            node::start_kubelet(o, l, n).expect("kubelet starts");
            node::start_proxy(o, l, n).expect("kube-proxy starts");
        }
    }

    /// Kills a daemon of the control plane or of the first node and starts the one of another folder in its place:
    /// `upstream`'s, or with none our own again.
    #[track_caller]
    pub fn exchange(&self, daemon: &str, upstream: Option<&Path>) {
        self.signal(daemon, Signal::SIGKILL);
        let mut options = self.cluster.options.clone();
        if let Some(folder) = upstream {
            options.binaries = folder.to_owned();
            options.upstream = true;
        }
        let (o, l) = (&options, &self.cluster.layout);
        let started = match daemon {
            "kube-scheduler" => control_plane::start_scheduler(o, l),
            "kube-controller-manager" => control_plane::start_controller_manager(o, l),
            "kubelet-node1" => node::start_kubelet(o, l, 1),
            "kube-proxy-node1" => node::start_proxy(o, l, 1),
            other => panic!("{other} cannot be exchanged"),
        };
        started.unwrap_or_else(|e| panic!("{daemon}: {e:#}"));
    }

    /// A command inside a node's network namespace.
    pub fn on_node(&self, n: u32, program: &str, args: &[&str]) -> Output {
        let mut c = process::in_namespace(&self.cluster.layout.namespace(n), program.as_ref());
        c.args(args);
        command::run(c, None)
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let mut names = process::known(&self.cluster.layout);
        names.sort();
        names.iter().map(|d| self.cluster.layout.log_tail(d)).collect::<Vec<_>>().join("\n")
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
            if std::env::var_os("COXSWAIN_KEEP").is_some() {
                eprintln!("kept: {}", self.cluster.layout.state.display());
                return;
            }
        }
        if let Err(e) = self.runtime.block_on(self.cluster.down(&|_| {})) {
            // A test that leaves something behind has failed.
            assert!(std::thread::panicking(), "the cluster could not be removed: {e:#}");
            eprintln!("the cluster could not be removed: {e:#}");
        }
    }
}

/// A test or tool that is told to end takes its cluster with it, as long as what is returned is not dropped.
fn remove_when_told(cluster: Arc<Cluster>) -> oneshot::Sender<()> {
    let (watched, over) = oneshot::channel::<()>();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut told = pin!(told_to_end());
            let runs = tokio::select! {
                _ = over => false,
                how = &mut told => how.map(|_| true).expect("handlers of SIGTERM and SIGINT"),
            };
            if runs {
                if let Err(e) = cluster.down(&|_| {}).await {
                    eprintln!("the cluster could not be removed: {e:#}");
                }
                let _ = std::fs::remove_dir_all(&cluster.layout.state);
            } else {
                // The handlers are all that ends the process from now on.
                told.await.expect("handlers of SIGTERM and SIGINT");
            }
            std::process::exit(1);
        });
    });
    watched
}

/// Options of a cluster of one node with the built binaries.
pub(crate) fn options(state: PathBuf, slot: u8, port: u16) -> Options {
    let bin = binaries::folder();
    Options {
        state,
        pause: bin.join("pause"),
        binaries: bin,
        busybox: busybox(),
        nodes: 1,
        port,
        slot,
        proxy_mode: "iptables".into(),
        egress: false,
        extra_flags: Vec::new(),
        upstream: false,
    }
}

/// A slot that no other test process uses. Slots below 50 are left to people.
pub(crate) fn free_slot() -> (u8, Flock<File>) {
    loop {
        for slot in 50..99 {
            let path = std::env::temp_dir().join(format!("coxswain-slot-{slot}.lock"));
            let file = File::create(&path).expect("a lock file");
            if let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) {
                return (slot, lock);
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

fn busybox() -> PathBuf {
    let found = ["/bin/busybox", "/usr/bin/busybox"].iter().map(PathBuf::from).find(|p| p.exists());
    found.expect("busybox: apt-get install busybox-static")
}
