//! What may be wrong with a custom resource definition.
//!
//! Upstream judges an internal form in which what all versions agree on (schema, subresources, columns,
//! selectable fields) is said once for all of them; places in errors are those of that form. An update is judged
//! less strictly where the stored definition has the same fault.
//!
//! | file | holds |
//! | --- | --- |
//! | `names` | names, groups, approval |
//! | `version` | parts of a version: subresources, columns, deprecation |
//! | `conversion` | the conversion webhook |
//! | `structural`, `openapi`, `defaults`, `selectable` | schemas |
//! | `rule_costs` | what validation rules may cost |

mod conversion;
mod defaults;
mod names;
mod openapi;
mod rule_costs;
mod selectable;
mod shown;
mod structural;
#[cfg(test)]
mod tests;
mod version;

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;
use serde_json::Value;

use crate::crd::schema::node::{Compiler, MAX_DEPTH, Node, unrecognized_format};
use crate::crd::schema::number::quote;
use crate::crd::schema::props::Props;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::text as rules;

/// What is asked of a definition. An update asks for less where the stored definition lacks it already.
#[derive(Debug)]
pub struct Options {
    require_schema: bool,
    require_valid_types: bool,
    require_structural: bool,
    require_pruned_defaults: bool,
    require_atomic_set: bool,
    require_map_list_keys: bool,
    require_known_review_version: bool,
    require_immutable_names: bool,
    allow_invalid_ca: bool,
    /// Versions that keep their many selectable fields; empty stands for all versions together.
    many_selectable: BTreeSet<String>,
    /// Versions whose schema is stored as it is: their rules were accepted once.
    same_schema: BTreeSet<String>,
}

impl Options {
    fn create() -> Self {
        Self {
            require_schema: true,
            require_valid_types: true,
            require_structural: true,
            require_pruned_defaults: true,
            require_atomic_set: true,
            require_map_list_keys: true,
            require_known_review_version: true,
            require_immutable_names: false,
            allow_invalid_ca: true,
            many_selectable: BTreeSet::new(),
            same_schema: BTreeSet::new(),
        }
    }

    fn update(new: &Definition<'_>, old: &Definition<'_>) -> Self {
        let every = |pred: &mut dyn FnMut(Props<'_>) -> bool| !old.schemas().any(|p| p.any(pred));
        let structural = |p: Props<'_>| structural::check(p, &Path::default()).is_empty();
        let unpruned = |p: Props<'_>| structural(p) && compile(p).is_ok_and(|n| defaults::has_unpruned(&n));
        let established = old.established();
        Self {
            require_schema: old.schemas().count() == old.spec.versions.len(),
            require_valid_types: every(&mut |p| !p.ty().is_empty() && !openapi::is_type(p.ty())),
            require_structural: old.schemas().all(|p| compile(p).is_ok() && structural(p)),
            require_pruned_defaults: !old.schemas().any(unpruned),
            require_atomic_set: every(&mut openapi::has_non_atomic_set),
            require_map_list_keys: every(&mut |p| {
                let mut errors = ErrorList::new();
                openapi::map_list_keys(p, &Path::default(), &mut errors);
                !errors.is_empty()
            }),
            require_known_review_version: conversion::knows_review_version(old.spec.conversion.as_ref()),
            require_immutable_names: established,
            allow_invalid_ca: !established || conversion::has_invalid_ca(old.spec.conversion.as_ref()),
            many_selectable: version::many_selectable(new.spec, old.spec),
            same_schema: version::same_schema(new, old),
        }
    }
}

/// A definition with its schemas in JSON form.
struct Definition<'a> {
    crd: &'a api::CustomResourceDefinition,
    spec: &'a api::CustomResourceDefinitionSpec,
    /// Per version.
    schemas: Vec<Option<Value>>,
}

impl<'a> Definition<'a> {
    fn new(crd: &'a api::CustomResourceDefinition) -> Self {
        let json = |v: &api::CustomResourceDefinitionVersion| {
            let schema = v.schema.as_ref()?.open_api_v3_schema.as_ref()?;
            serde_json::to_value(schema).ok()
        };
        Self { crd, spec: &crd.spec, schemas: crd.spec.versions.iter().map(json).collect() }
    }

    fn schemas(&self) -> impl Iterator<Item = Props<'_>> {
        self.schemas.iter().flatten().filter_map(Props::new)
    }

    fn schema(&self, i: usize) -> Option<Props<'_>> {
        self.schemas.get(i)?.as_ref().and_then(Props::new)
    }

    fn established(&self) -> bool {
        let status = self.crd.status.as_ref();
        let conditions = status.map_or(&[][..], |s| items(&s.conditions));
        conditions.iter().any(|c| c.type_ == "Established" && c.status == "True")
    }
}

fn compile(p: Props<'_>) -> Result<Node, String> {
    let mut compiler = Compiler::default();
    let node = compiler.node(p, MAX_DEPTH);
    match compiler.errors.into_iter().next() {
        None => Ok(node),
        Some(why) => Err(why),
    }
}

/// Everything wrong with a new definition, in upstream's order.
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
    let d = Definition::new(crd);
    spec(&d, &Options::create(), &mut errors);
    status(crd, &mut errors);
    names::approval(crd, None, &mut errors);
    preserve_unknown(crd, None, &mut errors);
    errors
}

/// Everything wrong with a changed definition.
pub fn validate_update(
    new: &api::CustomResourceDefinition,
    old: &api::CustomResourceDefinition,
) -> ErrorList {
    let mut errors = ErrorList::new();
    let (n, o) = (Definition::new(new), Definition::new(old));
    let options = Options::update(&n, &o);
    spec(&n, &options, &mut errors);
    let path = Path::new("spec");
    let mut keep = |at: Path, a: &str, b: &str| {
        if a != b {
            errors.push(Error::invalid(&at, a, "field is immutable"));
        }
    };
    if options.require_immutable_names {
        keep(path.child("scope"), &new.spec.scope, &old.spec.scope);
        keep(path.child("names").child("kind"), &new.spec.names.kind, &old.spec.names.kind);
    }
    keep(path.child("group"), &new.spec.group, &old.spec.group);
    keep(path.child("names").child("plural"), &new.spec.names.plural, &old.spec.names.plural);
    status(new, &mut errors);
    names::approval(new, Some(old), &mut errors);
    preserve_unknown(new, Some(old), &mut errors);
    errors
}

/// What is wrong with the status alone.
pub fn validate_status(crd: &api::CustomResourceDefinition) -> ErrorList {
    let mut errors = ErrorList::new();
    if let Some(accepted) = crd.status.as_ref().and_then(|s| s.accepted_names.as_ref()) {
        names::form(accepted, &Path::new("status").child("acceptedNames"), &mut errors);
    }
    errors
}

/// Sentences about formats that are written in schemas but not checked; those of `old` are known already.
pub fn warnings(
    new: &api::CustomResourceDefinition,
    old: Option<&api::CustomResourceDefinition>,
) -> Vec<String> {
    let formats = |crd: &api::CustomResourceDefinition| {
        let mut found = Vec::new();
        for p in Definition::new(crd).schemas() {
            p.any(&mut |p| {
                found.extend(unrecognized_format(p).map(str::to_owned));
                false
            });
        }
        found
    };
    let known = old.map(formats).unwrap_or_default();
    let fresh = formats(new).into_iter().filter(|f| !known.contains(f));
    fresh.map(|f| format!("unrecognized format {}", quote(&f))).collect()
}

fn spec(d: &Definition<'_>, options: &Options, errors: &mut ErrorList) {
    let (s, path) = (d.spec, Path::new("spec"));
    names::group(&s.group, &path.child("group"), errors);
    match s.scope.as_str() {
        "" => errors.push(Error::required(&path.child("scope"), "")),
        "Cluster" | "Namespaced" => {}
        other => errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespaced"])),
    }
    let prunes = s.preserve_unknown_fields != Some(true);
    let versions = path.child("versions");
    for (i, v) in s.versions.iter().enumerate().filter(|(i, _)| d.schema(*i).is_none()) {
        let at = versions.index(i).child("schema").child("openAPIV3Schema");
        if options.require_schema {
            errors.push(Error::required(&at, ""));
        } else if prunes && v.served {
            errors.push(Error::required(&at, "because otherwise all fields are pruned"));
        }
    }
    if !prunes && d.schemas().any(|p| p.any(&mut |p| p.default().is_some())) {
        let at = path.child("preserveUnknownFields");
        errors.push(Error::invalid(&at, true, "must be false in order to use defaults in the schema"));
    }
    version::all(d, options, &path, errors);
    names::required(&s.names, &path.child("names"), errors);
    names::form(&s.names, &path.child("names"), errors);
    version::shared(d, options, &path, errors);
    if let Some(c) = &s.conversion {
        conversion::validate(c, prunes, options, &path.child("conversion"), errors);
    }
}

/// One schema: `path` is that of `openAPIV3Schema`; `stored` says that it did not change.
fn schema(
    p: Props<'_>,
    (has_status, stored): (bool, bool),
    options: &Options,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut found = ErrorList::new();
    if has_status {
        root_with_status(p, path, &mut found);
    }
    if p.flag("nullable") {
        found.push(Error::forbidden(&path.child("nullable"), "nullable cannot be true at the root"));
    }
    // What cannot be compiled is mostly told better by the check of each node.
    let mut uncompiled = None;
    // Rules are looked at once the schema is right.
    let mut with_rules = false;
    if options.require_structural {
        match compile(p) {
            Err(why) => uncompiled = Some(why),
            Ok(node) => {
                let wrong = structural::check(p, path);
                let wrong = if wrong.is_empty() {
                    defaults::validate(&node, p, options.require_pruned_defaults, path)
                } else {
                    wrong
                };
                with_rules = wrong.is_empty();
                found.extend(wrong);
            }
        }
    }
    let (wrong, costs) = openapi::check(p, path, options, with_rules, stored);
    found.extend(wrong);
    if let (true, Some(why)) = (found.is_empty(), uncompiled) {
        found.push(Error::invalid(path, "", why));
    }
    costs.tell(path, &mut found);
    errors.extend(found);
}

/// With a `status` subresource the status is checked by its own part of the schema, so the root may say only
/// what is not lost by that.
fn root_with_status(p: Props<'_>, path: &Path, errors: &mut ErrorList) {
    const ALLOWED: [(&str, &str); 22] = [
        ("description", "Description"),
        ("type", "Type"),
        ("format", "Format"),
        ("title", "Title"),
        ("maximum", "Maximum"),
        ("exclusiveMaximum", "ExclusiveMaximum"),
        ("minimum", "Minimum"),
        ("exclusiveMinimum", "ExclusiveMinimum"),
        ("maxLength", "MaxLength"),
        ("minLength", "MinLength"),
        ("pattern", "Pattern"),
        ("maxItems", "MaxItems"),
        ("minItems", "MinItems"),
        ("uniqueItems", "UniqueItems"),
        ("multipleOf", "MultipleOf"),
        ("required", "Required"),
        ("items", "Items"),
        ("properties", "Properties"),
        ("externalDocs", "ExternalDocs"),
        ("example", "Example"),
        ("x-kubernetes-preserve-unknown-fields", "XPreserveUnknownFields"),
        ("x-kubernetes-validations", "XValidations"),
    ];
    if !p.ty().is_empty() && p.ty() != "object" {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        return errors.push(Error::invalid(&path.child("type"), p.ty(), why));
    }
    let allowed = |field: &str| ALLOWED.iter().any(|(json, _)| *json == field);
    if p.map().iter().any(|(field, v)| !allowed(field) && !structural::is_zero(v)) {
        let names: Vec<&str> = ALLOWED.iter().map(|(_, name)| *name).collect();
        let why = format!(
            "only [{}] fields are allowed at the root of the schema if the status subresource is enabled",
            names.join(" ")
        );
        errors.push(Error::invalid(path, p.map(), why));
    }
}

fn status(crd: &api::CustomResourceDefinition, errors: &mut ErrorList) {
    errors.extend(validate_status(crd));
    let stored = crd.status.as_ref().map_or(&[][..], |s| items(&s.stored_versions));
    let at = Path::new("status").child("storedVersions");
    if stored.is_empty() {
        let none: Option<()> = None;
        return errors.push(Error::invalid(&at, none, "must have at least one stored version"));
    }
    for v in crd.spec.versions.iter().filter(|v| v.storage && !stored.contains(&v.name)) {
        errors.push(Error::invalid(&at, stored, format!("must have the storage version {}", v.name)));
    }
    for (i, name) in stored.iter().enumerate() {
        if !crd.spec.versions.iter().any(|v| v.name == *name) {
            let why = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in \
                 spec.versions until a storage migration ensures no data remains persisted in {name} and removes \
                 {name} from status.storedVersions"
            );
            errors.push(Error::invalid(&at.index(i), name, why));
        }
    }
}

fn preserve_unknown(
    crd: &api::CustomResourceDefinition,
    old: Option<&api::CustomResourceDefinition>,
    errors: &mut ErrorList,
) {
    let keeps = |c: &api::CustomResourceDefinition| c.spec.preserve_unknown_fields == Some(true);
    if keeps(crd) && !old.is_some_and(keeps) {
        errors.push(Error::invalid(
            &Path::new("spec").child("preserveUnknownFields"),
            true,
            "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema \
             instead",
        ));
    }
}
