//! Resource quotas: how much a namespace may use, of all objects or of those in a scope.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::resources;
use crate::kinds::quantity::canonical_list;
use crate::kinds::semantic::items;
use crate::kinds::validate::printed;
use crate::registry::strategy::{Context, Strategy};

/// Rules of resource quotas.
pub struct ResourceQuota;

impl Strategy for ResourceQuota {
    type Object = api::ResourceQuota;

    fn default(&self, q: &mut api::ResourceQuota) {
        canonical_list(&mut q.spec.get_or_insert_with(Default::default).hard);
        let status = q.status.get_or_insert_with(Default::default);
        canonical_list(&mut status.hard);
        canonical_list(&mut status.used);
    }

    fn prepare_create(&self, _cx: &mut Context, q: &mut api::ResourceQuota) {
        q.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, q: &mut api::ResourceQuota, old: &api::ResourceQuota) {
        if cx.is_status() {
            q.spec = old.spec.clone();
        } else {
            q.status = old.status.clone();
        }
    }

    fn validate(&self, _cx: &mut Context, q: &api::ResourceQuota) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &q.spec else { return errors };
        let path = Path::new("spec");
        hard(s.hard.as_ref(), &path.child("hard"), &mut errors);
        scopes(s, &path.child("scopes"), &mut errors);
        if let Some(selector) = &s.scope_selector {
            expressions(s, selector, &path.child("scopeSelector").child("matchExpressions"), &mut errors);
        }
        errors
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        q: &api::ResourceQuota,
        old: &api::ResourceQuota,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        if cx.is_status() {
            let path = Path::new("status");
            if let Some(s) = &q.status {
                hard(s.hard.as_ref(), &path.child("hard"), &mut errors);
                hard(s.used.as_ref(), &path.child("used"), &mut errors);
            }
            return errors;
        }
        let of = |q: &api::ResourceQuota| q.spec.as_ref().and_then(|s| s.scopes.clone());
        let set = |scopes: Option<Vec<String>>| {
            scopes.into_iter().flatten().collect::<std::collections::BTreeSet<_>>()
        };
        if set(of(q)) != set(of(old)) {
            errors.push(Error::invalid(&Path::new("spec").child("scopes"), of(q), "field is immutable"));
        }
        errors
    }
}

/// What a quota may be narrowed to.
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

/// Scopes that exclude each other.
const CONFLICTS: [[&str; 2]; 2] = [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]];

/// Names that a quota may bound without a domain.
fn is_standard(name: &str) -> bool {
    name != "storage" && name != "count" && resources::is_standard(name)
}

/// Whether objects in the scope use the resource.
fn applies(scope: &str, resource: &str) -> bool {
    match scope {
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => {
            matches!(
                resource,
                "pods"
                    | "cpu"
                    | "memory"
                    | "limits.cpu"
                    | "limits.memory"
                    | "requests.cpu"
                    | "requests.memory"
            )
        }
        "BestEffort" => resource == "pods",
        "VolumeAttributesClass" => matches!(resource, "persistentvolumeclaims" | "requests.storage"),
        _ => true,
    }
}

/// Bounded resources that nothing in the scope uses.
fn out_of_scope<'a>(s: &'a api::ResourceQuotaSpec, scope: &'a str) -> impl Iterator<Item = &'a String> {
    s.hard.iter().flatten().map(|(name, _)| name).filter(move |n| is_standard(n) && !applies(scope, n))
}

fn scopes(s: &api::ResourceQuotaSpec, path: &Path, errors: &mut ErrorList) {
    let list = items(&s.scopes);
    for scope in list {
        if !SCOPES.contains(&scope.as_str()) {
            errors.push(Error::invalid(path, list, "unsupported scope"));
        }
        for _ in out_of_scope(s, scope) {
            errors.push(Error::invalid(path, list, "unsupported scope applied to resource"));
        }
    }
    for pair in CONFLICTS {
        if pair.iter().all(|p| list.iter().any(|s| s == p)) {
            errors.push(Error::invalid(path, list, "conflicting scopes"));
        }
    }
}

fn expressions(
    s: &api::ResourceQuotaSpec,
    selector: &api::ScopeSelector,
    path: &Path,
    errors: &mut ErrorList,
) {
    let list = selector.match_expressions.as_deref();
    let shown = printed::object(&[("MatchExpressions", printed::list(list, requirement))]);
    let list = list.unwrap_or_default();
    for r in list {
        let (scope, operator) = (r.scope_name.as_str(), r.operator.as_str());
        if !SCOPES.contains(&scope) {
            errors.push(Error::invalid(&path.child("scopeName"), scope, "unsupported scope"));
        }
        for _ in out_of_scope(s, scope) {
            let mut e = Error::invalid(path, "", "unsupported scope applied to resource");
            e.value.clone_from(&shown);
            errors.push(e);
        }
        let at = path.child("operator");
        if operator != "Exists"
            && matches!(
                scope,
                "BestEffort"
                    | "NotBestEffort"
                    | "Terminating"
                    | "NotTerminating"
                    | "CrossNamespacePodAffinity"
            )
        {
            errors.push(Error::invalid(
                &at,
                operator,
                "must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, \
                 ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or \
                 ResourceQuotaScopeCrossNamespacePodAffinity",
            ));
        }
        let values = items(&r.values);
        match operator {
            "In" | "NotIn" if values.is_empty() => errors.push(Error::required(
                &path.child("values"),
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(Error::invalid(
                &path.child("values"),
                values,
                "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(Error::invalid(&at, operator, "not a valid selector operator")),
        }
    }
    for pair in CONFLICTS {
        if pair.iter().all(|p| list.iter().any(|r| r.scope_name == *p)) {
            errors.push(Error::invalid(path, &s.scopes, "conflicting scopes"));
        }
    }
}

fn requirement(r: &api::ScopedResourceSelectorRequirement) -> String {
    printed::object(&[
        ("ScopeName", printed::json(&r.scope_name)),
        ("Operator", printed::json(&r.operator)),
        ("Values", printed::json(&r.values)),
    ])
}

fn hard(list: Option<&BTreeMap<String, Quantity>>, path: &Path, errors: &mut ErrorList) {
    for (name, q) in list.into_iter().flatten() {
        let path = path.key(name);
        resources::resource_name(name, &path, errors);
        if !name.contains('/') && !is_standard(name) {
            errors.push(Error::invalid(&path, name, "must be a standard resource for quota"));
        }
        resources::quantity(name, q, &path, errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(spec: serde_json::Value) -> String {
        let q = serde_json::json!({"metadata": {"name": "q"}, "spec": spec});
        let q = serde_json::from_value(q).expect("a quota");
        ResourceQuota.validate(&mut Context::default(), &q).aggregate()
    }

    #[test]
    fn a_scope_must_use_what_is_bounded() {
        assert_eq!(told(serde_json::json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]})), "[]");
        let wrong =
            told(serde_json::json!({"hard": {"requests.storage": "1"}, "scopes": ["NotTerminating"]}));
        assert_eq!(
            wrong,
            r#"spec.scopes: Invalid value: ["NotTerminating"]: unsupported scope applied to resource"#
        );
        let wrong = told(serde_json::json!({"hard": {"requests.storage": "1"}, "scopeSelector": {
            "matchExpressions": [{"scopeName": "PriorityClass", "operator": "In", "values": ["x"]}]}}));
        assert!(wrong.contains(
            r#"{"MatchExpressions":[{"ScopeName":"PriorityClass","Operator":"In","Values":["x"]}]}"#
        ));
    }

    #[test]
    fn scopes_may_conflict() {
        let wrong = told(serde_json::json!({"scopes": ["Terminating", "NotTerminating"]}));
        assert!(wrong.ends_with("conflicting scopes"), "{wrong}");
        assert!(
            told(serde_json::json!({"hard": {"nope": "1"}}))
                .contains("must be a standard resource for quota")
        );
    }
}
