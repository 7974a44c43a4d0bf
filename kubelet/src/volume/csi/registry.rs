//! Which CSI drivers there are on the node (see [`crate::plugins`]).

use std::{collections::HashMap, sync::Arc};

use parking_lot::RwLock;

use super::{
    node_info,
    wire::{self, Empty, NodeCapabilities, NodeInfo, Socket},
};
use crate::{context::Context, plugins::wire::PluginInfo};

/// A registered driver.
#[derive(Clone)]
pub struct Driver {
    pub name: String,
    pub socket: Socket,
    pub capabilities: Vec<i32>,
}

impl Driver {
    /// Whether the driver's node service can do this (see [`wire::capability`]).
    pub fn can(&self, capability: i32) -> bool {
        self.capabilities.contains(&capability)
    }
}

/// Drivers by name.
#[derive(Clone, Default)]
pub struct Registry(Arc<RwLock<HashMap<String, Driver>>>);

impl Registry {
    /// A driver by name.
    pub fn get(&self, name: &str) -> Result<Driver, String> {
        let found = self.0.read().get(name).cloned();
        found.ok_or_else(|| format!("driver name {name} not found in the list of registered CSI drivers"))
    }

    /// Adds a driver; tests do so, too.
    pub fn add(&self, driver: Driver) {
        self.0.write().insert(driver.name.clone(), driver);
    }

    fn remove(&self, name: &str) {
        self.0.write().remove(name);
    }
}

/// A driver has taken its socket away.
pub async fn forget(ctx: &Arc<Context>, driver: &str) {
    tracing::info!(driver, "CSI driver is gone");
    ctx.csi.registry.remove(driver);
    node_info::remove(ctx, driver).await;
}

/// Gets to know a driver.
///
/// # Errors
/// It speaks another version, does not answer, or the cluster could not be told.
pub async fn accept(ctx: &Arc<Context>, info: &PluginInfo) -> Result<(), String> {
    let version_1 = |v: &String| v.trim_start_matches('v').split('.').next() == Some("1");
    if !info.supported_versions.iter().any(version_1) {
        return Err(format!(
            "plugin {} supports none of the versions of CSI that the kubelet does: 1.x",
            info.name
        ));
    }
    let socket = Socket::new(info.endpoint.trim_start_matches("unix://").into());
    let capabilities: NodeCapabilities =
        socket.call("/csi.v1.Node/NodeGetCapabilities", Empty {}).await.map_err(|e| wire::shown(&e))?;
    let node: NodeInfo =
        socket.call("/csi.v1.Node/NodeGetInfo", Empty {}).await.map_err(|e| wire::shown(&e))?;
    node_info::add(ctx, &info.name, &node).await?;
    let capabilities =
        capabilities.capabilities.iter().filter_map(|c| Some(c.rpc.as_ref()?.r#type)).collect();
    ctx.csi.registry.add(Driver { name: info.name.clone(), socket, capabilities });
    let (ctx, name) = (ctx.clone(), info.name.clone());
    tokio::spawn(async move { ctx.csi.release_unused(&name).await });
    Ok(())
}
