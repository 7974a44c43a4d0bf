//! The process: flags to server. It is here and not in `main.rs` because async code is compiled into whatever awaits
//! it first: awaited in the program, nearly everything would be compiled a second time, at every link.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use component_base::process;

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
        let store = open(&flags).await?;
        let server = Server::build(&flags, Arc::clone(&store), &shutdown).await?;
        server.run(shutdown, process::ready).await?;
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

/// etcd where there is one, the embedded store otherwise.
async fn open(flags: &Flags) -> anyhow::Result<Arc<dyn Store>> {
    if let Some(config) = flags.etcd.config(&flags.etcd_servers) {
        return connect(config)
            .await
            .with_context(|| format!("--etcd-servers={}", flags.etcd_servers.join(",")));
    }
    let dir = flags.data_dir.clone();
    std::fs::create_dir_all(&dir).with_context(|| format!("--data-dir: making {}", dir.display()))?;
    let config =
        Config { retention_seconds: flags.store.store_history_retention.0.as_secs(), ..Config::new(&dir) };
    if let Some(group) = flags.store.group()? {
        let engine = Engine::open_group(config, group).await;
        let engine = engine.with_context(|| format!("opening the store in {}", dir.display()))?;
        engine.ready().await?;
        return Ok(engine);
    }
    let open = tokio::task::spawn_blocking(move || Engine::open(config));
    Ok(open.await?.with_context(|| format!("opening the store in {}", dir.display()))?)
}
