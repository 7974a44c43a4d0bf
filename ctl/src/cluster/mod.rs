//! A whole cluster on this machine (`ctl up`): the control plane's daemons as processes of the host, each node a
//! network namespace with its own containerd, kubelet and kube-proxy, all joined by one bridge. What the integration
//! tests boot is the same thing.
//!
//! Everything lives under one state folder; [`Cluster::down`] leaves nothing of it: no process, mount, namespace,
//! link, cgroup or rule.
//!
//! - [`layout`]: the state folder's paths and the addresses of a cluster.
//! - [`preflight`]: what must be there before anything is started.
//! - [`pki`]: authorities, certificates, kubeconfigs.
//! - [`network`]: bridge, namespaces, routes, the way out.
//! - [`process`]: starting, finding again and stopping daemons.
//! - [`control_plane`], [`node`]: command lines and configuration files.
//! - [`system_images`]: the images that are built here.
//! - [`teardown`]: taking everything away again.

pub mod control_plane;
pub mod layout;
pub mod network;
pub mod node;
pub mod pki;
pub mod preflight;
pub mod process;
pub mod system_images;
pub mod teardown;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use k8s_openapi::api::core::v1::Node;
use kube::{Api, Client};

use layout::Layout;

/// What cluster to make.
#[derive(Debug, Clone)]
pub struct Options {
    /// Folder that holds everything; made if absent.
    pub state: PathBuf,
    /// Folder with the daemons' binaries.
    pub binaries: PathBuf,
    /// Static pause binary.
    pub pause: PathBuf,
    /// Static busybox binary.
    pub busybox: PathBuf,
    pub nodes: u32,
    /// Port of the API server on the host.
    pub port: u16,
    /// Distinguishes clusters on one machine (0–99): picks bridge name, node network and pod range.
    pub slot: u8,
    /// `iptables` or `nftables`.
    pub proxy_mode: String,
    /// Lets nodes reach what the host reaches, by address translation on the host.
    pub egress: bool,
    /// More flags per daemon: (`kubelet`, `--v=4`).
    pub extra_flags: Vec<(String, String)>,
    /// The binaries are upstream's: flags of our own are left out.
    pub upstream: bool,
}

/// A cluster of this machine.
pub struct Cluster {
    pub options: Options,
    pub layout: Layout,
}

/// How long the API server may take until it is ready.
const API_SERVER_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the nodes may take until they are Ready.
const NODES_TIMEOUT: Duration = Duration::from_secs(60);

impl Cluster {
    pub fn new(options: Options) -> anyhow::Result<Self> {
        let state = std::path::absolute(&options.state).context("state folder")?;
        let layout = Layout::new(state, options.slot, options.port);
        Ok(Self { options, layout })
    }

    /// Brings everything up; what already runs is left alone. `progress` hears of every step.
    ///
    /// # Errors
    /// Says which step failed and what to do; a daemon that ended shows the end of its log.
    pub async fn up(&self, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
        preflight::check(&self.options, &self.layout)?;
        self.layout.create()?;
        self.options.save(&self.layout)?;
        progress("certificates and kubeconfigs");
        pki::ensure(&self.layout, self.options.nodes)?;
        progress("network namespaces");
        network::ensure(&self.options, &self.layout)?;
        progress("containerd");
        let archive = system_images::archive(&self.options)?;
        for n in 1..=self.options.nodes {
            node::start_containerd(&self.options, &self.layout, n).await?;
            crate::image::import::import(&self.layout.containerd_socket(n), &archive[..])
                .await
                .context("importing the system images")?;
        }
        progress("kube-apiserver");
        self.start_api_server().await?;
        progress("kube-scheduler, kube-controller-manager, kubelet, kube-proxy");
        control_plane::start_scheduler(&self.options, &self.layout)?;
        control_plane::start_controller_manager(&self.options, &self.layout)?;
        for n in 1..=self.options.nodes {
            node::start_kubelet(&self.options, &self.layout, n)?;
            node::start_proxy(&self.options, &self.layout, n)?;
        }
        progress("waiting for nodes to be Ready");
        self.wait_for_nodes().await
    }

    /// Starts the API server if it does not run, and waits until it is ready.
    pub async fn start_api_server(&self) -> anyhow::Result<()> {
        control_plane::start_api_server(&self.options, &self.layout)?;
        let client = self.client().await?;
        let deadline = Instant::now() + API_SERVER_TIMEOUT;
        loop {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            let Err(e) = client.request_text(request).await else { return Ok(()) };
            process::ensure_alive(&self.layout, "kube-apiserver")?;
            if Instant::now() > deadline {
                bail!(
                    "kube-apiserver is not ready after {API_SERVER_TIMEOUT:?}: {e}\n{}",
                    self.layout.log_tail("kube-apiserver")
                );
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until every node is Ready, and the routes to its pods are set.
    pub async fn wait_for_nodes(&self) -> anyhow::Result<()> {
        let nodes: Api<Node> = Api::all(self.client().await?);
        let deadline = Instant::now() + NODES_TIMEOUT;
        for n in 1..=self.options.nodes {
            let name = self.layout.node_name(n);
            loop {
                let node = nodes.get_opt(&name).await.with_context(|| format!("reading node {name}"))?;
                let cidr = node.as_ref().and_then(|x| x.spec.as_ref()?.pod_cidr.clone());
                if let Some(cidr) = cidr
                    && node.as_ref().is_some_and(ready)
                {
                    network::route_to_pods(&self.options, &self.layout, n, &cidr)?;
                    break;
                }
                for daemon in ["kubelet", "containerd"] {
                    process::ensure_alive(&self.layout, &format!("{daemon}-{name}"))?;
                }
                process::ensure_alive(&self.layout, "kube-controller-manager")?;
                if Instant::now() > deadline {
                    let why = node.as_ref().map_or("it has not registered".into(), not_ready_reason);
                    bail!(
                        "node {name} is not Ready after {NODES_TIMEOUT:?}: {why}\n{}",
                        self.layout.log_tail(&format!("kubelet-{name}"))
                    );
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        Ok(())
    }

    /// A client with the administrator's credentials.
    pub async fn client(&self) -> anyhow::Result<Client> {
        component_base::kubeconfig::client(&self.layout.kubeconfig("admin"), "ctl").await
    }

    /// Removes the cluster with everything it made on this machine. Safe to repeat.
    ///
    /// # Errors
    /// Lists what could not be removed.
    pub async fn down(&self, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
        teardown::run(&self.options, &self.layout, progress).await
    }
}

fn ready(node: &Node) -> bool {
    condition(node).is_some_and(|c| c.status == "True")
}

fn condition(node: &Node) -> Option<&k8s_openapi::api::core::v1::NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "Ready")
}

fn not_ready_reason(node: &Node) -> String {
    let cidr = node.spec.as_ref().and_then(|s| s.pod_cidr.as_deref());
    let message = condition(node)
        .and_then(|c| c.message.clone())
        .unwrap_or_else(|| "it reports no Ready condition".into());
    format!("{message} (podCIDR {})", cidr.unwrap_or("not assigned"))
}

impl Options {
    /// Remembers the options, so that `down` and a later `up` know what was made.
    fn save(&self, layout: &Layout) -> anyhow::Result<()> {
        let value = serde_json::json!({
            "nodes": self.nodes, "port": self.port, "slot": self.slot, "proxyMode": self.proxy_mode, "egress": self.egress,
            "binaries": self.binaries, "pause": self.pause, "busybox": self.busybox,
        });
        layout::write(&layout.options_file(), &value.to_string(), 0o644)
    }

    /// Takes over what the state folder remembers, if there is any.
    pub fn restore(&mut self) {
        let Ok(text) = std::fs::read_to_string(self.state.join("cluster.json")) else { return };
        let Ok(v) = serde_json::from_str::<serde_json::Value>(&text) else { return };
        let number = |k: &str| v[k].as_u64();
        if let (Some(nodes), Some(port), Some(slot)) = (number("nodes"), number("port"), number("slot")) {
            self.nodes = u32::try_from(nodes).unwrap_or(1);
            self.port = u16::try_from(port).unwrap_or(self.port);
            self.slot = u8::try_from(slot).unwrap_or(0);
        }
        self.proxy_mode = v["proxyMode"].as_str().unwrap_or(&self.proxy_mode).to_owned();
        self.egress = v["egress"].as_bool().unwrap_or(self.egress);
    }
}
