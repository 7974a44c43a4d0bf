//! What may be wrong with a persistent volume, and what may change of volumes and claims.

use k8s_openapi::api::core::v1::{
    NodeSelectorRequirement, NodeSelectorTerm, PersistentVolume, PersistentVolumeClaim, PersistentVolumeSpec,
    VolumeNodeAffinity,
};

use super::claim_validation::access_modes;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::diff::diff;
use crate::kinds::podspec::validate::{one_of_if_given, scheduling, volume_source};
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, same, text};
use crate::kinds::validate::printed::{json, list, object};
use crate::kinds::validate::{immutable, invalid_each, text as rules};

/// Spec of a volume.
pub fn volume(pv: &PersistentVolume) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = &pv.spec else { return errors };
    let path = Path::new("spec");
    let at = path.child("accessModes");
    if items(&s.access_modes).is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        access_modes(items(&s.access_modes), &at, &mut errors);
    }
    capacity(s, &path.child("capacity"), &mut errors);
    one_of_if_given(
        &s.persistent_volume_reclaim_policy,
        &["Delete", "Recycle", "Retain"],
        &path.child("persistentVolumeReclaimPolicy"),
        &mut errors,
    );
    if let Some(n) = s.node_affinity.as_ref().and_then(|a| a.required.as_ref()) {
        scheduling::node_selector(n, &path.child("nodeAffinity").child("required"), &mut errors);
    } else if s.node_affinity.is_some() {
        errors.push(Error::required(
            &path.child("nodeAffinity").child("required"),
            "must specify required node constraints",
        ));
    }
    source(s, &path, &mut errors);
    let class = text(&s.storage_class_name);
    if !class.is_empty() {
        let at = path.child("storageClassName");
        errors.extend(invalid_each(&at, class, rules::dns1123_subdomain(class)));
    }
    one_of_if_given(&s.volume_mode, &["Block", "Filesystem"], &path.child("volumeMode"), &mut errors);
    errors
}

fn capacity(s: &PersistentVolumeSpec, path: &Path, errors: &mut ErrorList) {
    let blank = Default::default();
    let list = s.capacity.as_ref().unwrap_or(&blank);
    if list.is_empty() {
        errors.push(Error::required(path, ""));
    }
    if !list.contains_key("storage") || list.len() > 1 {
        errors.push(Error::not_supported(path, Some(list).filter(|l| !l.is_empty()), &["storage"]));
    }
    for (name, q) in list {
        let a = amount(q);
        let at = path.key(name);
        if a.is_negative() {
            errors.push(Error::invalid(&at, a.value(), "must be a valid resource quantity"));
        }
        if a.is_negative() || a.is_zero() {
            errors.push(Error::invalid(&at, &q.0, "must be greater than zero"));
        }
    }
}

fn source(s: &PersistentVolumeSpec, path: &Path, errors: &mut ErrorList) {
    let mut found = false;
    let mut first = |name: &str, given: bool, errors: &mut ErrorList| {
        if given && found {
            errors.push(Error::forbidden(&path.child(name), "may not specify more than 1 volume type"));
        }
        let run = given && !found;
        found |= given;
        run
    };
    if first("hostPath", s.host_path.is_some(), errors)
        && let Some(h) = &s.host_path
    {
        volume_source::host_path(h, &path.child("hostPath"), errors);
    }
    for (name, given) in [
        ("gcePersistentDisk", s.gce_persistent_disk.is_some()),
        ("awsElasticBlockStore", s.aws_elastic_block_store.is_some()),
        ("glusterfs", s.glusterfs.is_some()),
        ("flocker", s.flocker.is_some()),
    ] {
        first(name, given, errors);
    }
    if first("nfs", s.nfs.is_some(), errors)
        && let Some(n) = &s.nfs
    {
        volume_source::nfs(n, &path.child("nfs"), errors);
    }
    for (name, given) in [
        ("rbd", s.rbd.is_some()),
        ("quobyte", s.quobyte.is_some()),
        ("cephFS", s.cephfs.is_some()),
        ("iscsi", s.iscsi.is_some()),
        ("cinder", s.cinder.is_some()),
        ("fc", s.fc.is_some()),
        ("flexVolume", s.flex_volume.is_some()),
        ("azureFile", s.azure_file.is_some()),
        ("vsphereVolume", s.vsphere_volume.is_some()),
        ("photonPersistentDisk", s.photon_persistent_disk.is_some()),
        ("portworxVolume", s.portworx_volume.is_some()),
        ("azureDisk", s.azure_disk.is_some()),
        ("scaleIO", s.scale_io.is_some()),
    ] {
        first(name, given, errors);
    }
    if first("local", s.local.is_some(), errors)
        && let Some(l) = &s.local
    {
        if l.path.is_empty() {
            errors.push(Error::required(&path.child("local").child("path"), ""));
        } else {
            super::super::podspec::validate::mounts::no_backsteps(
                &l.path,
                &path.child("local").child("path"),
                errors,
            );
        }
        if s.node_affinity.is_none() {
            errors.push(Error::required(&path.child("nodeAffinity"), "Local volume requires node affinity"));
        }
    }
    first("storageos", s.storageos.is_some(), errors);
    if first("csi", s.csi.is_some(), errors)
        && let Some(c) = &s.csi
    {
        let at = path.child("csi");
        volume_source::driver_name(&c.driver, &at.child("driver"), errors);
        if c.volume_handle.is_empty() {
            errors.push(Error::required(&at.child("volumeHandle"), ""));
        }
    }
    if !found {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}

/// The source of a volume never changes, nor does its mode.
pub fn volume_update(new: &PersistentVolume, old: &PersistentVolume) -> ErrorList {
    // Upstream looks at the whole once more.
    let mut errors = volume(new);
    let (Some(n), Some(o)) = (&new.spec, &old.spec) else { return errors };
    let source_of = |s: &PersistentVolumeSpec| PersistentVolumeSpec {
        access_modes: None,
        capacity: None,
        claim_ref: None,
        mount_options: None,
        node_affinity: None,
        persistent_volume_reclaim_policy: None,
        storage_class_name: None,
        volume_attributes_class_name: None,
        volume_mode: None,
        ..s.clone()
    };
    let (a, b) = (source_of(n), source_of(o));
    if !same(&a, &b) {
        errors.push(Error::forbidden(
            &Path::new("spec").child("persistentvolumesource"),
            format!("spec.persistentvolumesource is immutable after creation\n{}", diff(&b, &a)),
        ));
    }
    errors.extend(immutable(&n.volume_mode, &o.volume_mode, &Path::new("volumeMode")));
    errors.extend(affinity_update(n.node_affinity.as_ref(), o.node_affinity.as_ref()));
    errors
}

/// Labels of nodes that got other names, which an affinity may follow.
const RENAMED: [(&str, &str); 4] = [
    ("failure-domain.beta.kubernetes.io/zone", "topology.kubernetes.io/zone"),
    ("failure-domain.beta.kubernetes.io/region", "topology.kubernetes.io/region"),
    ("beta.kubernetes.io/instance-type", "node.kubernetes.io/instance-type"),
    ("beta.kubernetes.io/os", "kubernetes.io/os"),
];

/// Once there, the affinity of a volume stays, but for the names of labels.
fn affinity_update(new: Option<&VolumeNodeAffinity>, old: Option<&VolumeNodeAffinity>) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(old) = old else { return errors };
    let renamed = |a: &VolumeNodeAffinity| {
        let mut a = a.clone();
        let terms = a.required.iter_mut().flat_map(|r| r.node_selector_terms.iter_mut());
        for e in terms.flat_map(|t| t.match_expressions.iter_mut().flatten()) {
            if let Some((_, now)) = RENAMED.iter().find(|(before, _)| *before == e.key) {
                e.key = (*now).to_owned();
            }
        }
        a
    };
    if !new.is_some_and(|n| same(&renamed(n), &renamed(old))) {
        let mut e = Error::invalid(
            &Path::new("nodeAffinity"),
            (),
            "field is immutable, except for updating from beta label to GA",
        );
        e.value = new.map_or("null".to_owned(), printed_affinity);
        errors.push(e);
    }
    errors
}

fn printed_affinity(a: &VolumeNodeAffinity) -> String {
    let requirement = |r: &NodeSelectorRequirement| {
        object(&[("Key", json(&r.key)), ("Operator", json(&r.operator)), ("Values", json(&r.values))])
    };
    let term = |t: &NodeSelectorTerm| {
        object(&[
            ("MatchExpressions", list(t.match_expressions.as_deref(), requirement)),
            ("MatchFields", list(t.match_fields.as_deref(), requirement)),
        ])
    };
    let required = a.required.as_ref().map_or("null".to_owned(), |r| {
        object(&[("NodeSelectorTerms", list(Some(&r.node_selector_terms), term))])
    });
    object(&[("Required", required)])
}

/// Of a claim only the size may grow, once it is bound.
pub fn claim_update(new: &PersistentVolumeClaim, old: &PersistentVolumeClaim) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(n), Some(o)) = (&new.spec, &old.spec) else { return errors };
    let bound = new.status.as_ref().is_some_and(|s| text(&s.phase) == "Bound");
    let (mut a, mut b) = (n.clone(), o.clone());
    if text(&b.volume_name).is_empty() {
        b.volume_name = a.volume_name.clone();
    }
    if b.storage_class_name.is_none() {
        b.storage_class_name = a.storage_class_name.clone();
    }
    let size = |c: &k8s_openapi::api::core::v1::PersistentVolumeClaimSpec| {
        c.resources.as_ref()?.requests.as_ref()?.get("storage").cloned()
    };
    if bound {
        if let (Some(r), Some(q)) = (&mut a.resources, size(o)) {
            r.requests.get_or_insert_with(Default::default).insert("storage".to_owned(), q);
        }
        a.volume_attributes_class_name = b.volume_attributes_class_name.clone();
    }
    if !same(&a, &b) {
        errors.push(Error::forbidden(
            &Path::new("spec"),
            format!(
                "spec is immutable after creation except resources.requests and volumeAttributesClassName for \
                 bound claims\n{}",
                diff(&b, &a)
            ),
        ));
    }
    if let (Some(new_size), Some(old_size)) = (size(n), size(o))
        && amount(&new_size) < amount(&old_size)
    {
        let held = old.status.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage"));
        let held = held.map_or(crate::kinds::quantity::Amount::ZERO, amount);
        if amount(&new_size) <= held {
            errors.push(Error::forbidden(
                &Path::new("spec").child("resources").child("requests").child("storage"),
                "field can not be less than status.capacity",
            ));
        }
    }
    errors.extend(immutable(&n.volume_mode, &o.volume_mode, &Path::new("volumeMode")));
    errors
}
