//! Debian's etcd as it comes, but for a larger quota.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use integration_tests::cluster::free_port;
use store::Store;
use store::etcd::{Config, Etcd};

/// Connections for all clients together: etcd must not wait for one connection's turn.
const CONNECTIONS: usize = 8;
const PATIENCE: Duration = Duration::from_secs(30);

/// The processes; killed with signal 9 when dropped.
pub struct Servers(Vec<(String, Child)>);

/// Starts so many members of a cluster and waits until they answer. `COXSWAIN_ETCD` names another program.
pub async fn start(dir: &Path, members: usize) -> anyhow::Result<Servers> {
    let program = std::env::var_os("COXSWAIN_ETCD").unwrap_or_else(|| "etcd".into());
    let mut urls = Vec::new();
    for _ in 0..members {
        let url = || format!("http://127.0.0.1:{}", free_port());
        urls.push((url(), url()));
    }
    let cluster: Vec<_> = urls.iter().enumerate().map(|(i, (_, peer))| format!("m{i}={peer}")).collect();
    let mut servers = Servers(Vec::new());
    for (i, (client, peer)) in urls.into_iter().enumerate() {
        let child = Command::new(&program)
            .arg(format!("--name=m{i}"))
            .arg(format!("--data-dir={}", dir.join(format!("m{i}")).display()))
            .arg(format!("--initial-cluster={}", cluster.join(",")))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .args(["--quota-backend-bytes=8589934592", "--log-level=error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting etcd: scripts/install-test-tools")?;
        servers.0.push((client, child));
    }
    let deadline = Instant::now() + PATIENCE;
    for (url, _) in &servers.0 {
        while let Err(e) = Etcd::connect(settings(vec![url.clone()])).await {
            if Instant::now() > deadline {
                bail!("etcd does not answer: {e}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Ok(servers)
}

fn settings(servers: Vec<String>) -> Config {
    Config { compaction_interval: Duration::ZERO, ..Config::new(servers) }
}

impl Servers {
    /// Connections, spread over the members.
    pub async fn stores(&self) -> anyhow::Result<Vec<Arc<dyn Store>>> {
        let mut stores: Vec<Arc<dyn Store>> = Vec::new();
        for i in 0..CONNECTIONS.max(self.0.len()) {
            let (url, _) = &self.0[i % self.0.len()];
            stores.push(Etcd::connect(settings(vec![url.clone()])).await?);
        }
        Ok(stores)
    }

    /// The first member's process id.
    pub fn first(&self) -> anyhow::Result<u32> {
        self.0.first().map(|(_, child)| child.id()).context("no member")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for (_, child) in &mut self.0 {
            // If it has ended already, there is nothing to kill.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
