//! CSI drivers, what nodes run of them, and the capacity they tell.

use k8s_openapi::api::storage::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of_if_given, volume_source};
use crate::kinds::quantity::canonical;
use crate::kinds::semantic::{items, next_generation, same};
use crate::kinds::validate::{immutable, invalid_each, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of CSI drivers.
pub struct CsiDriver;

/// Rules of CSI nodes.
pub struct CsiNode;

/// Rules of CSI storage capacities.
pub struct CsiStorageCapacity;

impl Strategy for CsiDriver {
    type Object = api::CSIDriver;

    fn default(&self, d: &mut api::CSIDriver) {
        let spec = &mut d.spec;
        spec.attach_required.get_or_insert(true);
        for flag in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
        ] {
            flag.get_or_insert(false);
        }
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if items(&spec.volume_lifecycle_modes).is_empty() {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn prepare_update(&self, _cx: &mut Context, d: &mut api::CSIDriver, old: &api::CSIDriver) {
        let changed = !same(&d.spec, &old.spec);
        next_generation(&mut d.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, d: &api::CSIDriver) -> ErrorList {
        let mut errors = ErrorList::new();
        let s = &d.spec;
        let path = Path::new("spec");
        one_of_if_given(
            &s.fs_group_policy,
            &["File", "None", "ReadWriteOnceWithFSType"],
            &path.child("fsGroupPolicy"),
            &mut errors,
        );
        let mut seen = std::collections::BTreeSet::new();
        for (i, t) in items(&s.token_requests).iter().enumerate() {
            let at = path.child("tokenRequests").index(i);
            if !seen.insert(&t.audience) {
                errors.push(Error::duplicate(&at.child("audience"), &t.audience));
            }
            if let Some(n) = t.expiration_seconds {
                let at = at.child("expirationSeconds");
                if n < 600 {
                    errors.push(Error::invalid(&at, n, "may not specify a duration less than 10 minutes"));
                }
                if n > 1 << 32 {
                    errors.push(Error::invalid(
                        &at,
                        n,
                        "may not specify a duration larger than 2^32 seconds",
                    ));
                }
            }
        }
        for m in items(&s.volume_lifecycle_modes) {
            if !["Persistent", "Ephemeral"].contains(&m.as_str()) {
                errors.push(Error::not_supported(
                    &path.child("volumeLifecycleModes"),
                    m,
                    &["Persistent", "Ephemeral"],
                ));
            }
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, d: &api::CSIDriver, old: &api::CSIDriver) -> ErrorList {
        let path = Path::new("spec");
        let (n, o) = (&d.spec, &old.spec);
        let at = path.child("attachRequired");
        let mut errors = immutable(&n.attach_required, &o.attach_required, &at);
        let at = path.child("volumeLifecycleModes");
        errors.extend(immutable(&n.volume_lifecycle_modes, &o.volume_lifecycle_modes, &at));
        errors
    }
}

impl Strategy for CsiNode {
    type Object = api::CSINode;

    /// What a driver said of the node stays, but for how many volumes it takes.
    fn validate_update(&self, _cx: &mut Context, n: &api::CSINode, old: &api::CSINode) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("drivers");
        for before in &old.spec.drivers {
            for now in n.spec.drivers.iter().filter(|d| d.name == before.name) {
                let bare = |d: &api::CSINodeDriver| api::CSINodeDriver { allocatable: None, ..d.clone() };
                errors.extend(immutable(&bare(now), &bare(before), &path));
            }
        }
        errors
    }

    fn validate(&self, _cx: &mut Context, n: &api::CSINode) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut seen = std::collections::BTreeSet::new();
        for (i, d) in n.spec.drivers.iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            volume_source::driver_name(&d.name, &path.child("name"), &mut errors);
            if !seen.insert(&d.name) {
                errors.push(Error::duplicate(&path.child("name"), &d.name));
            }
            if d.node_id.is_empty() {
                errors.push(Error::required(&path.child("nodeID"), ""));
            } else if d.node_id.len() > 192 {
                errors.push(Error::invalid(
                    &path.child("nodeID"),
                    &d.node_id,
                    "must be 192 characters or less",
                ));
            }
            for k in items(&d.topology_keys) {
                errors.extend(invalid_each(&path, k, rules::qualified_name(k)));
            }
        }
        errors
    }
}

impl Strategy for CsiStorageCapacity {
    type Object = api::CSIStorageCapacity;

    fn default(&self, c: &mut api::CSIStorageCapacity) {
        for q in [&mut c.capacity, &mut c.maximum_volume_size].into_iter().flatten() {
            canonical(q);
        }
    }

    fn validate(&self, _cx: &mut Context, c: &api::CSIStorageCapacity) -> ErrorList {
        let path = Path::new("storageClassName");
        let name = &c.storage_class_name;
        invalid_each(&path, name, rules::dns1123_subdomain(name))
    }

    fn validate_update(&self, _cx: &mut Context, c: &Self::Object, old: &Self::Object) -> ErrorList {
        let mut errors = immutable(&c.node_topology, &old.node_topology, &Path::new("nodeTopology"));
        let at = Path::new("storageClassName");
        errors.extend(immutable(&c.storage_class_name, &old.storage_class_name, &at));
        errors
    }
}
