//! Defaults of volumes in a pod and of the sources that persistent volumes share with them.

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, HostPathVolumeSource, ISCSIVolumeSource, PersistentVolumeClaimSpec,
    RBDVolumeSource, ScaleIOVolumeSource, Volume, VolumeProjection,
};

use super::defaults::{mode, scratch_if_sourceless};
use super::image::is_latest;
use crate::kinds::quantity::{canonical, canonical_list};
use crate::kinds::semantic::fill;

/// One volume of a pod.
pub fn default_volume(v: &mut Volume) {
    scratch_if_sourceless(v);
    if let Some(limit) = v.empty_dir.as_mut().and_then(|e| e.size_limit.as_mut()) {
        canonical(limit);
    }
    if let Some(s) = &mut v.secret {
        mode(&mut s.default_mode);
    }
    if let Some(s) = &mut v.config_map {
        mode(&mut s.default_mode);
    }
    if let Some(s) = &mut v.downward_api {
        mode(&mut s.default_mode);
        s.items.iter_mut().flatten().for_each(default_downward_file);
    }
    if let Some(s) = &mut v.projected {
        mode(&mut s.default_mode);
        s.sources.iter_mut().flatten().for_each(default_projection);
    }
    if let Some(s) = &mut v.host_path {
        default_host_path(s);
    }
    if let Some(s) = &mut v.image
        && s.pull_policy.as_deref().unwrap_or_default().is_empty()
    {
        let latest = is_latest(s.reference.as_deref().unwrap_or_default());
        s.pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
    if let Some(t) = v.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        t.metadata.get_or_insert_with(Default::default);
        default_claim_spec(&mut t.spec);
    }
    if let Some(s) = &mut v.iscsi {
        default_iscsi(s);
    }
    if let Some(s) = &mut v.rbd {
        default_rbd(s);
    }
    if let Some(s) = &mut v.scale_io {
        default_scale_io(s);
    }
    if let Some(s) = &mut v.azure_disk {
        fill(&mut s.caching_mode, "ReadWrite");
        fill(&mut s.kind, "Shared");
        fill(&mut s.fs_type, "ext4");
        s.read_only.get_or_insert(false);
    }
}

fn default_downward_file(f: &mut DownwardAPIVolumeFile) {
    if let Some(r) = &mut f.field_ref {
        fill(&mut r.api_version, "v1");
    }
    if let Some(r) = &mut f.resource_field_ref {
        canonical(r.divisor.get_or_insert_with(Default::default));
    }
}

fn default_projection(p: &mut VolumeProjection) {
    if let Some(t) = &mut p.service_account_token {
        t.expiration_seconds.get_or_insert(3600);
    }
    if let Some(d) = &mut p.downward_api {
        d.items.iter_mut().flatten().for_each(default_downward_file);
    }
}

/// Directory of the host: an absent type checks nothing.
pub fn default_host_path(s: &mut HostPathVolumeSource) {
    s.type_.get_or_insert_with(String::new);
}

/// iSCSI disks.
pub fn default_iscsi(s: &mut ISCSIVolumeSource) {
    fill(&mut s.iscsi_interface, "default");
}

/// Ceph block devices.
pub fn default_rbd(s: &mut RBDVolumeSource) {
    fill(&mut s.pool, "rbd");
    fill(&mut s.user, "admin");
    fill(&mut s.keyring, "/etc/ceph/keyring");
}

/// ScaleIO volumes.
pub fn default_scale_io(s: &mut ScaleIOVolumeSource) {
    fill(&mut s.storage_mode, "ThinProvisioned");
    fill(&mut s.fs_type, "xfs");
}

/// What a claim asks for, in a claim of its own or in a template of one.
pub fn default_claim_spec(s: &mut PersistentVolumeClaimSpec) {
    s.volume_mode.get_or_insert_with(|| "Filesystem".to_owned());
    let r = s.resources.get_or_insert_with(Default::default);
    canonical_list(&mut r.requests);
    canonical_list(&mut r.limits);
}

/// Makes the two references of a claim to the source of its data mirror each other (KEP-1495). `old` is the spec
/// before an update.
pub fn mirror_data_sources(s: &mut PersistentVolumeClaimSpec, old: Option<&PersistentVolumeClaimSpec>) {
    let in_use = old.is_some_and(|o| o.data_source.is_some() || o.data_source_ref.is_some());
    // The older reference can say claims and snapshots only; others are dropped.
    let sayable = |d: &k8s_openapi::api::core::v1::TypedLocalObjectReference| match (
        d.api_group.as_deref().unwrap_or_default(),
        d.kind.as_str(),
    ) {
        ("", kind) => kind == "PersistentVolumeClaim",
        ("snapshot.storage.k8s.io", kind) => kind == "VolumeSnapshot",
        _ => false,
    };
    if !in_use && s.data_source_ref.is_none() && s.data_source.as_ref().is_some_and(|d| !sayable(d)) {
        s.data_source = None;
    }
    // The two references mirror each other where the older one can say it.
    if let (None, Some(d)) = (&s.data_source_ref, &s.data_source) {
        s.data_source_ref = Some(k8s_openapi::api::core::v1::TypedObjectReference {
            api_group: d.api_group.clone(),
            kind: d.kind.clone(),
            name: d.name.clone(),
            namespace: None,
        });
    } else if let (Some(d), None) = (&s.data_source_ref, &s.data_source)
        && d.namespace.as_deref().unwrap_or_default().is_empty()
    {
        s.data_source = Some(k8s_openapi::api::core::v1::TypedLocalObjectReference {
            api_group: d.api_group.clone(),
            kind: d.kind.clone(),
            name: d.name.clone(),
        });
    }
}
