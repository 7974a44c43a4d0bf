//! The process: flags to server. It is here and not in `main.rs` because async code is compiled into whatever awaits
//! it first: awaited in the program, nearly everything would be compiled a second time, at every link.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::process::{self, Shutdown};

use crate::config::Flags;
use crate::server::Server;
use crate::store::embedded::{Config, Engine};
use crate::store::etcd::{self, Etcd};
use crate::store::{Store, StoreError};

/// How long the start waits for an etcd that does not answer yet.
const ETCD_PATIENCE: Duration = Duration::from_secs(20);
const ETCD_PAUSE: Duration = Duration::from_millis(500);

/// Runs the API server as the process's flags say, until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let (flags, unused) = Flags::of_process();
    process::run("kube-apiserver", &flags.logs.clone(), move |shutdown| async move {
        component_base::flags::warn(&unused);
        flags.check()?;
        let Some(store) = open(&flags, &shutdown).await? else { return Ok(()) };
        let build = Server::build(&flags, Arc::clone(&store), &shutdown);
        if let Some(server) = shutdown.run_until_cancelled(build).await.transpose()? {
            server.run(shutdown, process::ready).await?;
        }
        store.close().await.context("closing the store")
    })
}

/// Waits for an etcd that may be started at the same time.
async fn connect(config: etcd::Config) -> anyhow::Result<Arc<dyn Store>> {
    let end = Instant::now() + ETCD_PATIENCE;
    loop {
        match Etcd::connect(config.clone()).await {
            Ok(store) => return Ok(store),
            Err(e @ StoreError::Unavailable(_)) if Instant::now() < end => {
                tracing::warn!(error = %e, "etcd cannot be reached yet");
                tokio::time::sleep(ETCD_PAUSE).await;
            }
            Err(e) => return Err(e.into()),
        }
    }
}

/// etcd where there is one, the embedded store otherwise. Each may have to wait for others, for long: none if the
/// process is told to stop meanwhile.
async fn open(flags: &Flags, shutdown: &Shutdown) -> anyhow::Result<Option<Arc<dyn Store>>> {
    if let Some(config) = flags.etcd.config(&flags.etcd_servers) {
        let connected = shutdown.run_until_cancelled(connect(config)).await.transpose();
        return connected.with_context(|| format!("--etcd-servers={}", flags.etcd_servers.join(",")));
    }
    let dir = flags.data_dir.clone();
    std::fs::create_dir_all(&dir).with_context(|| format!("--data-dir: making {}", dir.display()))?;
    let config = Config {
        retention_seconds: flags.store.store_history_retention.0.as_secs(),
        lease_reads: flags.store.store_lease_reads,
        ..Config::new(&dir)
    };
    let opening = || format!("opening the store in {}", dir.display());
    let Some(group) = flags.store.group()? else {
        let open = tokio::task::spawn_blocking(move || Engine::open(config));
        let Some(opened) = shutdown.run_until_cancelled(open).await else { return Ok(None) };
        return Ok(Some(opened?.with_context(opening)?));
    };
    let open = shutdown.run_until_cancelled(Engine::open_group(config, group)).await;
    let Some(engine) = open.transpose().with_context(opening)? else { return Ok(None) };
    match shutdown.run_until_cancelled(engine.ready()).await {
        Some(ready) => ready?,
        None => {
            engine.close().await.context("closing the store")?;
            return Ok(None);
        }
    }
    Ok(Some(engine))
}
