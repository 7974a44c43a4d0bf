//! Names of a definition, its group, and the approval that groups of the project itself need.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;

use super::rules;
use crate::crd::schema::format::Format;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};

pub fn group(g: &str, path: &Path, errors: &mut ErrorList) {
    let wrong = rules::dns1123_subdomain(g);
    if g.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !wrong.is_empty() {
        errors.push(Error::invalid(path, g, wrong.join(",")));
    } else if !g.contains('.') {
        errors.push(Error::invalid(path, g, "should be a domain with at least one dot"));
    }
}

/// Names that a spec must have.
pub fn required(n: &api::CustomResourceDefinitionNames, path: &Path, errors: &mut ErrorList) {
    for (field, v) in [
        ("plural", n.plural.as_str()),
        ("singular", text(&n.singular)),
        ("kind", n.kind.as_str()),
        ("listKind", text(&n.list_kind)),
    ] {
        if v.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
}

/// The form of names that are given.
pub fn form(n: &api::CustomResourceDefinitionNames, path: &Path, errors: &mut ErrorList) {
    let list_kind = text(&n.list_kind);
    for (field, v) in [("plural", n.plural.as_str()), ("singular", text(&n.singular))] {
        let wrong = rules::dns1035_label(v);
        if !v.is_empty() && !wrong.is_empty() {
            errors.push(Error::invalid(&path.child(field), v, wrong.join(",")));
        }
    }
    for (field, v) in [("kind", n.kind.as_str()), ("listKind", list_kind)] {
        let wrong = rules::dns1035_label(&v.to_lowercase());
        if !v.is_empty() && !wrong.is_empty() {
            let why = format!("may have mixed case, but should otherwise match: {}", wrong.join(","));
            errors.push(Error::invalid(&path.child(field), v, why));
        }
    }
    labels(items(&n.short_names), &path.child("shortNames"), errors);
    if !n.kind.is_empty() && n.kind == list_kind {
        let why = "kind and listKind may not be the same";
        errors.push(Error::invalid(&path.child("listKind"), list_kind, why));
    }
    labels(items(&n.categories), &path.child("categories"), errors);
}

fn labels(list: &[String], path: &Path, errors: &mut ErrorList) {
    for (i, s) in list.iter().enumerate() {
        let wrong = rules::dns1035_label(s);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&path.index(i), s, wrong.join(",")));
        }
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// How far a group of the project is approved.
#[derive(PartialEq)]
enum Approval {
    Missing,
    Bypassed,
    Approved,
    Invalid,
}

fn approval_of(crd: &api::CustomResourceDefinition) -> Approval {
    let given = crd.metadata.annotations.as_ref().and_then(|a| a.get(APPROVAL)).map_or("", String::as_str);
    let is_url = || {
        let host = given.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or_default());
        !host.is_empty() && Format::Uri.accepts(given)
    };
    match given {
        "" => Approval::Missing,
        g if g.starts_with("unapproved") => Approval::Bypassed,
        _ if is_url() => Approval::Approved,
        _ => Approval::Invalid,
    }
}

/// Groups of the project itself need its approval. What was so before may stay so.
pub fn approval(
    crd: &api::CustomResourceDefinition,
    old: Option<&api::CustomResourceDefinition>,
    errors: &mut ErrorList,
) {
    let g = crd.spec.group.as_str();
    if !["k8s.io", "kubernetes.io"].iter().any(|p| g == *p || g.ends_with(&format!(".{p}"))) {
        return;
    }
    let state = approval_of(crd);
    if old.is_some_and(|o| approval_of(o) == state) {
        return;
    }
    let at = Path::new("metadata").child("annotations").key(APPROVAL);
    let link = "see https://github.com/kubernetes/enhancements/pull/1111";
    let needs = format!("protected groups must have approval annotation \"{APPROVAL}\"");
    match state {
        Approval::Approved | Approval::Bypassed => {}
        Approval::Missing => errors.push(Error::required(&at, format!("{needs}, {link}"))),
        Approval::Invalid => {
            let given = crd.metadata.annotations.as_ref().and_then(|a| a.get(APPROVAL));
            let why = format!("{needs} with either a URL or a reason starting with \"unapproved\", {link}");
            errors.push(Error::invalid(&at, given, why));
        }
    }
}
