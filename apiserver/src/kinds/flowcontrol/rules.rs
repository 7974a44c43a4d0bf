//! The rules of flow schemas: whose requests, and which.

use k8s_openapi::api::flowcontrol::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;
use crate::kinds::validate::{invalid_each, text};

const VERBS: [&str; 9] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];

/// One rule.
pub fn rule(r: &api::PolicyRulesWithSubjects, path: &Path, errors: &mut ErrorList) {
    if r.subjects.is_empty() {
        errors.push(Error::required(&path.child("subjects"), "subjects must contain at least one value"));
    }
    for (i, s) in r.subjects.iter().enumerate() {
        subject(s, &path.child("subjects").index(i), errors);
    }
    if items(&r.resource_rules).is_empty() && items(&r.non_resource_rules).is_empty() {
        let why = "at least one of resourceRules and nonResourceRules has to be non-empty";
        errors.push(Error::required(path, why));
    }
    for (i, r) in items(&r.resource_rules).iter().enumerate() {
        resources(r, &path.child("resourceRules").index(i), errors);
    }
    for (i, r) in items(&r.non_resource_rules).iter().enumerate() {
        paths(r, &path.child("nonResourceRules").index(i), errors);
    }
}

fn subject(s: &api::Subject, path: &Path, errors: &mut ErrorList) {
    let kinds = [
        ("ServiceAccount", "serviceAccount", s.service_account.is_some()),
        ("User", "user", s.user.is_some()),
        ("Group", "group", s.group.is_some()),
    ];
    let Some((kind, own, there)) = kinds.iter().find(|k| k.0 == s.kind) else {
        errors.push(Error::not_supported(&path.child("kind"), &s.kind, &["Group", "ServiceAccount", "User"]));
        return;
    };
    let at = path.child(own);
    if !there {
        errors.push(Error::required(&at, format!("{own} is required when subject kind is '{kind}'")));
    }
    let mut named = |name: &str| {
        if name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
        }
    };
    match *kind {
        "User" => s.user.iter().for_each(|u| named(&u.name)),
        "Group" => s.group.iter().for_each(|g| named(&g.name)),
        _ => {
            if let Some(a) = &s.service_account {
                named(&a.name);
                if !a.name.is_empty() && a.name != "*" {
                    errors.extend(invalid_each(&at.child("name"), &a.name, text::dns1123_subdomain(&a.name)));
                }
                let at = at.child("namespace");
                if a.namespace.is_empty() {
                    errors.push(Error::required(&at, "must specify namespace for service account"));
                } else {
                    errors.extend(invalid_each(&at, &a.namespace, text::dns1123_label(&a.namespace)));
                }
            }
        }
    }
    for (other, field, there) in kinds.iter().filter(|k| k.2 && k.0 != s.kind) {
        debug_assert!(there);
        let why = format!("{field} is forbidden when subject kind is not '{other}'");
        errors.push(Error::forbidden(&path.child(field), why));
    }
}

fn wildcard(list: &[String]) -> bool {
    list.iter().any(|v| v == "*")
}

/// Refuses a star among others. True where there is one.
fn star(list: &[String], what: &str, path: &Path, errors: &mut ErrorList) -> bool {
    let there = wildcard(list);
    if there && list.len() > 1 {
        errors.push(Error::invalid(path, list, format!("if '*' is present, must not specify other {what}")));
    }
    there
}

fn verbs(list: &[String], path: &Path, errors: &mut ErrorList) {
    let at = path.child("verbs");
    if list.is_empty() {
        errors.push(Error::required(&at, "verbs must contain at least one value"));
    } else if !star(list, "verbs", &at, errors) && list.iter().any(|v| !VERBS.contains(&v.as_str())) {
        errors.push(Error::not_supported(&at, list, &VERBS));
    }
}

fn resources(r: &api::ResourcePolicyRule, path: &Path, errors: &mut ErrorList) {
    verbs(&r.verbs, path, errors);
    for (list, field, one, many) in [
        (&r.api_groups, "apiGroups", "api group", "api groups"),
        (&r.resources, "resources", "resource", "resources"),
    ] {
        let at = path.child(field);
        if list.is_empty() {
            errors.push(Error::required(&at, format!("resource rules must supply at least one {one}")));
        } else {
            star(list, many, &at, errors);
        }
    }
    let (at, namespaces) = (path.child("namespaces"), items(&r.namespaces));
    if namespaces.is_empty() && r.cluster_scope != Some(true) {
        let why = "resource rules that are not cluster scoped must supply at least one namespace";
        errors.push(Error::required(&at, why));
    } else if !star(namespaces, "namespaces", &at, errors) {
        for (i, n) in namespaces.iter().enumerate() {
            let told = text::dns1123_label(n).into_iter();
            let told = told.map(|m| format!("each member of this list must be '*' or a DNS-1123 label; {m}"));
            errors.extend(invalid_each(&at.index(i), n, told.collect()));
        }
    }
}

fn paths(r: &api::NonResourcePolicyRule, path: &Path, errors: &mut ErrorList) {
    verbs(&r.verbs, path, errors);
    let (at, urls) = (path.child("nonResourceURLs"), &r.non_resource_urls);
    if urls.is_empty() {
        errors.push(Error::required(&at, "nonResourceURLs must contain at least one value"));
    } else if !star(urls, "non-resource URLs", &at, errors) {
        for (i, u) in urls.iter().enumerate() {
            if let Some(why) = wrong_url(u) {
                errors.push(Error::invalid(&at.index(i), u, why));
            }
        }
    }
}

fn wrong_url(u: &str) -> Option<&'static str> {
    let stars = u.matches('*').count();
    if u.is_empty() {
        Some("must not be empty")
    } else if u == "/" {
        None
    } else if !u.starts_with('/') {
        Some("must start with slash")
    } else if u.contains(' ') {
        Some("must not contain white-space")
    } else if u.contains("//") {
        Some("must not contain double slash")
    } else if stars > 1 || (stars == 1 && !u.ends_with("/*")) {
        Some("wildcard can only do suffix matching")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_are_checked() {
        let of = |v: serde_json::Value| {
            let r: api::PolicyRulesWithSubjects = serde_json::from_value(v).expect("a rule");
            let mut errors = ErrorList::new();
            rule(&r, &Path::new("r"), &mut errors);
            errors.aggregate()
        };
        let good = json!({"subjects": [{"kind": "User", "user": {"name": "u"}}],
            "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["/healthz", "/x/*"]}]});
        assert_eq!(of(good), "[]");
        assert_eq!(
            of(json!({"subjects": [{"kind": "User", "group": {"name": "g"}}, {"kind": "X"}],
                "resourceRules": [{"verbs": ["get", "nope"], "apiGroups": ["*", "a"], "resources": []}],
                "nonResourceRules": [{"verbs": [], "nonResourceURLs": ["x", "/*a"]}]})),
            "[r.subjects[0].user: Required value: user is required when subject kind is 'User', \
             r.subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group', \
             r.subjects[1].kind: Unsupported value: \"X\": supported values: \"Group\", \"ServiceAccount\", \"User\", \
             r.resourceRules[0].verbs: Unsupported value: [\"get\",\"nope\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\", \
             r.resourceRules[0].apiGroups: Invalid value: [\"*\",\"a\"]: if '*' is present, must not specify other api groups, \
             r.resourceRules[0].resources: Required value: resource rules must supply at least one resource, \
             r.resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace, \
             r.nonResourceRules[0].verbs: Required value: verbs must contain at least one value, \
             r.nonResourceRules[0].nonResourceURLs[0]: Invalid value: \"x\": must start with slash, \
             r.nonResourceRules[0].nonResourceURLs[1]: Invalid value: \"/*a\": wildcard can only do suffix matching]"
        );
    }
}
