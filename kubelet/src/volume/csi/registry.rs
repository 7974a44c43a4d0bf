//! Which CSI drivers there are on the node: plugins put a socket into `plugins_registry`, are asked who they are, and
//! told whether they are known from now on.

use std::{
    collections::HashMap,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use parking_lot::RwLock;

use super::{
    node_info,
    wire::{self, Empty, NodeCapabilities, NodeInfo, PluginInfo, RegistrationStatus, Socket},
};
use crate::{
    context::Context,
    util::file_watch::{AddWatchFlags, FileWatch},
};

/// A plugin that could not be registered is tried again after this time.
const RETRY: Duration = Duration::from_secs(2);

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

/// Follows the folder for ever.
pub async fn run(ctx: Arc<Context>) {
    let dir = ctx.root_dir.join("plugins_registry");
    if let Err(e) = std::fs::create_dir_all(&dir) {
        tracing::error!(folder = %dir.display(), error = %e, "no CSI driver can register: cannot make the folder");
        return;
    }
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM;
    let watch = match FileWatch::new(&[(&dir, flags)]) {
        Ok(watch) => watch,
        Err(e) => {
            tracing::error!(folder = %dir.display(), error = %e, "no CSI driver can register: cannot watch the folder");
            return;
        }
    };
    // Sockets that are dealt with, with the driver behind each, if it is one.
    let mut known: HashMap<PathBuf, Seen> = HashMap::new();
    loop {
        let present = sockets(&dir);
        let gone: Vec<PathBuf> = known.keys().filter(|p| !present.contains_key(*p)).cloned().collect();
        for path in gone {
            if let Some(Some(driver)) = known.remove(&path).map(|s| s.driver) {
                tracing::info!(driver, "CSI driver is gone");
                ctx.csi.registry.remove(&driver);
                node_info::remove(&ctx, &driver).await;
            }
        }
        let mut failed = false;
        for (path, inode) in present {
            if known.get(&path).is_some_and(|s| s.inode == inode) {
                continue;
            }
            match register(&ctx, &path).await {
                Ok(driver) => drop(known.insert(path, Seen { inode, driver })),
                Err(e) => {
                    failed = true;
                    tracing::warn!(socket = %path.display(), error = e, "cannot register a plugin");
                }
            }
        }
        if failed {
            tokio::select! { () = watch.changed() => {} () = tokio::time::sleep(RETRY) => {} }
        } else {
            watch.changed().await;
        }
    }
}

struct Seen {
    /// A socket made anew is another one.
    inode: u64,
    driver: Option<String>,
}

fn sockets(dir: &Path) -> HashMap<PathBuf, u64> {
    use std::os::unix::fs::MetadataExt;
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let named = entries.filter(|e| !e.file_name().to_string_lossy().starts_with('.'));
    named
        .filter_map(|e| {
            let meta = e.metadata().ok()?;
            meta.file_type().is_socket().then(|| (e.path(), meta.ino()))
        })
        .collect()
}

/// Asks a plugin who it is; gives the driver's name, or nothing if it is none that can be used.
async fn register(ctx: &Arc<Context>, path: &Path) -> Result<Option<String>, String> {
    let plugin = Socket::new(path.to_owned());
    let info: PluginInfo = plugin
        .call("/pluginregistration.Registration/GetInfo", Empty {})
        .await
        .map_err(|e| wire::shown(&e))?;
    let outcome = accept(ctx, &info).await;
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.as_ref().err().cloned().unwrap_or_default(),
    };
    let told: Result<Empty, _> =
        plugin.call("/pluginregistration.Registration/NotifyRegistrationStatus", status).await;
    if let Err(e) = told {
        tracing::warn!(
            plugin = info.name,
            error = wire::shown(&e),
            "cannot tell a plugin how its registration went"
        );
    }
    match outcome {
        Ok(()) => {
            tracing::info!(driver = info.name, "CSI driver registered");
            Ok(Some(info.name))
        }
        // Asking again would not help.
        Err(e) if info.r#type != "CSIPlugin" => {
            tracing::warn!(plugin = info.name, error = e, "plugin refused");
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

async fn accept(ctx: &Arc<Context>, info: &PluginInfo) -> Result<(), String> {
    if info.r#type != "CSIPlugin" {
        return Err(format!(
            "no handler registered for plugin type: {}; this kubelet knows CSIPlugin only",
            info.r#type
        ));
    }
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
