//! CSI drivers, what nodes run of them, and the capacity they tell.

use k8s_openapi::api::storage::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of_if_given, volume_source};
use crate::kinds::podspec::warnings::label_advice;
use crate::kinds::quantity::{amount, canonical};
use crate::kinds::semantic::{items, next_generation, same};
use crate::kinds::validate::{immutable, invalid_each, numbers, selector, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Rules of CSI drivers.
pub struct CsiDriver;

/// Rules of CSI nodes.
pub struct CsiNode;

/// Bytes that a driver's id of a node may have.
const NODE_ID_BYTES: usize = 256;

/// What is said of drivers that get tokens among the attributes of volumes.
const TOKENS_IN_ATTRIBUTES: &str = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, \
                                    set to true to prevent possible logging of tokens in volume attributes";

/// Labels in a selector of nodes that nodes should not be known by any more.
fn deprecated_labels(s: &LabelSelector, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    for (i, r) in items(&s.match_expressions).iter().enumerate() {
        if let Some(why) = label_advice(&r.key) {
            out.push(format!("{}: {} is {why}", path.child("matchExpressions").index(i).child("key"), r.key));
        }
    }
    for label in s.match_labels.iter().flatten().map(|(k, _)| k) {
        if let Some(why) = label_advice(label) {
            out.push(format!("{}: {why}", path.child("matchLabels").child(label)));
        }
    }
    out
}

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

    fn prepare_create(&self, _cx: &mut Context, d: &mut api::CSIDriver) {
        // Off by default in this release.
        d.spec.prevent_pod_scheduling_if_missing = None;
    }

    fn prepare_update(&self, _cx: &mut Context, d: &mut api::CSIDriver, old: &api::CSIDriver) {
        if old.spec.prevent_pod_scheduling_if_missing.is_none() {
            d.spec.prevent_pod_scheduling_if_missing = None;
        }
        let changed = !same(&d.spec, &old.spec);
        next_generation(&mut d.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, d: &api::CSIDriver) -> ErrorList {
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
                continue;
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
        if let Some(n) = s.node_allocatable_update_period_seconds.filter(|n| *n < 10) {
            let at = path.child("nodeAllocatableUpdatePeriodSeconds");
            errors.push(Error::invalid(&at, n, "must be greater than or equal to 10 seconds"));
        }
        let tokens = items(&s.token_requests);
        match s.service_account_token_in_secrets {
            Some(v) if tokens.is_empty() => errors.push(Error::invalid(
                &path.child("serviceAccountTokenInSecrets"),
                v,
                "serviceAccountTokenInSecrets is set but no tokenRequests are specified",
            )),
            None if !tokens.is_empty() && errors.is_empty() && !cx.updating => {
                cx.warnings.push(TOKENS_IN_ATTRIBUTES.to_owned());
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, d: &api::CSIDriver, old: &api::CSIDriver) -> ErrorList {
        let path = Path::new("spec");
        let (n, o) = (&d.spec, &old.spec);
        if n.service_account_token_in_secrets.is_none()
            && !items(&n.token_requests).is_empty()
            && !same(&n.token_requests, &o.token_requests)
        {
            cx.warnings.push(TOKENS_IN_ATTRIBUTES.to_owned());
        }
        // Upstream's name for the field in this error.
        let at = path.child("attachedRequired");
        let mut errors = immutable(&n.attach_required, &o.attach_required, &at);
        let at = path.child("volumeLifecycleModes");
        errors.extend(immutable(&n.volume_lifecycle_modes, &o.volume_lifecycle_modes, &at));
        errors
    }
}

impl Strategy for CsiNode {
    type Object = api::CSINode;

    fn optional(&self) -> &'static [&'static str] {
        &["/spec/drivers"]
    }

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
            if d.node_id.is_empty() {
                errors.push(Error::required(&path.child("nodeID"), ""));
            } else if d.node_id.len() > NODE_ID_BYTES {
                let why = format!("must be {NODE_ID_BYTES} characters or less");
                errors.push(Error::invalid(&path.child("nodeID"), &d.node_id, why));
            }
            let count = d.allocatable.as_ref().and_then(|a| a.count);
            errors.extend(numbers::non_negative_opt(count, &path.child("allocatable").child("count")));
            if !seen.insert(&d.name) {
                errors.push(Error::duplicate(&path.child("name"), &d.name));
            }
            let mut keys = std::collections::BTreeSet::new();
            for k in items(&d.topology_keys) {
                if k.is_empty() {
                    errors.push(Error::required(&path, ""));
                }
                if !keys.insert(k) {
                    errors.push(Error::duplicate(&path, k));
                }
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

    fn validate(&self, cx: &mut Context, c: &api::CSIStorageCapacity) -> ErrorList {
        let topology = Path::new("nodeTopology");
        let mut errors = ErrorList::new();
        errors.extend(selector::label_selector(c.node_topology.as_ref(), &topology));
        let name = &c.storage_class_name;
        errors.extend(invalid_each(&Path::new("storageClassName"), name, rules::dns1123_subdomain(name)));
        if let Some(q) = c.capacity.as_ref().filter(|q| amount(q).is_negative()) {
            let why = "must be greater than or equal to 0";
            errors.push(Error::invalid(&Path::new("capacity"), q, why));
        }
        if let (true, Some(s)) = (errors.is_empty(), &c.node_topology) {
            cx.warnings.extend(deprecated_labels(s, &topology));
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, c: &Self::Object, old: &Self::Object) -> ErrorList {
        let mut errors = immutable(&c.node_topology, &old.node_topology, &Path::new("nodeTopology"));
        let at = Path::new("storageClassName");
        errors.extend(immutable(&c.storage_class_name, &old.storage_class_name, &at));
        errors
    }
}
