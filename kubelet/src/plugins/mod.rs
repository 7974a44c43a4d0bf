//! Plugins of the kubelet: they put a socket into `plugins_registry`, are asked who they are, and told whether they are
//! known from now on. CSI drivers provide volumes, DRA drivers devices.

pub mod wire;

use std::{
    collections::HashMap,
    os::unix::fs::FileTypeExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use self::wire::{Empty, PluginInfo, RegistrationStatus, Socket};
use crate::{
    context::Context,
    util::file_watch::{AddWatchFlags, FileWatch},
    volume::csi,
};

/// A plugin that could not be registered is tried again after this time.
const RETRY: Duration = Duration::from_secs(2);

/// Follows the folder for ever.
pub async fn run(ctx: Arc<Context>) {
    let dir = ctx.root_dir.join("plugins_registry");
    if let Err(e) = std::fs::create_dir_all(&dir) {
        tracing::error!(folder = %dir.display(), error = %e, "no plugin can register: cannot make the folder");
        return;
    }
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM;
    let watch = match FileWatch::new(&[(&dir, flags)]) {
        Ok(watch) => watch,
        Err(e) => {
            tracing::error!(folder = %dir.display(), error = %e, "no plugin can register: cannot watch the folder");
            return;
        }
    };
    // Sockets that are dealt with, with the plugin behind each, if it is one that can be used.
    let mut known: HashMap<PathBuf, Seen> = HashMap::new();
    loop {
        let present = sockets(&dir);
        let gone: Vec<PathBuf> = known.keys().filter(|p| !present.contains_key(*p)).cloned().collect();
        for path in gone {
            if let Some(Some(plugin)) = known.remove(&path).map(|s| s.plugin) {
                forget(&ctx, &plugin).await;
            }
        }
        let mut failed = false;
        for (path, inode) in present {
            if known.get(&path).is_some_and(|s| s.inode == inode) {
                continue;
            }
            // A socket made anew is another process; volumes of a CSI driver outlive that.
            if let Some(Some(before @ Plugin::Dra(..))) = known.remove(&path).map(|s| s.plugin) {
                forget(&ctx, &before).await;
            }
            match register(&ctx, &path).await {
                Ok(plugin) => drop(known.insert(path, Seen { inode, plugin })),
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
    inode: u64,
    plugin: Option<Plugin>,
}

/// A registered plugin.
enum Plugin {
    Csi(String),
    /// Name of the driver, and where it listens.
    Dra(String, PathBuf),
}

async fn forget(ctx: &Arc<Context>, plugin: &Plugin) {
    match plugin {
        Plugin::Csi(driver) => csi::registry::forget(ctx, driver).await,
        Plugin::Dra(driver, endpoint) => ctx.dra.plugins.remove(driver, endpoint),
    }
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

/// Asks a plugin who it is, and tells it how that went; nothing if it is none that can be used.
async fn register(ctx: &Arc<Context>, path: &Path) -> Result<Option<Plugin>, String> {
    let socket = Socket::new(path.to_owned());
    let info: PluginInfo = socket
        .call("/pluginregistration.Registration/GetInfo", Empty {})
        .await
        .map_err(|e| wire::shown(&e))?;
    let endpoint = PathBuf::from(info.endpoint.trim_start_matches("unix://"));
    let (outcome, again) = match info.r#type.as_str() {
        "CSIPlugin" => {
            let accepted = csi::registry::accept(ctx, &info).await;
            (accepted.map(|()| Plugin::Csi(info.name.clone())), true)
        }
        "DRAPlugin" => {
            let accepted = ctx.dra.plugins.add(&info.name, &endpoint, &info.supported_versions);
            (accepted.map(|()| Plugin::Dra(info.name.clone(), endpoint)), true)
        }
        // Asking again would not help.
        other => (
            Err(format!("no handler registered for plugin type: {other} at socket {}", path.display())),
            false,
        ),
    };
    let status = RegistrationStatus {
        plugin_registered: outcome.is_ok(),
        error: outcome.as_ref().err().cloned().unwrap_or_default(),
    };
    let told: Result<Empty, _> =
        socket.call("/pluginregistration.Registration/NotifyRegistrationStatus", status).await;
    if let Err(e) = told {
        let error = wire::shown(&e);
        tracing::warn!(plugin = info.name, error, "cannot tell a plugin how its registration went");
    }
    match outcome {
        Ok(plugin) => {
            tracing::info!(plugin = info.name, kind = info.r#type, "plugin registered");
            Ok(Some(plugin))
        }
        Err(e) if again => Err(e),
        Err(error) => {
            tracing::warn!(plugin = info.name, error, "plugin refused");
            Ok(None)
        }
    }
}
