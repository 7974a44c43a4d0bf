//! `kube-apiserver`: flags to server.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use apiserver::config::Flags;
use apiserver::server::Server;
use apiserver::store::Store;
use apiserver::store::embedded::{Config, Engine};
use component_base::process;

fn main() -> ExitCode {
    let (flags, unused) = Flags::of_process();
    process::run("kube-apiserver", &flags.logs.clone(), move |shutdown| async move {
        component_base::flags::warn(&unused);
        flags.check()?;
        let dir = flags.data_dir.clone();
        std::fs::create_dir_all(&dir).with_context(|| format!("--data-dir: making {}", dir.display()))?;
        let open = tokio::task::spawn_blocking({
            let dir = dir.clone();
            move || Engine::open(Config::new(dir))
        });
        let engine = open.await?.with_context(|| format!("opening the store in {}", dir.display()))?;
        let store: Arc<dyn Store> = engine.clone();
        let server = Server::build(&flags, store, &shutdown).await?;
        server.run(shutdown, process::ready).await?;
        engine.close().await.context("closing the store")
    })
}
