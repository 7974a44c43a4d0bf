//! The claims on disk, in upstream's file and form: either kubelet can take over from the other.

use std::{collections::BTreeMap, io, path::Path};

use serde::{Deserialize, Serialize};

use super::claims::{Claims, Device, Info};
use crate::util::file;

/// Name of the file, in the kubelet's folder.
pub const FILE: &str = "dra_manager_state";
const KIND: &str = "DRACheckpoint";
const VERSION: &str = "checkpoint.dra.kubelet.k8s.io/v1";

/// The file: JSON inside of JSON, with a checksum (CRC-32, IEEE) of what is inside.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: String,
    checksum: u32,
}

#[derive(Serialize, Deserialize)]
struct Data {
    kind: String,
    #[serde(rename = "apiVersion")]
    version: String,
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<ClaimState>>,
}

#[derive(Serialize, Deserialize)]
struct ClaimState {
    #[serde(rename = "ClaimUID")]
    uid: String,
    #[serde(rename = "ClaimName")]
    name: String,
    #[serde(rename = "Namespace")]
    namespace: String,
    /// A set, which Go writes as a map to nothing.
    #[serde(rename = "PodUIDs")]
    pods: BTreeMap<String, Nothing>,
    #[serde(rename = "DriverState")]
    drivers: BTreeMap<String, DriverState>,
}

#[derive(Serialize, Deserialize)]
struct Nothing {}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    devices: Option<Vec<DeviceState>>,
}

#[derive(Serialize, Deserialize)]
struct DeviceState {
    #[serde(rename = "PoolName")]
    pool: String,
    #[serde(rename = "DeviceName")]
    name: String,
    #[serde(rename = "ShareID")]
    share_id: Option<String>,
    #[serde(rename = "RequestNames")]
    requests: Option<Vec<String>>,
    #[serde(rename = "CDIDeviceIDs")]
    cdi_ids: Option<Vec<String>>,
}

impl From<&Device> for DeviceState {
    fn from(d: &Device) -> Self {
        Self {
            pool: d.pool.clone(),
            name: d.name.clone(),
            share_id: d.share_id.clone(),
            requests: Some(d.requests.clone()),
            cdi_ids: Some(d.cdi_ids.clone()),
        }
    }
}

impl From<DeviceState> for Device {
    fn from(d: DeviceState) -> Self {
        Self {
            pool: d.pool,
            name: d.name,
            share_id: d.share_id,
            requests: d.requests.unwrap_or_default(),
            cdi_ids: d.cdi_ids.unwrap_or_default(),
        }
    }
}

impl From<&Info> for ClaimState {
    fn from(i: &Info) -> Self {
        let devices =
            |list: &Vec<Device>| DriverState { devices: Some(list.iter().map(Into::into).collect()) };
        Self {
            uid: i.uid.clone(),
            name: i.name.clone(),
            namespace: i.namespace.clone(),
            pods: i.pods.iter().map(|p| (p.clone(), Nothing {})).collect(),
            drivers: i.drivers.iter().map(|(d, list)| (d.clone(), devices(list))).collect(),
        }
    }
}

impl From<ClaimState> for Info {
    fn from(c: ClaimState) -> Self {
        let devices = |s: DriverState| s.devices.into_iter().flatten().map(Into::into).collect();
        Self {
            uid: c.uid,
            name: c.name,
            namespace: c.namespace,
            pods: c.pods.into_keys().collect(),
            drivers: c.drivers.into_iter().map(|(d, s)| (d, devices(s))).collect(),
            prepared: false,
        }
    }
}

/// Reads the file; none is as good as an empty one.
///
/// # Errors
/// It cannot be read, is damaged, or of another version.
pub fn read(path: &Path) -> Result<Claims, String> {
    let Some(text) = file::read(path).map_err(|e| e.to_string())? else { return Ok(Claims::default()) };
    let outer: Checkpoint = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    if crc32fast::hash(outer.data.as_bytes()) != outer.checksum {
        return Err("checkpoint is corrupted: its checksum is another".into());
    }
    let data: Data = serde_json::from_str(&outer.data).map_err(|e| e.to_string())?;
    if data.kind != KIND || data.version != VERSION {
        return Err(format!("unsupported checkpoint {} of {}", data.kind, data.version));
    }
    Ok(Claims::restore(data.claims.into_iter().flatten().map(Into::into)))
}

/// Writes the file; it is whole or as it was.
///
/// # Errors
/// The disk.
pub fn write(path: &Path, claims: &Claims) -> io::Result<()> {
    let data = Data {
        kind: KIND.into(),
        version: VERSION.into(),
        claims: Some(claims.iter().map(Into::into).collect()),
    };
    let data = serde_json::to_string(&data)?;
    let outer = Checkpoint { checksum: crc32fast::hash(data.as_bytes()), data };
    file::replace(path, &serde_json::to_vec(&outer)?, true)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn upstreams_file_is_read_and_ours_has_its_form() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(FILE);
        assert_eq!(read(&path), Ok(Claims::default()));
        let data = r#"{"kind":"DRACheckpoint","apiVersion":"checkpoint.dra.kubelet.k8s.io/v1","ClaimInfoStateList":[{"ClaimUID":"u","ClaimName":"c","Namespace":"n","PodUIDs":{"p":{}},"DriverState":{"d":{"Devices":[{"PoolName":"pool","DeviceName":"dev","ShareID":null,"RequestNames":["r"],"CDIDeviceIDs":["v/c=1"]}]},"e":{"Devices":null}}}]}"#;
        let outer = Checkpoint { data: data.into(), checksum: crc32fast::hash(data.as_bytes()) };
        fs::write(&path, serde_json::to_vec(&outer).unwrap()).unwrap();
        let claims = read(&path).unwrap();
        let info = claims.get("n", "c").unwrap();
        assert_eq!(info.cdi_devices("r").collect::<Vec<_>>(), ["v/c=1"]);
        assert_eq!((info.pods.len(), info.drivers["e"].len(), info.prepared), (1, 0, false));
        write(&path, &claims).unwrap();
        let written: Checkpoint = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(written.data, data.replace(r#""Devices":null"#, r#""Devices":[]"#));
        assert_eq!(read(&path).unwrap(), claims);
        let broken = fs::read_to_string(&path).unwrap().replace("pool", "pond");
        fs::write(&path, broken).unwrap();
        assert!(read(&path).is_err_and(|e| e.contains("corrupted")));
    }
}
