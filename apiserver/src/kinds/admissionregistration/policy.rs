//! Admission policies and what binds them.

use k8s_openapi::api::admissionregistration::v1 as api;

use super::{expressions, params, validation};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::one_of_if_given;
use crate::kinds::semantic::{first_generation, items, next_generation, same, spec_and_status};
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of validating policies.
pub struct ValidatingAdmissionPolicy;

/// Rules of bindings of validating policies.
pub struct ValidatingAdmissionPolicyBinding;

/// Rules of mutating policies.
pub struct MutatingAdmissionPolicy;

/// Rules of bindings of mutating policies.
pub struct MutatingAdmissionPolicyBinding;

fn policy_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
    } else {
        errors.extend(invalid_each(path, name, text::dns1123_subdomain(name)));
    }
}

/// A policy matches something.
fn matched(m: Option<&api::MatchResources>, path: &Path, errors: &mut ErrorList) {
    let at = path.child("matchConstraints");
    let Some(m) = m else {
        errors.push(Error::required(&at, ""));
        return;
    };
    validation::match_resources(m, &at, errors);
    if items(&m.resource_rules).is_empty() {
        errors.push(Error::required(&at.child("resourceRules"), ""));
    }
}

/// Only objects that are created or updated can be changed.
fn mutable_operations(m: &api::MatchResources, path: &Path, errors: &mut ErrorList) {
    let known = ["*", "CONNECT", "CREATE", "UPDATE"];
    let at = path.child("resourceRules").child("operations");
    for o in items(&m.resource_rules).iter().flat_map(|r| items(&r.operations)) {
        if !known.contains(&o.as_str()) {
            errors.push(Error::not_supported(&at, o, &known));
        }
    }
}

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

    fn validate(&self, _cx: &mut Context, p: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &p.spec else { return errors };
        let path = Path::new("spec");
        let valid = ["Fail", "Ignore"];
        one_of_if_given(&s.failure_policy, &valid, &path.child("failurePolicy"), &mut errors);
        let has_params = s.param_kind.is_some();
        if let Some(k) = &s.param_kind {
            params::kind(k, &path.child("paramKind"), &mut errors);
        }
        matched(s.match_constraints.as_ref(), &path, &mut errors);
        let at = path.child("matchConditions");
        expressions::match_conditions(items(&s.match_conditions), has_params, &at, &mut errors);
        let at = path.child("variables");
        let env = expressions::variables(items(&s.variables), has_params, &at, &mut errors);
        if items(&s.validations).is_empty() && items(&s.audit_annotations).is_empty() {
            for field in ["validations", "auditAnnotations"] {
                errors.push(Error::required(
                    &path.child(field),
                    "validations or auditAnnotations must contain at least one item",
                ));
            }
        }
        for (i, v) in items(&s.validations).iter().enumerate() {
            expressions::validation(v, &env, &path.child("validations").index(i), &mut errors);
        }
        let name = p.metadata.name.as_deref().unwrap_or_default();
        let at = path.child("auditAnnotations");
        expressions::audit_annotations(items(&s.audit_annotations), name, &env, &at, &mut errors);
        errors
    }
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

    fn validate(&self, _cx: &mut Context, b: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        policy_name(&b.spec.policy_name, &path.child("policyName"), &mut errors);
        if let Some(r) = &b.spec.param_ref {
            params::reference(r, &path.child("paramRef"), &mut errors);
        }
        if let Some(m) = &b.spec.match_resources {
            validation::match_resources(m, &path.child("matchResources"), &mut errors);
        }
        let actions = &b.spec.validation_actions;
        let at = path.child("validationActions");
        if actions.is_empty() {
            errors.push(Error::required(&at, "at least one validation action is required"));
        }
        let mut seen = std::collections::BTreeSet::new();
        for (i, a) in actions.iter().enumerate() {
            if !["Audit", "Deny", "Warn"].contains(&a.as_str()) {
                errors.push(Error::not_supported(&at.index(i), a, &["Audit", "Deny", "Warn"]));
            }
            if !seen.insert(a) {
                errors.push(Error::duplicate(&at.index(i), a));
            }
        }
        let has = |name: &str| actions.iter().any(|a| a == name);
        if has("Deny") && has("Warn") {
            errors.push(Error::invalid(
                &at,
                actions,
                "must not contain both Deny and Warn (repeating the same validation failure information in the \
                 API response and headers serves no purpose)",
            ));
        }
        errors
    }
}

impl Strategy for MutatingAdmissionPolicy {
    type Object = api::MutatingAdmissionPolicy;

    fn default(&self, p: &mut Self::Object) {
        let spec = p.spec.get_or_insert_with(Default::default);
        spec.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        default_match(&mut spec.match_constraints);
    }

    spec_alone!();

    fn validate(&self, _cx: &mut Context, p: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &p.spec else { return errors };
        let path = Path::new("spec");
        let valid = ["Fail", "Ignore"];
        one_of_if_given(&s.failure_policy, &valid, &path.child("failurePolicy"), &mut errors);
        let has_params = s.param_kind.is_some();
        if let Some(k) = &s.param_kind {
            params::kind(k, &path.child("paramKind"), &mut errors);
        }
        matched(s.match_constraints.as_ref(), &path, &mut errors);
        if let Some(m) = &s.match_constraints {
            mutable_operations(m, &path.child("matchConstraints"), &mut errors);
        }
        let at = path.child("matchConditions");
        expressions::match_conditions(items(&s.match_conditions), has_params, &at, &mut errors);
        let at = path.child("variables");
        let env = expressions::variables(items(&s.variables), has_params, &at, &mut errors);
        let at = path.child("mutations");
        if items(&s.mutations).is_empty() {
            errors.push(Error::required(&at, "mutations must contain at least one item"));
        }
        for (i, m) in items(&s.mutations).iter().enumerate() {
            expressions::mutation(m, &env, &at.index(i), &mut errors);
        }
        let at = path.child("reinvocationPolicy");
        match s.reinvocation_policy.as_deref() {
            None | Some("") => errors.push(Error::required(&at, "")),
            Some("IfNeeded" | "Never") => {}
            Some(other) => errors.push(Error::not_supported(&at, other, &["IfNeeded", "Never"])),
        }
        errors
    }
}

impl Strategy for MutatingAdmissionPolicyBinding {
    type Object = api::MutatingAdmissionPolicyBinding;

    fn default(&self, b: &mut Self::Object) {
        default_match(&mut b.spec.get_or_insert_with(Default::default).match_resources);
    }

    spec_alone!();

    fn validate(&self, _cx: &mut Context, b: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let Some(s) = &b.spec else { return errors };
        let name = s.policy_name.as_deref().unwrap_or_default();
        policy_name(name, &path.child("policyName"), &mut errors);
        if let Some(r) = &s.param_ref {
            params::reference(r, &path.child("paramRef"), &mut errors);
        }
        if let Some(m) = &s.match_resources {
            validation::match_resources(m, &path.child("matchResources"), &mut errors);
            mutable_operations(m, &path.child("matchResources"), &mut errors);
        }
        errors
    }
}
