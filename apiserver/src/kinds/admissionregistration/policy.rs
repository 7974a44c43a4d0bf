//! Admission policies and what binds them.

use k8s_openapi::api::admissionregistration::v1 as api;

use crate::kinds::semantic::{first_generation, next_generation, same, spec_and_status};
use crate::registry::strategy::{Context, Strategy};

/// Rules of validating policies.
pub struct ValidatingAdmissionPolicy;

/// Rules of bindings of validating policies.
pub struct ValidatingAdmissionPolicyBinding;

/// Rules of mutating policies.
pub struct MutatingAdmissionPolicy;

/// Rules of bindings of mutating policies.
pub struct MutatingAdmissionPolicyBinding;

fn default_match(m: &mut Option<api::MatchResources>) {
    let Some(m) = m else { return };
    m.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
    m.namespace_selector.get_or_insert_with(Default::default);
    m.object_selector.get_or_insert_with(Default::default);
    for r in m.resource_rules.iter_mut().chain(m.exclude_resource_rules.iter_mut()).flatten() {
        r.scope.get_or_insert_with(|| "*".to_owned());
    }
}

impl Strategy for ValidatingAdmissionPolicy {
    type Object = api::ValidatingAdmissionPolicy;

    fn default(&self, p: &mut Self::Object) {
        let spec = p.spec.get_or_insert_with(Default::default);
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        default_match(&mut spec.match_constraints);
        p.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));
}

/// Generation that counts changes of the spec, for kinds without status.
macro_rules! spec_alone {
    () => {
        fn prepare_create(&self, _cx: &mut Context, object: &mut Self::Object) {
            first_generation(&mut object.metadata);
        }

        fn prepare_update(&self, _cx: &mut Context, object: &mut Self::Object, old: &Self::Object) {
            let changed = !same(&object.spec, &old.spec);
            next_generation(&mut object.metadata, &old.metadata, changed);
        }
    };
}

impl Strategy for ValidatingAdmissionPolicyBinding {
    type Object = api::ValidatingAdmissionPolicyBinding;

    fn default(&self, b: &mut Self::Object) {
        default_match(&mut b.spec.match_resources);
    }

    spec_alone!();
}

impl Strategy for MutatingAdmissionPolicy {
    type Object = api::MutatingAdmissionPolicy;

    fn default(&self, p: &mut Self::Object) {
        let spec = p.spec.get_or_insert_with(Default::default);
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        default_match(&mut spec.match_constraints);
    }

    spec_alone!();
}

impl Strategy for MutatingAdmissionPolicyBinding {
    type Object = api::MutatingAdmissionPolicyBinding;

    fn default(&self, b: &mut Self::Object) {
        default_match(&mut b.spec.get_or_insert_with(Default::default).match_resources);
    }

    spec_alone!();
}
