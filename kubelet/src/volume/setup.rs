//! Brings a pod's volumes into being, and their content up to date. Safe to repeat: what is there stays.

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod, ProjectedVolumeSource, Volume};
use kube::Client;

use super::{
    PodDirs, atomic,
    csi::Csi,
    host_path, mounts, ownership,
    payload::{self, Payload, Tokens},
    persistent,
    token::TokenCache,
};
use crate::{
    pod::{env::ObjectSet, fields::NodeFacts, resources, spec},
    util::quantity::value,
};

/// A volume that is ready for containers.
#[derive(Clone, Debug, PartialEq)]
pub struct Mounted {
    pub path: PathBuf,
    pub read_only: bool,
    /// The path is a device, which containers get as such.
    pub block: bool,
}

/// Volumes by name.
pub type MountedVolumes = HashMap<String, Mounted>;

/// What set-up needs besides the pod.
pub struct Setup<'a> {
    pub dirs: &'a PodDirs,
    pub client: Option<&'a Client>,
    pub objects: &'a ObjectSet,
    pub facts: &'a NodeFacts,
    pub now: Timestamp,
    /// The node's CSI drivers.
    pub csi: &'a Csi,
}

/// Sets up all volumes; the error names the volume and the cause.
pub async fn all(s: &Setup<'_>, pod: &Pod, tokens: &mut TokenCache) -> Result<MountedVolumes, String> {
    let mut out = MountedVolumes::new();
    // Images are mounted by the runtime, when a container starts.
    for volume in spec::spec(pod).volumes.iter().flatten().filter(|v| v.image.is_none()) {
        let mounted = one(s, pod, volume, tokens)
            .await
            .map_err(|e| format!("MountVolume.SetUp failed for volume {:?} : {e}", volume.name))?;
        out.insert(volume.name.clone(), mounted);
    }
    Ok(out)
}

/// The group that volumes which can be given away belong to.
pub fn fs_group(pod: &Pod) -> Option<u32> {
    let group = spec::spec(pod).security_context.as_ref()?.fs_group?;
    u32::try_from(group).ok()
}

/// Whether ownership is left alone where a volume's root has it already.
pub fn only_on_mismatch(pod: &Pod) -> bool {
    let context = spec::spec(pod).security_context.as_ref();
    context.and_then(|c| c.fs_group_change_policy.as_deref()) == Some("OnRootMismatch")
}

async fn one(s: &Setup<'_>, pod: &Pod, v: &Volume, tokens: &mut TokenCache) -> Result<Mounted, String> {
    let io = |e: io::Error| e.to_string();
    let writable = |path| Mounted { path, read_only: false, block: false };
    if let Some(source) = &v.empty_dir {
        return empty_dir(s, pod, &v.name, source).map(writable).map_err(io);
    }
    if let Some(h) = &v.host_path {
        host_path::check(Path::new(&h.path), h.type_.as_deref().unwrap_or_default())?;
        return Ok(writable(PathBuf::from(&h.path)));
    }
    if let Some(claimed) = persistent::resolve(s.client, pod, v).await? {
        return persistent::mount(s, pod, &claimed).await;
    }
    if let Some(source) = &v.csi {
        return s.csi.mount_inline(s, pod, v, source).await;
    }
    let (plugin, memory, files) = if let Some(c) = &v.config_map {
        ("configmap", false, payload::config_map(c, s.objects)?)
    } else if let Some(c) = &v.secret {
        ("secret", true, payload::secret(c, s.objects)?)
    } else if let Some(d) = &v.downward_api {
        let items = d.items.as_deref().unwrap_or_default();
        ("downward-api", true, payload::downward_api(items, d.default_mode, pod, s.facts)?)
    } else if let Some(p) = &v.projected {
        let tokens = fetch_tokens(s, pod, p, tokens).await?;
        ("projected", true, payload::projected(p, pod, s.facts, s.objects, &tokens)?)
    } else {
        return Err(format!("volume type {} is not supported by this kubelet", type_name(v)));
    };
    let path = s.dirs.volume(plugin, &v.name);
    write_payload(&path, memory, &files, fs_group(pod), s.now).map_err(io)?;
    Ok(Mounted { path, read_only: true, block: false })
}

/// The API's name of a volume's source, for messages.
fn type_name(v: &Volume) -> String {
    match serde_json::to_value(v) {
        Ok(serde_json::Value::Object(fields)) => {
            fields.keys().find(|k| *k != "name").cloned().unwrap_or_else(|| "(none)".into())
        }
        _ => "(unknown)".into(),
    }
}

fn write_payload(
    path: &Path,
    memory: bool,
    files: &Payload,
    group: Option<u32>,
    now: Timestamp,
) -> io::Result<()> {
    fs::create_dir_all(path)?;
    // Secrets never touch a disk.
    if memory && !mounts::is_mount_point(path)? {
        mounts::tmpfs(path, None)?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
    atomic::write(path, files, group, now)?;
    if let Some(gid) = group {
        std::os::unix::fs::chown(path, None, Some(gid))?;
        fs::set_permissions(path, fs::Permissions::from_mode(0o2777))?;
    }
    Ok(())
}

fn empty_dir(s: &Setup<'_>, pod: &Pod, name: &str, v: &EmptyDirVolumeSource) -> io::Result<PathBuf> {
    let path = s.dirs.volume("empty-dir", name);
    let marker = s.dirs.ready_marker("empty-dir", name);
    let medium = v.medium.as_deref().unwrap_or_default();
    let in_memory = !medium.is_empty();
    if marker.exists() && (!in_memory || mounts::is_mount_point(&path)?) {
        return Ok(path);
    }
    fs::create_dir_all(&path)?;
    if in_memory && !mounts::is_mount_point(&path)? {
        match medium {
            "Memory" => mounts::tmpfs(&path, Some(memory_size(s, pod, v)))?,
            "HugePages" => mounts::hugetlbfs(&path, "")?,
            other => match other.strip_prefix("HugePages-") {
                Some(size) => mounts::hugetlbfs(&path, size.trim_end_matches('i'))?,
                None => return Err(io::Error::other(format!("unknown storage medium {other:?}"))),
            },
        }
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o777))?;
    if let Some(gid) = fs_group(pod) {
        ownership::set_group(&path, gid, false, false)?;
    }
    if let Some(dir) = marker.parent() {
        fs::create_dir_all(dir)?;
    }
    fs::write(&marker, b"")?;
    Ok(path)
}

/// A memory volume is bounded by its size limit, the pod's memory limit, and what pods may use of the node.
fn memory_size(s: &Setup<'_>, pod: &Pod, v: &EmptyDirVolumeSource) -> i64 {
    let own = v.size_limit.as_ref().map(value).filter(|n| *n > 0);
    let pod_limit = resources::pod_limit(spec::spec(pod), "memory").filter(|n| *n > 0);
    [own, pod_limit, Some(s.facts.allocatable_memory)]
        .into_iter()
        .flatten()
        .filter(|n| *n > 0)
        .min()
        .unwrap_or(0)
}

async fn fetch_tokens(
    s: &Setup<'_>,
    pod: &Pod,
    v: &ProjectedVolumeSource,
    cache: &mut TokenCache,
) -> Result<Tokens, String> {
    let mut out = Tokens { owner: common_user(pod), ..Tokens::default() };
    out.restrict = out.owner.is_some() || fs_group(pod).is_some();
    for (index, source) in v.sources.iter().flatten().enumerate() {
        if let Some(projection) = &source.service_account_token {
            let client =
                s.client.ok_or("a service account token needs an API server, and none is configured")?;
            out.tokens.insert(index, cache.get(client, pod, projection, s.now).await?);
        }
    }
    Ok(out)
}

/// The user that all containers run as, if it is one and the same.
fn common_user(pod: &Pod) -> Option<u32> {
    let s = spec::spec(pod);
    let pod_user = s.security_context.as_ref().and_then(|x| x.run_as_user);
    let mut users = s
        .containers
        .iter()
        .chain(s.init_containers.iter().flatten())
        .map(|c| c.security_context.as_ref().and_then(|x| x.run_as_user).or(pod_user));
    let first = users.next()??;
    users.all(|u| u == Some(first)).then(|| u32::try_from(first).ok()).flatten()
}

/// Removes all of a pod's volumes and files; those of CSI drivers first, which only their drivers may unmount.
pub async fn tear_down(csi: &Csi, dirs: PodDirs) -> Result<(), String> {
    csi.tear_down(&dirs).await?;
    let work = tokio::task::spawn_blocking(move || mounts::remove_tree(&dirs.root));
    work.await.map_err(|e| e.to_string())?.map_err(|e| e.to_string())
}
