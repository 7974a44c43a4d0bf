//! `ctl up` and `ctl down`: a cluster on this machine in one command, and its removal.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use indicatif::{ProgressBar, ProgressStyle};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{LogParams, PostParams};
use kube::{Api, Client};

use crate::cluster::{Cluster, Options};

#[derive(Debug, clap::Args)]
pub struct Up {
    #[command(flatten)]
    place: Place,
    /// Number of nodes
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=50))]
    nodes: u32,
    /// Port of the API server on this machine
    #[arg(long, default_value_t = 6443)]
    port: u16,
    /// Number that keeps several clusters on one machine apart
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=99))]
    slot: u8,
    /// How kube-proxy writes its rules
    #[arg(long, default_value = "iptables", value_parser = ["iptables", "nftables"])]
    proxy_mode: String,
    /// Let nodes reach what this machine reaches (image registries, for one)
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    egress: bool,
    /// Static busybox binary for the demo image
    #[arg(long, default_value = "/bin/busybox", value_name = "FILE")]
    busybox: PathBuf,
    /// Pod to create when the node is Ready
    #[arg(long, default_value = "examples/pod.yaml", value_name = "FILE")]
    demo: PathBuf,
    /// Create no pod
    #[arg(long)]
    no_demo: bool,
}

#[derive(Debug, clap::Args)]
pub struct Down {
    #[command(flatten)]
    place: Place,
}

/// Where the cluster is kept.
#[derive(Debug, clap::Args)]
struct Place {
    /// Folder that holds everything of the cluster
    #[arg(long, default_value = ".cluster", value_name = "DIR")]
    state: PathBuf,
    /// Folder with the daemons' binaries; by default that of this program
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
}

impl Place {
    fn binaries(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.binaries {
            return Ok(dir.clone());
        }
        let me = std::env::current_exe().context("finding this program's folder")?;
        Ok(me.parent().map(Path::to_path_buf).unwrap_or_default())
    }
}

/// How long the demo pod may take to run.
const DEMO_TIMEOUT: Duration = Duration::from_secs(30);

impl Up {
    pub async fn run(self) -> anyhow::Result<()> {
        let binaries = self.place.binaries()?;
        let cluster = Cluster::new(Options {
            state: self.place.state.clone(),
            pause: binaries.join("pause"),
            binaries,
            busybox: self.busybox,
            nodes: self.nodes,
            port: self.port,
            slot: self.slot,
            proxy_mode: self.proxy_mode,
            egress: self.egress,
            extra_flags: Vec::new(),
            upstream: false,
        })?;
        let progress = Progress::new();
        cluster.up(&|step| progress.step(step)).await?;
        progress.done("the node is Ready");
        let kubeconfig = cluster.layout.kubeconfig("admin");
        if !self.no_demo {
            demo(&cluster.client().await?, &self.demo).await?;
        }
        println!(
            "\nThe cluster is up. Try:\n  export KUBECONFIG={}\n  ctl get pods -A -o wide        (kubectl works as well)\n  ctl create -f examples/deployment.yaml\n  ctl exec -it hello -- sh\n  make down                      removes everything",
            kubeconfig.display()
        );
        Ok(())
    }
}

impl Down {
    pub async fn run(self) -> anyhow::Result<()> {
        let binaries = self.place.binaries()?;
        if !self.place.state.exists() {
            println!("there is no cluster at {}", self.place.state.display());
            return Ok(());
        }
        let mut options = Options {
            state: self.place.state.clone(),
            pause: binaries.join("pause"),
            binaries,
            busybox: PathBuf::new(),
            nodes: 1,
            port: 6443,
            slot: 0,
            proxy_mode: "iptables".into(),
            egress: false,
            extra_flags: Vec::new(),
            upstream: false,
        };
        options.restore();
        let progress = Progress::new();
        Cluster::new(options)?.down(&|step| progress.step(step)).await?;
        progress.done("the cluster is removed");
        Ok(())
    }
}

/// Creates the pod of `file` unless it exists, waits until it runs, and shows its state and log.
async fn demo(client: &Client, file: &Path) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let pod: Pod = serde_yaml::from_str(&text).with_context(|| format!("{} holds no pod", file.display()))?;
    let name =
        pod.metadata.name.clone().with_context(|| format!("the pod of {} has no name", file.display()))?;
    let pods: Api<Pod> = match pod.metadata.namespace.as_deref() {
        Some(ns) => Api::namespaced(client.clone(), ns),
        None => Api::namespaced(client.clone(), "default"),
    };
    println!("$ ctl create -f {}", file.display());
    let started = Instant::now();
    // The default service account of a new namespace appears a moment after the namespace.
    loop {
        match pods.create(&PostParams::default(), &pod).await {
            Ok(_) => {
                println!("pod/{name} created");
                break;
            }
            Err(kube::Error::Api(e)) if e.is_already_exists() => {
                println!("pod/{name} is there already");
                break;
            }
            Err(kube::Error::Api(e)) if e.is_forbidden() && started.elapsed() < DEMO_TIMEOUT => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(e) => return Err(e).with_context(|| format!("creating pod {name}")),
        }
    }
    let created = Instant::now();
    let is_running =
        |p: Option<&Pod>| p.and_then(|p| p.status.as_ref()?.phase.clone()).is_some_and(|x| x == "Running");
    let wait = kube::runtime::wait::await_condition(pods.clone(), &name, is_running);
    let running = tokio::time::timeout(DEMO_TIMEOUT, wait).await;
    let Ok(waited) = running else {
        let pod = pods.get(&name).await?;
        let status = serde_yaml::to_string(&pod.status).unwrap_or_default();
        bail!("pod {name} does not run after {DEMO_TIMEOUT:?}; its status:\n{status}");
    };
    waited.with_context(|| format!("watching pod {name}"))?;
    println!("pod/{name} is Running after {} ms", created.elapsed().as_millis());
    // The first line may come a moment after the start.
    tokio::time::sleep(Duration::from_millis(300)).await;
    println!("$ ctl logs {name}");
    let log = pods.logs(&name, &LogParams { tail_lines: Some(5), ..LogParams::default() }).await;
    print!("{}", log.with_context(|| format!("reading the log of pod {name}"))?);
    Ok(())
}

/// A spinner on a terminal, plain lines elsewhere.
struct Progress {
    bar: ProgressBar,
    started: Instant,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {msg}") {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(100));
        Self { bar, started: Instant::now() }
    }

    fn step(&self, what: &str) {
        if self.bar.is_hidden() {
            println!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
        } else {
            self.bar.set_message(what.to_owned());
        }
    }

    fn done(&self, what: &str) {
        self.bar.finish_and_clear();
        println!("[{:5.1} s] {what}", self.started.elapsed().as_secs_f64());
    }
}
