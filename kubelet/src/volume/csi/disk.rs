//! Where CSI volumes are on the node's disk, and the notes beside them, by which a kubelet that was restarted, ours or
//! upstream's, finds out whose they are.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

const NOTE: &str = "vol_data.json";

/// `vol_data.json`: the names are upstream's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    #[serde(rename = "specVolID", default)]
    pub spec_volume: String,
    #[serde(rename = "volumeHandle", default)]
    pub handle: String,
    #[serde(rename = "driverName", default)]
    pub driver: String,
    #[serde(rename = "nodeName", default)]
    pub node: String,
    #[serde(rename = "attachmentID", default)]
    pub attachment: String,
    #[serde(rename = "volumeLifecycleMode", default)]
    pub lifecycle: String,
}

impl Note {
    /// Whether the volume has a staging place that several pods may share.
    pub fn is_persistent(&self) -> bool {
        self.lifecycle != "Ephemeral"
    }

    /// The name by which node statuses call the volume.
    pub fn unique_name(&self) -> String {
        format!("kubernetes.io/csi/{}^{}", self.driver, self.handle)
    }

    /// Writes the note into a folder, whole or not at all.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        fs::create_dir_all(dir)?;
        let next = dir.join(format!(".{NOTE}"));
        fs::write(&next, serde_json::to_vec(self)?)?;
        fs::rename(next, dir.join(NOTE))
    }

    /// The note of a folder; `None` if there is none, or none that can be read.
    pub fn read(dir: &Path) -> Option<Self> {
        let text = fs::read(dir.join(NOTE)).ok()?;
        serde_json::from_slice(&text)
            .inspect_err(|e| {
                tracing::warn!(folder = %dir.display(), error = %e, "cannot read the note of a CSI volume");
            })
            .ok()
    }
}

/// Folder of a volume of a pod: note and mount point.
pub fn pod_volume(pod_root: &Path, name: &str) -> PathBuf {
    pod_root.join("volumes").join("kubernetes.io~csi").join(name)
}

/// Folders of all CSI volumes of a pod, with their notes.
pub fn pod_volumes(pod_root: &Path) -> Vec<(PathBuf, Note)> {
    let mut found = Vec::new();
    let entries = fs::read_dir(pod_root.join("volumes").join("kubernetes.io~csi"));
    for entry in entries.into_iter().flatten().flatten() {
        if let Some(note) = Note::read(&entry.path()) {
            found.push((entry.path(), note));
        }
    }
    found
}

/// Folder of a volume's staging place, with note and mount point.
pub fn staging(root: &Path, driver: &str, handle: &str) -> PathBuf {
    let digest: String = Sha256::digest(handle).iter().map(|b| format!("{b:02x}")).collect();
    drivers(root).join(driver).join(digest)
}

fn drivers(root: &Path) -> PathBuf {
    root.join("plugins").join("kubernetes.io").join("csi")
}

/// Notes of the volumes of a driver that are staged.
pub fn staged(root: &Path, driver: &str) -> Vec<Note> {
    let volumes = fs::read_dir(drivers(root).join(driver)).into_iter().flatten().flatten();
    volumes.filter_map(|v| Note::read(&v.path())).collect()
}

/// Notes of all volumes on this node: of pods, and staged.
pub fn all(root: &Path) -> Vec<Note> {
    let pods = fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    let mut found: Vec<Note> = pods.flat_map(|p| pod_volumes(&p.path())).map(|(_, note)| note).collect();
    for driver in fs::read_dir(drivers(root)).into_iter().flatten().flatten() {
        found.extend(staged(root, &driver.file_name().to_string_lossy()));
    }
    found
}

/// Whether any pod of this node has the volume.
pub fn is_used(root: &Path, driver: &str, handle: &str) -> bool {
    let pods = fs::read_dir(root.join("pods")).into_iter().flatten().flatten();
    pods.flat_map(|p| pod_volumes(&p.path()))
        .any(|(_, n)| n.driver == driver && n.handle == handle && n.is_persistent())
}

/// Removes a folder that holds a note and an empty mount point. Never more: what is not empty may be data.
pub fn forget(dir: &Path, mount_point: &Path) -> io::Result<()> {
    let gone = |r: io::Result<()>| match r {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    };
    let mount = match fs::symlink_metadata(mount_point) {
        Ok(m) if m.is_dir() => fs::remove_dir(mount_point),
        Ok(_) => fs::remove_file(mount_point),
        Err(e) => Err(e),
    };
    gone(mount)?;
    gone(fs::remove_file(dir.join(NOTE)))?;
    gone(fs::remove_dir(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_found_again_and_removed() {
        let root = std::env::temp_dir().join(format!("kubelet-csi-disk-{}", std::process::id()));
        let pod = root.join("pods/u");
        let note = Note {
            handle: "h".into(),
            driver: "d".into(),
            lifecycle: "Persistent".into(),
            ..Note::default()
        };
        let dir = pod_volume(&pod, "pv");
        note.write(&dir).unwrap();
        fs::create_dir_all(dir.join("mount")).unwrap();
        note.write(&staging(&root, "d", "h")).unwrap();
        assert_eq!(pod_volumes(&pod), [(dir.clone(), note.clone())]);
        assert_eq!(all(&root).len(), 2);
        assert!(is_used(&root, "d", "h") && !is_used(&root, "d", "x"));
        fs::write(dir.join("mount/data"), b"precious").unwrap();
        assert!(forget(&dir, &dir.join("mount")).is_err(), "not empty");
        fs::remove_file(dir.join("mount/data")).unwrap();
        forget(&dir, &dir.join("mount")).unwrap();
        forget(&dir, &dir.join("mount")).unwrap();
        assert!(!is_used(&root, "d", "h"));
        fs::remove_dir_all(&root).unwrap();
    }
}
