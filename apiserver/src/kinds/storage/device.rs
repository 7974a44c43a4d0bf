//! Devices: classes, claims, templates of claims, and the slices that tell what a node has.

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::{claim_status, device_validation as validation};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::resources;
use crate::kinds::quantity::canonical;
use crate::kinds::semantic::{fill, first_generation, keep_metadata, next_generation, same};
use crate::kinds::validate::{immutable, meta};
use crate::registry::strategy::{Context, Strategy};

/// Rules of device classes.
pub struct DeviceClass;

/// Rules of resource claims.
pub struct ResourceClaim;

/// Rules of templates of claims.
pub struct ResourceClaimTemplate;

/// Rules of resource slices.
pub struct ResourceSlice;

fn default_count(mode: &mut Option<String>, count: &mut Option<i64>) {
    if mode.as_deref().unwrap_or_default().is_empty() {
        *mode = Some("ExactCount".to_owned());
    }
    if mode.as_deref() == Some("ExactCount") && count.unwrap_or(0) == 0 {
        *count = Some(1);
    }
}

fn default_operators(tolerations: &mut Option<Vec<api::DeviceToleration>>) {
    for t in tolerations.iter_mut().flatten() {
        fill(&mut t.operator, "Equal");
    }
}

fn default_claim(spec: &mut api::ResourceClaimSpec) {
    let devices = spec.devices.get_or_insert_with(Default::default);
    for r in devices.requests.iter_mut().flatten() {
        if let Some(e) = &mut r.exactly {
            default_count(&mut e.allocation_mode, &mut e.count);
            default_operators(&mut e.tolerations);
        }
        for s in r.first_available.iter_mut().flatten() {
            default_count(&mut s.allocation_mode, &mut s.count);
            default_operators(&mut s.tolerations);
        }
    }
}

impl Strategy for DeviceClass {
    type Object = api::DeviceClass;

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::DeviceClass) {
        first_generation(&mut c.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, c: &mut api::DeviceClass, old: &api::DeviceClass) {
        let changed = !same(&c.spec, &old.spec);
        next_generation(&mut c.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, c: &api::DeviceClass) -> ErrorList {
        let path = Path::new("spec");
        let mut errors = validation::class(&c.spec, &path);
        if let Some(name) = c.spec.extended_resource_name.as_ref().filter(|n| !resources::is_extended(n)) {
            let why = "must be a valid extended resource name";
            errors.push(Error::invalid(&path.child("extendedResourceName"), name, why));
        }
        errors
    }
}

impl Strategy for ResourceClaim {
    type Object = api::ResourceClaim;

    fn default(&self, c: &mut api::ResourceClaim) {
        default_claim(&mut c.spec);
        c.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, c: &mut api::ResourceClaim) {
        c.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, c: &mut api::ResourceClaim, old: &api::ResourceClaim) {
        if cx.is_status() {
            c.spec = old.spec.clone();
            keep_metadata(&mut c.metadata, &old.metadata);
            if let (Some(new), Some(old)) = (&mut c.status, &old.status) {
                claim_status::drop_deallocated(new, old);
            }
        } else {
            c.status = old.status.clone();
        }
    }

    fn validate(&self, cx: &mut Context, c: &api::ResourceClaim) -> ErrorList {
        // All that can be wrong with a spec that is there is that it changed.
        if cx.updating {
            return ErrorList::new();
        }
        validation::claim(&c.spec, &Path::new("spec"))
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        c: &api::ResourceClaim,
        old: &api::ResourceClaim,
    ) -> ErrorList {
        if cx.is_status() {
            let blank = api::ResourceClaimStatus::default();
            let (new, before) = (c.status.as_ref().unwrap_or(&blank), old.status.as_ref().unwrap_or(&blank));
            let deleted = c.metadata.deletion_timestamp.is_some();
            return claim_status::update(new, before, &c.spec, deleted, &Path::new("status"));
        }
        immutable(&c.spec, &old.spec, &Path::new("spec"))
    }
}

impl Strategy for ResourceClaimTemplate {
    type Object = api::ResourceClaimTemplate;

    fn default(&self, t: &mut api::ResourceClaimTemplate) {
        t.spec.metadata.get_or_insert_with(Default::default);
        default_claim(&mut t.spec.spec);
    }

    fn validate(&self, cx: &mut Context, t: &api::ResourceClaimTemplate) -> ErrorList {
        if cx.updating {
            return ErrorList::new();
        }
        let path = Path::new("spec");
        let mut errors = t
            .spec
            .metadata
            .as_ref()
            .map_or_else(ErrorList::new, |m| meta::template(m, &path.child("metadata")));
        errors.extend(validation::claim(&t.spec.spec, &path.child("spec")));
        errors
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        t: &api::ResourceClaimTemplate,
        old: &api::ResourceClaimTemplate,
    ) -> ErrorList {
        immutable(&t.spec, &old.spec, &Path::new("spec"))
    }
}

impl Strategy for ResourceSlice {
    type Object = api::ResourceSlice;

    fn default(&self, s: &mut api::ResourceSlice) {
        for d in s.spec.devices.iter_mut().flatten() {
            for t in d.taints.iter_mut().flatten() {
                t.time_added.get_or_insert_with(|| {
                    let now = jiff::Timestamp::now();
                    Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))
                });
            }
            d.capacity.iter_mut().flatten().for_each(|(_, c)| canonical(&mut c.value));
        }
        for set in s.spec.shared_counters.iter_mut().flatten() {
            set.counters.values_mut().for_each(|c| canonical(&mut c.value));
        }
    }

    fn prepare_create(&self, _cx: &mut Context, s: &mut api::ResourceSlice) {
        first_generation(&mut s.metadata);
    }

    fn prepare_update(&self, _cx: &mut Context, s: &mut api::ResourceSlice, old: &api::ResourceSlice) {
        let changed = !same(&s.spec, &old.spec);
        next_generation(&mut s.metadata, &old.metadata, changed);
    }

    fn validate(&self, _cx: &mut Context, s: &api::ResourceSlice) -> ErrorList {
        validation::slice(&s.spec, &Path::new("spec"))
    }

    fn validate_update(
        &self,
        _cx: &mut Context,
        s: &api::ResourceSlice,
        old: &api::ResourceSlice,
    ) -> ErrorList {
        let path = Path::new("spec");
        let mut errors = immutable(&s.spec.pool.name, &old.spec.pool.name, &path.child("pool").child("name"));
        errors.extend(immutable(&s.spec.driver, &old.spec.driver, &path.child("driver")));
        errors.extend(immutable(&s.spec.node_name, &old.spec.node_name, &path.child("nodeName")));
        errors
    }
}
