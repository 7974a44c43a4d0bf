//! Volumes of a pod: named once, of one type each.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::Volume;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::volume_source as source;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::quantity::amount;
use crate::kinds::validate::{invalid_each, text as rules};

/// Checks all volumes; answers with those that are fine, by name: mounts of others are told as not found.
pub fn volumes<'a>(
    list: &'a [Volume],
    pod: Option<&ObjectMeta>,
    path: &Path,
    errors: &mut ErrorList,
) -> BTreeMap<&'a str, &'a Volume> {
    let pod_name = pod.and_then(|m| m.name.as_deref()).unwrap_or_default();
    let mut created = BTreeSet::new();
    for v in list.iter().filter(|v| v.ephemeral.is_some() && !pod_name.is_empty()) {
        created.insert(format!("{pod_name}-{}", v.name));
    }
    let mut fine: BTreeMap<&str, &Volume> = BTreeMap::new();
    for (i, v) in list.iter().enumerate() {
        let path = path.index(i);
        let at_name = path.child("name");
        let mut own = ErrorList::new();
        one_source(v, pod_name, &path, &mut own);
        if v.name.is_empty() {
            own.push(Error::required(&at_name, ""));
        } else {
            own.extend(invalid_each(&at_name, &v.name, rules::dns1123_label(&v.name)));
        }
        if fine.contains_key(v.name.as_str()) {
            own.push(Error::duplicate(&at_name, &v.name));
        }
        if own.is_empty() {
            fine.insert(&v.name, v);
        } else {
            errors.extend(own);
        }
        if let Some(c) = &v.persistent_volume_claim
            && created.contains(&c.claim_name)
        {
            errors.push(Error::invalid(
                &path.child("persistentVolumeClaim").child("claimName"),
                &c.claim_name,
                "must not reference a PVC that gets created for an ephemeral volume",
            ));
        }
    }
    fine
}

/// Counts the types that a volume claims to be of, and refuses all but the first.
struct Counter<'a> {
    found: bool,
    path: &'a Path,
}

impl Counter<'_> {
    /// True if `given` and the first of its kind.
    fn first(&mut self, name: &str, given: bool, errors: &mut ErrorList) -> bool {
        if !given {
            return false;
        }
        if self.found {
            errors.push(Error::forbidden(&self.path.child(name), "may not specify more than 1 volume type"));
            return false;
        }
        self.found = true;
        true
    }
}

fn one_source(v: &Volume, pod_name: &str, path: &Path, errors: &mut ErrorList) {
    let mut n = Counter { found: false, path };
    if let Some(e) = &v.empty_dir {
        n.found = true;
        if e.size_limit.as_ref().is_some_and(|q| amount(q).is_negative()) {
            errors.push(Error::forbidden(
                &path.child("emptyDir").child("sizeLimit"),
                "SizeLimit field must be a valid resource quantity",
            ));
        }
    }
    macro_rules! check {
        ($field:ident, $name:literal, $check:path) => {
            if n.first($name, v.$field.is_some(), errors)
                && let Some(s) = &v.$field
            {
                $check(s, &path.child($name), errors);
            }
        };
    }
    check!(host_path, "hostPath", source::host_path);
    check!(git_repo, "gitRepo", source::git_repo);
    check!(gce_persistent_disk, "gcePersistentDisk", source::gce_disk);
    check!(aws_elastic_block_store, "awsElasticBlockStore", source::aws_disk);
    check!(secret, "secret", source::secret);
    check!(nfs, "nfs", source::nfs);
    check!(iscsi, "iscsi", source::iscsi);
    check!(glusterfs, "glusterfs", source::glusterfs);
    check!(flocker, "flocker", source::anything);
    check!(persistent_volume_claim, "persistentVolumeClaim", source::claim);
    check!(rbd, "rbd", source::rbd);
    check!(cinder, "cinder", source::cinder);
    check!(cephfs, "cephfs", source::cephfs);
    check!(quobyte, "quobyte", source::anything);
    check!(downward_api, "downwardAPI", source::downward_api);
    check!(fc, "fc", source::fc);
    check!(flex_volume, "flexVolume", source::flex);
    check!(config_map, "configMap", source::config_map);
    check!(azure_file, "azureFile", source::azure_file);
    check!(vsphere_volume, "vsphereVolume", source::vsphere);
    check!(photon_persistent_disk, "photonPersistentDisk", source::anything);
    check!(portworx_volume, "portworxVolume", source::portworx);
    check!(azure_disk, "azureDisk", source::anything);
    check!(storageos, "storageos", source::anything);
    check!(projected, "projected", source::projected);
    check!(scale_io, "scaleIO", source::anything);
    check!(csi, "csi", source::csi);
    check!(ephemeral, "ephemeral", source::ephemeral);
    if v.ephemeral.is_some() && !pod_name.is_empty() && !v.name.is_empty() {
        let claim = format!("{pod_name}-{}", v.name);
        for m in rules::dns1123_subdomain(&claim) {
            errors.push(Error::invalid(&path.child("name"), &v.name, format!("PVC name \"{claim}\": {m}")));
        }
    }
    check!(image, "image", source::image);
    if !n.found {
        errors.push(Error::required(path, "must specify a volume type"));
    }
}
