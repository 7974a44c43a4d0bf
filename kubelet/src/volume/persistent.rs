//! Volumes behind claims: from the claim to its volume, and from there to a path on the node.
//!
//! The claim is asked of the API server each time, so that a pod never starts on a claim that was just deleted.

use std::{fs, os::unix::fs::FileTypeExt, path::Path};

use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod, Volume};
use kube::{Api, Client};

use super::{host_path, local, setup::Mounted, setup::Setup};
use crate::pod::spec;

/// A claim with the volume that it is bound to.
pub struct Claimed {
    pub claim: PersistentVolumeClaim,
    pub volume: PersistentVolume,
    /// The pod wants no more than to read.
    pub read_only: bool,
}

impl Claimed {
    /// Whether containers get the device itself.
    pub fn is_block(&self) -> bool {
        self.volume.spec.as_ref().and_then(|s| s.volume_mode.as_deref()) == Some("Block")
    }

    /// The volume's name.
    pub fn name(&self) -> &str {
        self.volume.metadata.name.as_deref().unwrap_or_default()
    }
}

/// The claim that a pod's volume uses, and whether only for reading.
fn claim_of(pod: &Pod, v: &Volume) -> Option<(String, bool)> {
    match (&v.persistent_volume_claim, &v.ephemeral) {
        (Some(source), _) => Some((source.claim_name.clone(), source.read_only == Some(true))),
        (None, Some(_)) => Some((format!("{}-{}", spec::name(pod), v.name), false)),
        (None, None) => None,
    }
}

/// Whether the claim was made for this pod.
fn owned_by(pod: &Pod, claim: &PersistentVolumeClaim) -> bool {
    let owners = claim.metadata.owner_references.iter().flatten();
    owners.into_iter().any(|o| o.controller == Some(true) && o.uid == spec::uid(pod))
}

/// Checks a claim before its volume is looked up; gives the volume's name.
fn check_claim<'a>(pod: &Pod, v: &Volume, claim: &'a PersistentVolumeClaim) -> Result<&'a str, String> {
    let name = claim.metadata.name.as_deref().unwrap_or_default();
    if claim.metadata.deletion_timestamp.is_some() {
        return Err("PVC is being deleted".into());
    }
    let bound = claim.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Bound");
    let volume = claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|n| !n.is_empty());
    let Some(volume) = volume.filter(|_| bound) else { return Err("PVC is not bound".into()) };
    if v.ephemeral.is_some() && !owned_by(pod, claim) {
        let (ns, of) = (spec::namespace(pod), spec::name(pod));
        return Err(format!("PVC {ns}/{name} was not created for pod {ns}/{of} (pod is not owner)"));
    }
    Ok(volume)
}

/// Checks that volume and claim belong together, and that containers use the volume as what it is.
fn check_volume(pod: &Pod, v: &Volume, c: &Claimed) -> Result<(), String> {
    let reference = c.volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref());
    let Some(reference) = reference else {
        return Err(format!(
            "found PV object {:?} but it has a nil pv.Spec.ClaimRef indicating it is not yet bound to the claim",
            c.name()
        ));
    };
    if reference.uid != c.claim.metadata.uid {
        return Err(format!(
            "found PV object {:?} but its pv.Spec.ClaimRef.UID {:?} does not point to claim.UID {:?}",
            c.name(),
            reference.uid.as_deref().unwrap_or_default(),
            c.claim.metadata.uid.as_deref().unwrap_or_default()
        ));
    }
    let s = spec::spec(pod);
    let mut all = s.containers.iter().chain(s.init_containers.iter().flatten());
    let block = c.is_block();
    let wrongly = all.any(|container| {
        if block {
            container.volume_mounts.iter().flatten().any(|m| m.name == v.name)
        } else {
            container.volume_devices.iter().flatten().any(|d| d.name == v.name)
        }
    });
    match (wrongly, block) {
        (false, _) => Ok(()),
        (true, true) => {
            Err(format!("volume {} has volumeMode Block, but is specified in volumeMounts", v.name))
        }
        (true, false) => {
            Err(format!("volume {} has volumeMode Filesystem, but is specified in volumeDevices", v.name))
        }
    }
}

/// Looks up the claim and volume behind a pod's volume; `None` if it is of another kind.
pub async fn resolve(client: Option<&Client>, pod: &Pod, v: &Volume) -> Result<Option<Claimed>, String> {
    let Some((name, read_only)) = claim_of(pod, v) else { return Ok(None) };
    let client = client.ok_or("a claim needs an API server, and none is configured")?;
    let namespace = spec::namespace(pod);
    let about = |e: String| format!("error processing PVC {namespace}/{name}: {e}");
    let claims: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let claim = claims
        .get(&name)
        .await
        .map_err(|e| about(format!("failed to fetch PVC from API server: {}", message(&e))))?;
    let volume = check_claim(pod, v, &claim).map_err(about)?.to_owned();
    let volumes: Api<PersistentVolume> = Api::all(client.clone());
    let volume = volumes
        .get(&volume)
        .await
        .map_err(|e| about(format!("failed to fetch PV {volume} from API server: {}", message(&e))))?;
    let claimed = Claimed { claim, volume, read_only };
    check_volume(pod, v, &claimed).map_err(about)?;
    Ok(Some(claimed))
}

fn message(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

/// Makes the volume usable on this node.
pub async fn mount(s: &Setup<'_>, pod: &Pod, c: &Claimed) -> Result<Mounted, String> {
    let spec = c.volume.spec.clone().unwrap_or_default();
    let read_only = c.read_only;
    if let Some(source) = &spec.csi {
        return s.csi.mount_claimed(s, pod, c, source).await;
    }
    let path = if let Some(source) = &spec.local {
        &source.path
    } else if let Some(source) = &spec.host_path {
        &source.path
    } else {
        let kind = serde_json::to_value(&spec).unwrap_or_default();
        let known = [
            "nfs",
            "iscsi",
            "fc",
            "rbd",
            "cephfs",
            "awsElasticBlockStore",
            "gcePersistentDisk",
            "azureDisk",
            "azureFile",
            "cinder",
            "vsphereVolume",
            "portworxVolume",
            "flexVolume",
            "flocker",
            "glusterfs",
            "photonPersistentDisk",
            "quobyte",
            "scaleIO",
            "storageos",
        ];
        let name = known.iter().find(|k| kind.get(k).is_some()).copied().unwrap_or("(unknown)");
        return Err(format!("volume type {name} is not supported by this kubelet: use its CSI driver"));
    };
    let path = Path::new(path);
    if c.is_block() {
        let is_device = fs::metadata(path).map_err(|e| format!("{}: {e}", path.display()))?;
        if !is_device.file_type().is_block_device() {
            return Err(format!("{} is not a block device", path.display()));
        }
        return Ok(Mounted { path: path.to_owned(), read_only, block: true });
    }
    if spec.local.is_some() {
        return local::mount(s.dirs, c, path, pod).map(|path| Mounted { path, read_only, block: false });
    }
    let kind = spec.host_path.as_ref().and_then(|h| h.type_.as_deref()).unwrap_or_default();
    host_path::check(path, kind)?;
    Ok(Mounted { path: path.to_owned(), read_only, block: false })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap()
    }

    fn pod(mount: &str) -> Pod {
        of(json!({"metadata": {"name": "p", "namespace": "n", "uid": "pod"}, "spec": {
            "containers": [{"name": "c", mount: [{"name": "v", "mountPath": "/v", "devicePath": "/dev/v"}]}],
            "volumes": [{"name": "v", "ephemeral": {}}, {"name": "w", "persistentVolumeClaim": {"claimName": "x", "readOnly": true}}]}}))
    }

    fn claim(phase: &str) -> PersistentVolumeClaim {
        of(
            json!({"metadata": {"name": "p-v", "uid": "u"}, "spec": {"volumeName": "pv"}, "status": {"phase": phase}}),
        )
    }

    #[test]
    fn only_bound_claims_of_the_pod_itself_are_used() {
        let p = pod("volumeMounts");
        let volumes = p.spec.clone().unwrap().volumes.unwrap();
        assert_eq!(claim_of(&p, &volumes[0]), Some(("p-v".into(), false)));
        assert_eq!(claim_of(&p, &volumes[1]), Some(("x".into(), true)));
        assert_eq!(check_claim(&p, &volumes[1], &claim("Bound")), Ok("pv"));
        assert_eq!(check_claim(&p, &volumes[1], &claim("Pending")).unwrap_err(), "PVC is not bound");
        assert!(check_claim(&p, &volumes[0], &claim("Bound")).unwrap_err().contains("pod is not owner"));
        let mut ours = claim("Bound");
        ours.metadata.owner_references = Some(vec![of(
            json!({"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": "pod", "controller": true}),
        )]);
        assert_eq!(check_claim(&p, &volumes[0], &ours), Ok("pv"));
    }

    #[test]
    fn mode_and_use_must_agree() {
        let claimed = |mode: &str, uid: &str| Claimed {
            claim: claim("Bound"),
            volume: of(
                json!({"metadata": {"name": "pv"}, "spec": {"volumeMode": mode, "claimRef": {"uid": uid}}}),
            ),
            read_only: false,
        };
        let mounts = pod("volumeMounts");
        let v = mounts.spec.clone().unwrap().volumes.unwrap()[0].clone();
        assert_eq!(check_volume(&mounts, &v, &claimed("Filesystem", "u")), Ok(()));
        assert!(check_volume(&mounts, &v, &claimed("Block", "u")).unwrap_err().contains("volumeMounts"));
        assert_eq!(check_volume(&pod("volumeDevices"), &v, &claimed("Block", "u")), Ok(()));
        assert!(check_volume(&pod("volumeDevices"), &v, &claimed("Filesystem", "u")).is_err());
        assert!(
            check_volume(&mounts, &v, &claimed("Filesystem", "x")).unwrap_err().contains("does not point")
        );
    }
}
