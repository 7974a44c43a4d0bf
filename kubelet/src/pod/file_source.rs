//! Static pods: manifests in a folder, watched with inotify (and looked at again now and then, for file systems
//! without it).

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Toleration};

use super::{PodManager, spec};
use crate::util::{
    file_watch::{AddWatchFlags, FileWatch},
    fnv32a,
};

/// Feeds the manager for ever; `on_synced` is called after the first look.
pub async fn run(
    path: PathBuf,
    node: String,
    every: Duration,
    manager: Arc<PodManager>,
    on_synced: impl FnOnce(),
) {
    let watch = match watch(&path) {
        Ok(w) => Some(w),
        Err(e) => {
            tracing::warn!(path = %path.display(), error = %e, "cannot watch static pods, looking every {every:?}");
            None
        }
    };
    let mut on_synced = Some(on_synced);
    loop {
        let pods = read_all(&path, &node);
        for pod in &pods {
            manager.mirrors.want(pod);
        }
        manager.mirrors.keep_only(&pods);
        manager.replace(pods, true);
        if let Some(f) = on_synced.take() {
            f();
        }
        match &watch {
            Some(w) => {
                tokio::select! {
                    () = w.changed() => {
                        // Editors write in several steps: let them finish.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    () = tokio::time::sleep(every) => {}
                }
            }
            None => tokio::time::sleep(every).await,
        }
    }
}

fn watch(path: &Path) -> anyhow::Result<FileWatch> {
    let flags = AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_MOVED_FROM
        | AddWatchFlags::IN_DELETE
        | AddWatchFlags::IN_CREATE;
    FileWatch::new(&[(path, flags)])
}

fn read_all(path: &Path, node: &str) -> Vec<Pod> {
    let mut files: Vec<PathBuf> = if path.is_dir() {
        match fs::read_dir(path) {
            Ok(entries) => entries.flatten().map(|e| e.path()).collect(),
            Err(e) => {
                tracing::warn!(path = %path.display(), error = %e, "cannot read static pods");
                Vec::new()
            }
        }
    } else {
        vec![path.to_path_buf()]
    };
    files.retain(|f| f.is_file() && !f.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.')));
    files.sort();
    let mut pods = Vec::new();
    for file in files {
        match fs::read_to_string(&file)
            .map_err(anyhow::Error::from)
            .and_then(|text| parse(&text, &file, node))
        {
            Ok(pod) => pods.push(pod),
            Err(e) => {
                tracing::error!(file = %file.display(), error = format!("{e:#}"), "cannot use a static pod manifest")
            }
        }
    }
    pods
}

/// Reads a manifest and gives it identity: a uid from its content, the node's name, upstream's annotations.
pub fn parse(text: &str, file: &Path, node: &str) -> anyhow::Result<Pod> {
    let value: serde_json::Value = serde_yaml::from_str(text)?;
    if value["kind"] != "Pod" || value["apiVersion"] != "v1" {
        anyhow::bail!("it must hold one Pod of apiVersion v1, not {} {}", value["kind"], value["apiVersion"]);
    }
    let mut pod: Pod = serde_json::from_value(value)?;
    let name = pod
        .metadata
        .name
        .clone()
        .filter(|n| !n.is_empty())
        .ok_or_else(|| anyhow::anyhow!("metadata.name is missing"))?;
    if spec::spec(&pod).containers.is_empty() {
        anyhow::bail!("spec.containers is empty");
    }
    let identity = |salt: &str| fnv32a(format!("{salt}{node}{}{text}", file.display()).as_bytes());
    let hash: String = ["a", "b", "c", "d"].iter().map(|s| format!("{:08x}", identity(s))).collect();
    let meta = &mut pod.metadata;
    let uid = meta.uid.clone().filter(|u| !u.is_empty()).unwrap_or_else(|| hash.clone());
    meta.uid = Some(uid);
    meta.name = Some(format!("{name}-{}", node.to_lowercase()));
    meta.namespace.get_or_insert_with(|| "default".into());
    meta.generation = Some(1);
    let annotations = meta.annotations.get_or_insert_default();
    annotations.insert(spec::CONFIG_HASH.into(), hash);
    annotations.insert(spec::CONFIG_SOURCE.into(), "file".into());
    annotations.entry(spec::CONFIG_SEEN.into()).or_insert_with(|| Timestamp::now().to_string());
    pod.status = None;
    let s = pod.spec.get_or_insert_default();
    s.node_name = Some(node.into());
    // Static pods have no API server to default them.
    s.restart_policy.get_or_insert_with(|| "Always".into());
    s.termination_grace_period_seconds.get_or_insert(30);
    s.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    s.tolerations.get_or_insert_default().push(Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Toleration::default()
    });
    for c in s.containers.iter_mut().chain(s.init_containers.iter_mut().flatten()) {
        let image = c.image.as_deref().unwrap_or_default();
        let latest = crate::image::puller::with_tag(image).ends_with(":latest");
        c.image_pull_policy
            .get_or_insert_with(|| if latest { "Always".into() } else { "IfNotPresent".into() });
    }
    Ok(pod)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: a, image: 'x:1'}]}\n";

    #[test]
    fn identity_comes_from_content_and_node() {
        let p = parse(TEXT, Path::new("/m/a.yaml"), "N1").unwrap();
        assert_eq!(spec::name(&p), "web-n1");
        assert!(spec::is_static(&p));
        assert_eq!(spec::uid(&p).len(), 32);
        let again = parse(TEXT, Path::new("/m/a.yaml"), "N1").unwrap();
        assert_eq!(spec::uid(&p), spec::uid(&again));
        let other = parse(&TEXT.replace("x:1", "x:2"), Path::new("/m/a.yaml"), "N1").unwrap();
        assert_ne!(spec::uid(&p), spec::uid(&other));
        assert_eq!(p.spec.unwrap().containers[0].image_pull_policy.as_deref(), Some("IfNotPresent"));
        assert!(parse("kind: Service\napiVersion: v1", Path::new("x"), "n").is_err());
    }
}
