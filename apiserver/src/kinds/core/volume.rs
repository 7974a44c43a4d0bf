//! Persistent volumes and claims on them.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{claim_validation, volume_validation};
use crate::field::{ErrorList, Path};
use crate::kinds::podspec::volume_defaults::{default_claim_spec, default_host_path, mirror_data_sources};
use crate::kinds::podspec::warnings::node_term;
use crate::kinds::quantity::canonical_list;
use crate::kinds::semantic::{fill, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of persistent volumes.
pub struct PersistentVolume;

/// Rules of claims.
pub struct PersistentVolumeClaim;

/// The API tells times in whole seconds.
fn now(cx: &Context) -> Time {
    let now = cx.now();
    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
}

impl Strategy for PersistentVolume {
    type Object = api::PersistentVolume;

    fn default(&self, pv: &mut api::PersistentVolume) {
        let spec = pv.spec.get_or_insert_with(Default::default);
        fill(&mut spec.persistent_volume_reclaim_policy, "Retain");
        spec.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
        canonical_list(&mut spec.capacity);
        if let Some(s) = &mut spec.host_path {
            default_host_path(s);
        }
        if let Some(s) = &mut spec.iscsi {
            fill(&mut s.iscsi_interface, "default");
        }
        if let Some(s) = &mut spec.rbd {
            fill(&mut s.pool, "rbd");
            fill(&mut s.user, "admin");
            fill(&mut s.keyring, "/etc/ceph/keyring");
        }
        if let Some(s) = &mut spec.scale_io {
            fill(&mut s.storage_mode, "ThinProvisioned");
            fill(&mut s.fs_type, "xfs");
        }
        if let Some(s) = &mut spec.azure_disk {
            fill(&mut s.caching_mode, "ReadWrite");
            fill(&mut s.kind, "Shared");
            fill(&mut s.fs_type, "ext4");
            s.read_only.get_or_insert(false);
        }
        fill(&mut pv.status.get_or_insert_with(Default::default).phase, "Pending");
    }

    fn prepare_create(&self, cx: &mut Context, pv: &mut api::PersistentVolume) {
        pv.status = Some(api::PersistentVolumeStatus {
            phase: Some("Pending".to_owned()),
            last_phase_transition_time: Some(now(cx)),
            ..Default::default()
        });
    }

    fn prepare_update(&self, cx: &mut Context, pv: &mut api::PersistentVolume, old: &api::PersistentVolume) {
        if !cx.is_status() {
            pv.status = old.status.clone();
            return;
        }
        pv.spec = old.spec.clone();
        let before = old.status.clone().unwrap_or_default();
        let status = pv.status.get_or_insert_with(Default::default);
        let given = status.last_phase_transition_time != before.last_phase_transition_time
            && status.last_phase_transition_time.is_some();
        if text(&status.phase) != text(&before.phase) {
            if !given {
                status.last_phase_transition_time = Some(now(cx));
            }
        } else if status.last_phase_transition_time.is_none() {
            status.last_phase_transition_time = before.last_phase_transition_time;
        }
    }

    fn validate(&self, cx: &mut Context, pv: &api::PersistentVolume) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        volume_warnings(pv, &mut cx.warnings);
        volume_validation::volume(pv)
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        pv: &api::PersistentVolume,
        old: &api::PersistentVolume,
    ) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        volume_validation::volume_update(pv, old)
    }
}

/// Sentences on what is deprecated in a volume.
fn volume_warnings(pv: &api::PersistentVolume, out: &mut Vec<String>) {
    let at = Path::new("metadata").child("annotations");
    for (key, advice) in [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ] {
        if pv.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(key)) {
            out.push(format!("{}: {advice}", at.key(key)));
        }
    }
    let Some(s) = &pv.spec else { return };
    let spec = Path::new("spec");
    if text(&s.persistent_volume_reclaim_policy) == "Recycle" {
        out.push(format!(
            "{}: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.",
            spec.child("persistentVolumeReclaimPolicy")
        ));
    }
    let terms = s.node_affinity.as_ref().and_then(|a| a.required.as_ref());
    let at = spec.child("nodeAffinity").child("required").child("nodeSelectorTerms");
    for (i, t) in terms.iter().flat_map(|r| r.node_selector_terms.iter()).enumerate() {
        node_term(t, false, &at.index(i), out);
    }
    for (given, field, since) in [
        (s.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
        (
            s.photon_persistent_disk.is_some(),
            "photonPersistentDisk",
            "deprecated in v1.11, non-functional in v1.16+",
        ),
        (s.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
        (s.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
        (s.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
        (s.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
    ] {
        if given {
            out.push(format!("{}: {since}", spec.child(field)));
        }
    }
}

impl Strategy for PersistentVolumeClaim {
    type Object = api::PersistentVolumeClaim;

    fn default(&self, pvc: &mut api::PersistentVolumeClaim) {
        default_claim_spec(pvc.spec.get_or_insert_with(Default::default));
        let status = pvc.status.get_or_insert_with(Default::default);
        fill(&mut status.phase, "Pending");
        canonical_list(&mut status.capacity);
        canonical_list(&mut status.allocated_resources);
    }

    fn prepare_create(&self, _cx: &mut Context, pvc: &mut api::PersistentVolumeClaim) {
        mirror_data_sources(pvc.spec.get_or_insert_with(Default::default), None);
        pvc.status = Some(api::PersistentVolumeClaimStatus {
            phase: Some("Pending".to_owned()),
            ..Default::default()
        });
    }

    fn prepare_update(
        &self,
        cx: &mut Context,
        pvc: &mut api::PersistentVolumeClaim,
        old: &api::PersistentVolumeClaim,
    ) {
        if cx.is_status() {
            pvc.spec = old.spec.clone();
        } else {
            pvc.status = old.status.clone();
            mirror_data_sources(pvc.spec.get_or_insert_with(Default::default), old.spec.as_ref());
        }
    }

    fn validate(&self, _cx: &mut Context, pvc: &api::PersistentVolumeClaim) -> ErrorList {
        pvc.spec.as_ref().map_or_else(ErrorList::new, |s| claim_validation::spec(s, &Path::new("spec")))
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        pvc: &api::PersistentVolumeClaim,
        old: &api::PersistentVolumeClaim,
    ) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        volume_validation::claim_update(pvc, old)
    }
}
