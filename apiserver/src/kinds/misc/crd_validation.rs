//! What may be wrong with a custom resource definition: names, versions, and a structural schema.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::text as rules;

/// Everything wrong, in upstream's order.
pub fn validate(crd: &api::CustomResourceDefinition) -> ErrorList {
    let mut errors = ErrorList::new();
    let s = &crd.spec;
    let name = text(&crd.metadata.name);
    if !name.is_empty() && name != format!("{}.{}", s.names.plural, s.group) {
        errors.push(Error::invalid(
            &Path::new("metadata").child("name"),
            name,
            "must be spec.names.plural+\".\"+spec.group",
        ));
    }
    let path = Path::new("spec");
    group(&s.group, &path.child("group"), &mut errors);
    match s.scope.as_str() {
        "" => errors.push(Error::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    versions(&s.versions, &path.child("versions"), &mut errors);
    names(&s.names, &path.child("names"), &mut errors);
    shared(&s.versions, &path, &mut errors);
    if let Some(c) = &s.conversion {
        conversion(c, &path.child("conversion"), &mut errors);
    }
    approval(crd, &mut errors);
    errors
}

fn group(g: &str, path: &Path, errors: &mut ErrorList) {
    let wrong = rules::dns1123_subdomain(g);
    if g.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !wrong.is_empty() {
        errors.push(Error::invalid(path, g, wrong.join(",")));
    } else if !g.contains('.') {
        errors.push(Error::invalid(path, g, "should be a domain with at least one dot"));
    }
}

fn versions(list: &[api::CustomResourceDefinitionVersion], path: &Path, errors: &mut ErrorList) {
    let schema_of = |v: &api::CustomResourceDefinitionVersion| {
        v.schema.as_ref().and_then(|s| s.open_api_v3_schema.clone())
    };
    for (i, v) in list.iter().enumerate() {
        if schema_of(v).is_none() {
            errors.push(Error::required(&path.index(i).child("schema").child("openAPIV3Schema"), ""));
        }
    }
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, v) in list.iter().enumerate() {
        unique &= seen.insert(&v.name);
        let at = path.index(i);
        let wrong = rules::dns1035_label(&v.name);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at.child("name"), &v.name, wrong.join(",")));
        }
        deprecation(v, &at.child("deprecationWarning"), errors);
        if !all_same(list, |v| &v.schema) {
            schema(v, &at.child("schema"), errors);
        }
        if !all_same(list, |v| &v.subresources) {
            subresources(v, &at.child("subresources"), errors);
        }
        if !all_same(list, |v| &v.additional_printer_columns) {
            columns(v, &at.child("additionalPrinterColumns"), errors);
        }
    }
    if !unique {
        errors.push(Error::invalid(path, list, "must contain unique version names"));
    }
    if list.iter().filter(|v| v.storage).count() != 1 {
        errors.push(Error::invalid(path, list, "must have exactly one version marked as storage version"));
    }
}

/// True if all versions agree: upstream then tells what is wrong once, for all of them.
fn all_same<T: PartialEq>(
    list: &[api::CustomResourceDefinitionVersion],
    of: impl Fn(&api::CustomResourceDefinitionVersion) -> &T,
) -> bool {
    list.iter().all(|v| of(v) == of(&list[0]))
}

fn schema(v: &api::CustomResourceDefinitionVersion, path: &Path, errors: &mut ErrorList) {
    if let Some(s) = v.schema.as_ref().and_then(|s| s.open_api_v3_schema.as_ref()) {
        super::crd_schema::root(s, &path.child("openAPIV3Schema"), errors);
    }
}

fn subresources(v: &api::CustomResourceDefinitionVersion, path: &Path, errors: &mut ErrorList) {
    if let Some(scale) = v.subresources.as_ref().and_then(|s| s.scale.as_ref()) {
        scale_paths(scale, &path.child("scale"), errors);
    }
}

fn columns(v: &api::CustomResourceDefinitionVersion, path: &Path, errors: &mut ErrorList) {
    for (i, c) in items(&v.additional_printer_columns).iter().enumerate() {
        column(c, &path.index(i), errors);
    }
}

/// What all versions have in common.
fn shared(list: &[api::CustomResourceDefinitionVersion], path: &Path, errors: &mut ErrorList) {
    let Some(first) = list.first() else { return };
    if all_same(list, |v| &v.schema) {
        schema(first, &path.child("validation"), errors);
    }
    if all_same(list, |v| &v.subresources) {
        subresources(first, &path.child("subresources"), errors);
    }
    if all_same(list, |v| &v.additional_printer_columns) {
        columns(first, &path.child("additionalPrinterColumns"), errors);
    }
}

fn deprecation(v: &api::CustomResourceDefinitionVersion, path: &Path, errors: &mut ErrorList) {
    let Some(w) = &v.deprecation_warning else { return };
    if v.deprecated != Some(true) {
        errors.push(Error::invalid(path, w, "can only be set for deprecated versions"));
    }
    if w.is_empty() {
        errors.push(Error::invalid(path, w, "must not be an empty string"));
    }
    if w.len() > 256 {
        errors.push(Error::invalid(
            path,
            w,
            format!("must be <= 256 characters (was {})", w.chars().count()),
        ));
    }
}

fn column(c: &api::CustomResourceColumnDefinition, path: &Path, errors: &mut ErrorList) {
    if c.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let types = ["boolean", "date", "integer", "number", "string"];
    let at = path.child("type");
    if c.type_.is_empty() {
        errors.push(Error::required(&at, format!("must be one of {}", types.join(","))));
    } else if !types.contains(&c.type_.as_str()) {
        errors.push(Error::invalid(&at, &c.type_, format!("must be one of {}", types.join(","))));
    }
    if c.json_path.is_empty() {
        errors.push(Error::required(&path.child("JSONPath"), ""));
    }
}

fn scale_paths(s: &api::CustomResourceSubresourceScale, path: &Path, errors: &mut ErrorList) {
    for (field, value, root, needed) in [
        ("specReplicasPath", s.spec_replicas_path.as_str(), ".spec.", true),
        ("statusReplicasPath", s.status_replicas_path.as_str(), ".status.", true),
        ("labelSelectorPath", text(&s.label_selector_path), "", false),
    ] {
        let at = path.child(field);
        if value.is_empty() {
            if needed {
                errors.push(Error::required(&at, ""));
            }
        } else if !root.is_empty() && !value.starts_with(root) {
            errors.push(Error::invalid(
                &at,
                value,
                format!("should be a json path under {}", &root[..root.len() - 1]),
            ));
        }
    }
}

fn names(n: &api::CustomResourceDefinitionNames, path: &Path, errors: &mut ErrorList) {
    let singular = text(&n.singular);
    let list_kind = text(&n.list_kind);
    for (field, v) in [
        ("plural", n.plural.as_str()),
        ("singular", singular),
        ("kind", n.kind.as_str()),
        ("listKind", list_kind),
    ] {
        if v.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        }
    }
    for (field, v) in [("plural", n.plural.as_str()), ("singular", singular)] {
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
    for (i, s) in items(&n.short_names).iter().enumerate() {
        let wrong = rules::dns1035_label(s);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&path.child("shortNames").index(i), s, wrong.join(",")));
        }
    }
    if !n.kind.is_empty() && n.kind == list_kind {
        errors.push(Error::invalid(
            &path.child("listKind"),
            list_kind,
            "kind and listKind may not be the same",
        ));
    }
    for (i, s) in items(&n.categories).iter().enumerate() {
        let wrong = rules::dns1035_label(s);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&path.child("categories").index(i), s, wrong.join(",")));
        }
    }
}

fn conversion(c: &api::CustomResourceConversion, path: &Path, errors: &mut ErrorList) {
    match (c.strategy.as_str(), &c.webhook) {
        ("None", Some(_)) => errors.push(Error::forbidden(
            &path.child("webhook"),
            "should not be set when strategy is not set to Webhook",
        )),
        ("None", None) => {}
        ("Webhook", None) => errors.push(Error::required(
            &path.child("webhookClientConfig"),
            "required when strategy is set to Webhook",
        )),
        ("Webhook", Some(w)) => {
            let versions = &w.conversion_review_versions;
            if !versions.iter().any(|v| v == "v1" || v == "v1beta1") {
                let at = path.child("conversionReviewVersions");
                if versions.is_empty() {
                    errors.push(Error::required(&at, "must specify one of v1, v1beta1"));
                } else {
                    errors.push(Error::invalid(&at, versions, "must include at least one of v1, v1beta1"));
                }
            }
        }
        ("", _) => errors.push(Error::required(&path.child("strategy"), "")),
        (other, _) => {
            errors.push(Error::not_supported(&path.child("strategy"), other, &["None", "Webhook"]));
        }
    }
}

/// Groups of the project itself need its approval.
fn approval(crd: &api::CustomResourceDefinition, errors: &mut ErrorList) {
    let g = crd.spec.group.as_str();
    let protected = ["k8s.io", "kubernetes.io"].iter().any(|p| g == *p || g.ends_with(&format!(".{p}")));
    if !protected {
        return;
    }
    let key = "api-approved.kubernetes.io";
    let at = Path::new("metadata").child("annotations").key(key);
    let given = crd.metadata.annotations.as_ref().and_then(|a| a.get(key));
    let link = "https://github.com/kubernetes/enhancements/pull/1111";
    match given {
        None => errors.push(Error::required(
            &at,
            format!("protected groups must have approval annotation \"{key}\", see {link}"),
        )),
        Some(v) if v.starts_with("unapproved") || v.starts_with("http") => {}
        Some(v) => errors.push(Error::invalid(
            &at,
            v,
            format!("protected groups must have approval annotation \"{key}\" with either a URL or a reason starting with \"unapproved\", see {link}"),
        )),
    }
}

/// Names, scope and group stay once the definition is established.
pub fn update(new: &api::CustomResourceDefinition, old: &api::CustomResourceDefinition) -> ErrorList {
    let mut errors = ErrorList::new();
    let established = items(&old.status.clone().unwrap_or_default().conditions)
        .iter()
        .any(|c| c.type_ == "Established" && c.status == "True");
    if !established {
        return errors;
    }
    let path = Path::new("spec");
    let (n, o) = (&new.spec, &old.spec);
    for (at, a, b) in [
        (path.child("group"), &n.group, &o.group),
        (path.child("scope"), &n.scope, &o.scope),
        (path.child("names").child("kind"), &n.names.kind, &o.names.kind),
        (path.child("names").child("plural"), &n.names.plural, &o.names.plural),
    ] {
        if a != b {
            errors.push(Error::invalid(&at, a, "field is immutable"));
        }
    }
    errors
}
