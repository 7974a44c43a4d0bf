//! Local storage that pods take: their emptyDir volumes, and what their containers write into their own file systems and
//! logs, against what they may. Measured by walking folders and asking the runtime; judged purely.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{EmptyDirVolumeSource, Pod};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::pod::{resources, spec};
use crate::util::quantity::{from_bytes, value};
use crate::volume::PodDirs;

const STORAGE: &str = "ephemeral-storage";

/// What a pod takes, in bytes.
#[derive(Debug, Default, PartialEq)]
pub struct Usage {
    /// By container: its file system's writable layer and its logs.
    pub containers: BTreeMap<String, i64>,
    /// By emptyDir volume on disk.
    pub volumes: BTreeMap<String, i64>,
}

/// Where a pod's files are.
pub struct Places {
    pub dirs: PodDirs,
    /// The folder with a folder of logs for each container.
    pub logs: PathBuf,
}

/// Bytes that a folder takes on disk, without following links or leaving its file system.
fn disk_usage(root: &Path) -> i64 {
    let Ok(meta) = std::fs::symlink_metadata(root) else { return 0 };
    let device = meta.dev();
    let mut total = 0;
    let mut stack = vec![root.to_path_buf()];
    while let Some(dir) = stack.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else { continue };
            total += meta.blocks() as i64 * 512;
            if meta.is_dir() && meta.dev() == device {
                stack.push(entry.path());
            }
        }
    }
    total
}

/// The emptyDir volumes that are folders on disk.
fn on_disk(pod: &Pod) -> impl Iterator<Item = (&str, &EmptyDirVolumeSource)> {
    let volumes = spec::spec(pod).volumes.iter().flatten();
    let dirs = volumes.filter_map(|v| Some((v.name.as_str(), v.empty_dir.as_ref()?)));
    dirs.filter(|(_, e)| e.medium.as_deref().unwrap_or("").is_empty())
}

fn positive(q: Option<&Quantity>) -> Option<&Quantity> {
    q.filter(|q| value(q) > 0)
}

fn limits(pod: &Pod) -> impl Iterator<Item = (&str, &Quantity)> {
    spec::spec(pod)
        .containers
        .iter()
        .filter_map(|c| Some((c.name.as_str(), positive(resources::limit(c.resources.as_ref(), STORAGE))?)))
}

/// Whether the writable layers of a pod's containers must be asked for.
pub fn limits_containers(pod: &Pod) -> bool {
    resources::given_limit(spec::spec(pod), STORAGE).is_some_and(|l| l > 0)
}

/// Whether a pod may not take as much as there is.
pub fn has_limits(pod: &Pod) -> bool {
    limits_containers(pod) || on_disk(pod).any(|(_, e)| positive(e.size_limit.as_ref()).is_some())
}

/// Measures a pod. `layers` are the sizes of the writable layers by container, if they were asked for.
pub fn measure(pod: &Pod, at: &Places, layers: Option<&HashMap<String, i64>>) -> Usage {
    let volumes =
        on_disk(pod).map(|(name, _)| (name.to_owned(), disk_usage(&at.dirs.volume("empty-dir", name))));
    let logs = |name: &str| disk_usage(&at.logs.join(name));
    let containers =
        layers.into_iter().flatten().map(|(name, size)| (name.clone(), size.saturating_add(logs(name))));
    Usage { volumes: volumes.collect(), containers: containers.collect() }
}

/// The limit that a pod exceeds, as the eviction's message.
pub fn exceeded(pod: &Pod, used: &Usage) -> Option<String> {
    for (name, e) in on_disk(pod) {
        let Some(limit) = positive(e.size_limit.as_ref()) else { continue };
        if used.volumes.get(name).is_some_and(|u| *u > value(limit)) {
            return Some(format!("Usage of EmptyDir volume {name:?} exceeds the limit {:?}. ", limit.0));
        }
    }
    let all =
        used.containers.values().chain(used.volumes.values()).fold(0i64, |sum, u| sum.saturating_add(*u));
    if let Some(limit) = resources::given_limit(spec::spec(pod), STORAGE).filter(|l| *l > 0 && all > *l) {
        let limit = from_bytes(limit).0;
        return Some(format!(
            "Pod ephemeral local storage usage exceeds the total limit of containers {limit}. "
        ));
    }
    let (name, limit) =
        limits(pod).find(|(name, l)| used.containers.get(*name).is_some_and(|u| *u > value(l)))?;
    Some(format!("Container {name} exceeded its local ephemeral storage limit {:?}. ", limit.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"spec": {"containers": containers, "volumes": [
            {"name": "v", "emptyDir": {"sizeLimit": "64Ki"}}, {"name": "free", "emptyDir": {}},
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}}]}}))
        .unwrap()
    }

    fn limited(name: &str, limit: &str) -> serde_json::Value {
        serde_json::json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}})
    }

    fn usage(containers: &[(&str, i64)], volumes: &[(&str, i64)]) -> Usage {
        let of = |list: &[(&str, i64)]| list.iter().map(|(n, u)| ((*n).to_owned(), *u)).collect();
        Usage { containers: of(containers), volumes: of(volumes) }
    }

    #[test]
    fn a_full_empty_dir_is_found() {
        let root = tempfile::tempdir().unwrap();
        let dirs = PodDirs::new(root.path(), "u");
        let dir = dirs.volume("empty-dir", "v");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        let pod = pod(serde_json::json!([]));
        assert!(has_limits(&pod) && !limits_containers(&pod));
        let at = Places { dirs, logs: root.path().join("logs") };
        assert_eq!(exceeded(&pod, &measure(&pod, &at, None)), None);
        std::fs::write(dir.join("sub/f"), vec![1u8; 128 << 10]).unwrap();
        let message = exceeded(&pod, &measure(&pod, &at, None)).unwrap();
        assert_eq!(message, "Usage of EmptyDir volume \"v\" exceeds the limit \"64Ki\". ");
    }

    #[test]
    fn layers_logs_and_volumes_count_against_the_containers() {
        let root = tempfile::tempdir().unwrap();
        let at = Places { dirs: PodDirs::new(root.path(), "u"), logs: root.path().join("logs") };
        std::fs::create_dir_all(at.logs.join("a")).unwrap();
        std::fs::write(at.logs.join("a/0.log"), vec![1u8; 8 << 10]).unwrap();
        let pod = pod(serde_json::json!([limited("a", "1Ki"), limited("b", "1Mi")]));
        let layers = HashMap::from([("a".to_owned(), 100)]);
        let used = measure(&pod, &at, Some(&layers));
        assert_eq!(used.containers["a"], 100 + (8 << 10));
        assert_eq!(
            exceeded(&pod, &used).unwrap(),
            "Container a exceeded its local ephemeral storage limit \"1Ki\". "
        );
        let many = usage(&[("a", 0), ("b", 1 << 19)], &[("free", 1 << 20)]);
        assert_eq!(
            exceeded(&pod, &many).unwrap(),
            "Pod ephemeral local storage usage exceeds the total limit of containers 1025Ki. "
        );
        assert_eq!(exceeded(&pod, &usage(&[("a", 1 << 10), ("b", 1)], &[])), None);
    }

    #[test]
    fn one_container_without_a_limit_limits_nothing_itself() {
        let free = pod(serde_json::json!([{"name": "a"}]));
        assert!(!limits_containers(&free));
        assert_eq!(exceeded(&free, &usage(&[("a", 1 << 40)], &[])), None);
        // But what others may take is all that the pod may.
        let one = pod(serde_json::json!([{"name": "a"}, limited("b", "1Mi")]));
        assert!(
            exceeded(&one, &usage(&[("a", 1 << 21)], &[])).is_some_and(|m| m.starts_with("Pod ephemeral"))
        );
    }
}
