//! Roles and their bindings.

use k8s_openapi::api::rbac::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{fill, items, text};
use crate::kinds::validate::{invalid_each, printed, selector, text as words};
use crate::registry::strategy::{Context, Strategy};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of roles.
pub struct Role;

/// Rules of cluster roles.
pub struct ClusterRole;

/// Rules of role bindings.
pub struct RoleBinding;

/// Rules of cluster role bindings.
pub struct ClusterRoleBinding;

fn default_binding(role: &mut api::RoleRef, subjects: &mut Option<Vec<api::Subject>>) {
    fill(&mut role.api_group, GROUP);
    for s in subjects.iter_mut().flatten() {
        if matches!(s.kind.as_str(), "User" | "Group") {
            fill(&mut s.api_group, GROUP);
        }
    }
}

fn rules(list: Option<&Vec<api::PolicyRule>>, namespaced: bool, errors: &mut ErrorList) {
    for (i, r) in list.into_iter().flatten().enumerate() {
        let path = Path::new("rules").index(i);
        if r.verbs.is_empty() {
            errors.push(Error::required(&path.child("verbs"), "verbs must contain at least one value"));
        }
        let urls = items(&r.non_resource_urls);
        let at = path.child("nonResourceURLs");
        if !urls.is_empty() {
            if namespaced {
                errors.push(Error::invalid(&at, urls, "namespaced rules cannot apply to non-resource URLs"));
            }
            let others = [&r.api_groups, &r.resources, &r.resource_names];
            if others.iter().any(|o| !items(o).is_empty()) {
                errors.push(Error::invalid(
                    &at,
                    urls,
                    "rules cannot apply to both regular resources and non-resource URLs",
                ));
            }
            continue;
        }
        if items(&r.api_groups).is_empty() {
            errors.push(Error::required(
                &path.child("apiGroups"),
                "resource rules must supply at least one api group",
            ));
        }
        if items(&r.resources).is_empty() {
            errors.push(Error::required(
                &path.child("resources"),
                "resource rules must supply at least one resource",
            ));
        }
    }
}

fn binding(
    role: &api::RoleRef,
    kinds: &[&str],
    subjects: &Option<Vec<api::Subject>>,
    namespaced: bool,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("roleRef");
    let group = text(&role.api_group);
    if group != GROUP {
        errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
    }
    if !kinds.contains(&role.kind.as_str()) {
        errors.push(Error::not_supported(&path.child("kind"), &role.kind, kinds));
    }
    if role.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    } else {
        let wrong = words::path_segment(&role.name, false);
        errors.extend(invalid_each(&path.child("name"), &role.name, wrong));
    }
    for (i, s) in items(subjects).iter().enumerate() {
        subject(s, namespaced, &Path::new("subjects").index(i), &mut errors);
    }
    errors
}

fn subject(s: &api::Subject, namespaced: bool, path: &Path, errors: &mut ErrorList) {
    if s.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let group = text(&s.api_group);
    match s.kind.as_str() {
        "ServiceAccount" => {
            if !s.name.is_empty() {
                let wrong = words::dns1123_subdomain(&s.name);
                errors.extend(invalid_each(&path.child("name"), &s.name, wrong));
            }
            if !group.is_empty() {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[""]));
            }
            if !namespaced && text(&s.namespace).is_empty() {
                errors.push(Error::required(&path.child("namespace"), ""));
            }
        }
        "User" | "Group" => {
            if group != GROUP {
                errors.push(Error::not_supported(&path.child("apiGroup"), group, &[GROUP]));
            }
        }
        other => errors.push(Error::not_supported(
            &path.child("kind"),
            other,
            &["ServiceAccount", "User", "Group"],
        )),
    }
}

/// A binding is bound to one role for good.
fn same_role(new: &api::RoleRef, old: &api::RoleRef) -> ErrorList {
    let mut errors = ErrorList::new();
    if new != old {
        let mut e = Error::invalid(&Path::new("roleRef"), (), "cannot change roleRef");
        e.value = printed::object(&[
            ("APIGroup", printed::json(text(&new.api_group))),
            ("Kind", printed::json(&new.kind)),
            ("Name", printed::json(&new.name)),
        ]);
        errors.push(e);
    }
    errors
}

impl Strategy for Role {
    type Object = api::Role;

    fn validate(&self, _cx: &mut Context, r: &api::Role) -> ErrorList {
        let mut errors = ErrorList::new();
        rules(r.rules.as_ref(), true, &mut errors);
        errors
    }
}

impl Strategy for ClusterRole {
    type Object = api::ClusterRole;

    fn validate(&self, _cx: &mut Context, r: &api::ClusterRole) -> ErrorList {
        let mut errors = ErrorList::new();
        rules(r.rules.as_ref(), false, &mut errors);
        if let Some(a) = &r.aggregation_rule {
            let path = Path::new("aggregationRule").child("clusterRoleSelectors");
            let list = items(&a.cluster_role_selectors);
            if list.is_empty() {
                errors.push(Error::required(
                    &path,
                    "at least one clusterRoleSelector required if aggregationRule is non-nil",
                ));
            }
            for (i, s) in list.iter().enumerate() {
                let wrong = selector::label_selector(Some(s), &path.index(i));
                let unusable = !wrong.is_empty();
                errors.extend(wrong);
                if unusable {
                    let none: Option<()> = None;
                    errors.push(Error::invalid(&path.index(i), none, "invalid label selector."));
                }
            }
        }
        errors
    }
}

impl Strategy for RoleBinding {
    type Object = api::RoleBinding;

    fn validate(&self, _cx: &mut Context, b: &api::RoleBinding) -> ErrorList {
        binding(&b.role_ref, &["Role", "ClusterRole"], &b.subjects, true)
    }

    fn validate_update(&self, _cx: &mut Context, b: &Self::Object, old: &Self::Object) -> ErrorList {
        same_role(&b.role_ref, &old.role_ref)
    }

    fn default(&self, b: &mut api::RoleBinding) {
        default_binding(&mut b.role_ref, &mut b.subjects);
    }
}

impl Strategy for ClusterRoleBinding {
    type Object = api::ClusterRoleBinding;

    fn validate(&self, _cx: &mut Context, b: &api::ClusterRoleBinding) -> ErrorList {
        binding(&b.role_ref, &["ClusterRole"], &b.subjects, false)
    }

    fn validate_update(&self, _cx: &mut Context, b: &Self::Object, old: &Self::Object) -> ErrorList {
        same_role(&b.role_ref, &old.role_ref)
    }

    fn default(&self, b: &mut api::ClusterRoleBinding) {
        default_binding(&mut b.role_ref, &mut b.subjects);
    }
}
