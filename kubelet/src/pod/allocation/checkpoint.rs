//! Resources of pods on disk, in upstream's files and form: either kubelet can take over from the other.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::model::PodResources;
use crate::util::{file, fnv32a};

/// File of what pods were allocated, in the kubelet's folder.
pub const ALLOCATED: &str = "allocated_pods_state";
/// File of what containers run with.
pub const ACTUATED: &str = "actuated_pods_state";

/// The file: JSON inside of JSON, with a checksum of what is inside.
#[derive(Serialize, Deserialize)]
struct Checkpoint {
    data: String,
    checksum: u64,
}

#[derive(Default, Serialize, Deserialize)]
struct Data {
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    entries: BTreeMap<String, PodResources>,
}

/// FNV-1a of 32 bits, over the text as Go's hashing of objects writes it out: its type before it.
fn checksum(data: &str) -> u64 {
    u64::from(fnv32a(&[b"(string)", data.as_bytes()].concat()))
}

/// Reads the file; none is as good as an empty one.
///
/// # Errors
/// It cannot be read or is damaged.
pub fn read(path: &Path) -> Result<BTreeMap<String, PodResources>, String> {
    let Some(text) = file::read(path).map_err(|e| e.to_string())? else { return Ok(BTreeMap::new()) };
    let outer: Checkpoint = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if checksum(&outer.data) != outer.checksum {
        return Err("checkpoint is corrupted: its checksum is another".into());
    }
    let data: Data = serde_json::from_str(&outer.data).map_err(|e| e.to_string())?;
    Ok(data.entries)
}

/// Writes the file; it is whole or as it was. `durable`: after a power cut, too.
///
/// # Errors
/// The disk.
pub fn write(path: &Path, entries: &BTreeMap<String, PodResources>, durable: bool) -> io::Result<()> {
    let data = serde_json::to_string(&Data { entries: entries.clone() })?;
    let outer = Checkpoint { checksum: checksum(&data), data };
    file::replace(path, &serde_json::to_vec(&outer)?, durable)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn upstreams_file_is_read_and_ours_comes_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(ALLOCATED);
        assert_eq!(read(&path), Ok(BTreeMap::new()));
        // A file that upstream's kubelet wrote, with its checksum.
        let file = r#"{"data":"{\"entries\":{\"pod1\":{\"ContainerResources\":{\"container1\":{\"requests\":{\"cpu\":\"1Ki\",\"memory\":\"1Ki\"}}}}}}","checksum":1178570812}"#;
        fs::write(&path, file).unwrap();
        let entries = read(&path).unwrap();
        let requests = entries["pod1"].containers["container1"].requests.clone().unwrap();
        assert_eq!((requests["memory"].0.as_str(), entries["pod1"].pod.is_none()), ("1Ki", true));
        for durable in [true, false] {
            write(&path, &entries, durable).unwrap();
            assert_eq!(read(&path), Ok(entries.clone()));
        }
        let inside: Checkpoint = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert!(inside.data.contains(r#""PodLevelResources":null"#), "{}", inside.data);
        fs::write(&path, r#"{"data":"{\"entries\":{\"p\":{\"ContainerResources\":null,\"PodLevelResources\":null}}}","checksum":0}"#).unwrap();
        assert!(read(&path).is_err_and(|e| e.contains("corrupted")));
        let nulls = r#"{"entries":{"p":{"ContainerResources":null,"PodLevelResources":null}}}"#;
        let file = Checkpoint { data: nulls.into(), checksum: checksum(nulls) };
        fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap()["p"], PodResources::default());
    }
}
