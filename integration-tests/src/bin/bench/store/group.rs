//! A group of our engines in this process, each with a directory and a port of its own.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use integration_tests::cluster::free_port;
use store::Store;
use store::embedded::{Config, Engine, GroupConfig};

/// Bytes a second at which snapshots would be sent.
const SNAPSHOT_RATE: u64 = 64 << 20;

/// Starts so many members and waits until they are ready.
pub async fn start(dir: &Path, members: usize) -> anyhow::Result<Vec<Arc<dyn Store>>> {
    let mut initial = BTreeMap::new();
    for m in 0..members {
        initial.insert(format!("m{m}"), format!("127.0.0.1:{}", free_port()));
    }
    let mut engines = Vec::new();
    for (name, address) in &initial {
        let group = GroupConfig {
            name: name.clone(),
            listen: address.parse()?,
            initial: initial.clone(),
            join: false,
            tls: None,
            snapshot_rate: SNAPSHOT_RATE,
        };
        engines.push(Engine::open_group(Config::new(dir.join(name)), group).await?);
    }
    for engine in &engines {
        engine.ready().await?;
    }
    Ok(engines.into_iter().map(|e| e as Arc<dyn Store>).collect())
}
