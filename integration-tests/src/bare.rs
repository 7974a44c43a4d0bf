//! An API server on this machine's loopback, without nodes: for tools that bring their own.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use component_base::{http2, kubeconfig};
use ctl::cluster::{Cluster, Options, pki, process};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::{Api, Client};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use crate::binaries;
use crate::cluster::free_port;

/// The API server with its state; dropping it stops every daemon and removes everything.
pub struct Bare {
    pub cluster: Cluster,
    _state: tempfile::TempDir,
}

/// Daemons that may run here.
const DAEMONS: &[&str] = &["kube-controller-manager", "kube-scheduler", "kube-apiserver"];

impl Bare {
    /// Starts an API server that admits pods to the default namespace.
    ///
    /// # Errors
    /// It does not come up.
    pub async fn start() -> anyhow::Result<Self> {
        component_base::process::install_crypto();
        let state = tempfile::Builder::new().prefix("coxswain-bare-").tempdir()?;
        let bin = binaries::folder();
        let cluster = Cluster::new(Options {
            state: state.path().join("cluster"),
            pause: bin.join("pause"),
            busybox: bin.join("pause"),
            binaries: bin,
            nodes: 0,
            port: free_port(),
            slot: 48,
            proxy_mode: "iptables".into(),
            egress: false,
            // There may be more nodes than the range of pods has room for, and none of them has pods with addresses.
            extra_flags: vec![("kube-controller-manager".into(), "--allocate-node-cidrs=false".into())],
            upstream: false,
        })?;
        let out = Self { cluster, _state: state };
        out.cluster.layout.create()?;
        pki::ensure(&out.cluster.layout, 0)?;
        out.cluster.start_api_server().await?;
        // Admission wants the account that a controller would have made.
        let accounts: Api<ServiceAccount> = Api::namespaced(out.client().await?, "default");
        let account = serde_json::from_value(json!({"metadata": {"name": "default"}}))?;
        accounts
            .create(&PostParams::default(), &account)
            .await
            .context("making the default service account")?;
        Ok(out)
    }

    /// A client of its own connection with the administrator's credentials.
    ///
    /// # Errors
    /// The kubeconfig cannot be used.
    pub async fn client(&self) -> anyhow::Result<Client> {
        let config = kubeconfig::config_for(&self.kubeconfig("admin"), "integration-tests").await?;
        http2::client(&config)
    }

    /// The kubeconfig of a user, such as `kube-scheduler`.
    #[must_use]
    pub fn kubeconfig(&self, user: &str) -> std::path::PathBuf {
        self.cluster.layout.kubeconfig(user)
    }

    /// Starts another program as a daemon by this name.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_other(&self, name: &str, program: &Path, flags: &[String]) -> anyhow::Result<()> {
        let mut c = std::process::Command::new(program);
        c.args(flags);
        process::start(&self.cluster.layout, name, c)
    }

    /// The process of a daemon.
    ///
    /// # Errors
    /// It does not run.
    pub fn pid(&self, daemon: &str) -> anyhow::Result<u32> {
        process::pid(&self.cluster.layout, daemon).with_context(|| format!("{daemon} has ended"))
    }

    /// The ends of the logs, for the message of a failure.
    #[must_use]
    pub fn logs(&self) -> String {
        DAEMONS.iter().map(|d| self.cluster.layout.log_tail(d)).collect::<Vec<_>>().join("\n")
    }
}

/// Runs a tool to its end, or until it is interrupted: then it fails, and what it started is stopped.
///
/// # Errors
/// The tool's own, or the interruption.
pub async fn or_interrupted<T>(tool: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        result = tool => result,
        how = told_to_end() => anyhow::bail!("{}", how?),
    }
}

/// Waits for SIGTERM or SIGINT; which it was, in a word.
pub(crate) async fn told_to_end() -> std::io::Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "terminated",
        _ = interrupt.recv() => "interrupted",
    })
}

impl Drop for Bare {
    fn drop(&mut self) {
        for daemon in DAEMONS {
            process::stop(&self.cluster.layout, daemon, Duration::from_secs(10));
        }
    }
}
