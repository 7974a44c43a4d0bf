//! Versions of a definition and their parts: which is stored, subresources, printer columns, deprecation,
//! selectable fields.

use std::collections::BTreeSet;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1 as api;

use super::{Definition, Options, rules, selectable as fields_of};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};

type Version = api::CustomResourceDefinitionVersion;

const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 8] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];

/// True if all versions agree: upstream then tells what is wrong once, for all of them.
pub(super) fn agree<T: PartialEq>(list: &[Version], of: impl Fn(&Version) -> &T) -> bool {
    list.iter().all(|v| of(v) == of(&list[0]))
}

fn has_status(v: &Version) -> bool {
    v.subresources.as_ref().is_some_and(|s| s.status.is_some())
}

/// What is wrong with each version, and with the set of them.
pub fn all(d: &Definition<'_>, options: &Options, path: &Path, errors: &mut ErrorList) {
    let (list, at) = (&d.spec.versions, path.child("versions"));
    let mut seen = BTreeSet::new();
    let mut unique = true;
    for (i, v) in list.iter().enumerate() {
        unique &= seen.insert(&v.name);
        let at = at.index(i);
        let wrong = rules::dns1035_label(&v.name);
        if !wrong.is_empty() {
            errors.push(Error::invalid(&at.child("name"), &v.name, wrong.join(",")));
        }
        deprecation(v, &at.child("deprecationWarning"), errors);
        if let (false, Some(p)) = (agree(list, |v| &v.schema), d.schema(i)) {
            let how = (has_status(v), options.same_schema.contains(&v.name));
            super::schema(p, how, options, &at.child("schema").child("openAPIV3Schema"), errors);
        }
        if !agree(list, |v| &v.subresources) {
            subresources(v, &at.child("subresources"), errors);
        }
        if !agree(list, |v| &v.additional_printer_columns) {
            columns(v, &at.child("additionalPrinterColumns"), errors);
        }
        if !agree(list, |v| &v.selectable_fields) {
            let many = options.many_selectable.contains(&v.name);
            selectable(d, i, !agree(list, |v| &v.schema), many, &at.child("selectableFields"), errors);
        }
    }
    let mut wrong = |why: &str| {
        let mut e = Error::invalid(&at, "", why);
        e.value = super::shown::versions(list);
        errors.push(e);
    };
    if !unique {
        wrong("must contain unique version names");
    }
    if list.iter().filter(|v| v.storage).count() != 1 {
        wrong("must have exactly one version marked as storage version");
    }
    // Upstream's internal form names the first version once more.
    if let Some(first) = list.first().filter(|v| !v.name.is_empty()) {
        let why = rules::dns1035_label(&first.name);
        if !why.is_empty() {
            errors.push(Error::invalid(&path.child("version"), &first.name, why.join(",")));
        }
    }
}

/// What all versions have in common.
pub fn shared(d: &Definition<'_>, options: &Options, path: &Path, errors: &mut ErrorList) {
    let list = &d.spec.versions;
    let Some(first) = list.first() else { return };
    if let (true, Some(p)) = (agree(list, |v| &v.schema), d.schema(0)) {
        let at = path.child("validation").child("openAPIV3Schema");
        let how = (list.iter().any(has_status), options.same_schema.contains(&first.name));
        super::schema(p, how, options, &at, errors);
    }
    if agree(list, |v| &v.subresources) {
        subresources(first, &path.child("subresources"), errors);
    }
    if agree(list, |v| &v.additional_printer_columns) {
        columns(first, &path.child("additionalPrinterColumns"), errors);
    }
    if agree(list, |v| &v.selectable_fields) {
        let many = options.many_selectable.contains("");
        let at = path.child("selectableFields");
        selectable(d, 0, agree(list, |v| &v.schema), many, &at, errors);
    }
}

/// `has_schema`: the schema stands where the fields do, for all versions or for each.
fn selectable(
    d: &Definition<'_>,
    i: usize,
    has_schema: bool,
    many: bool,
    path: &Path,
    errors: &mut ErrorList,
) {
    let v = &d.spec.versions[i];
    let fields: Vec<String> = items(&v.selectable_fields).iter().map(|f| f.json_path.clone()).collect();
    if fields.is_empty() {
        return;
    }
    match d.schema(i).filter(|_| has_schema) {
        Some(p) => fields_of::check(&fields, p, many, path, errors),
        None => {
            let all = agree(&d.spec.versions, |v| &v.selectable_fields);
            let why = if all {
                "may only be set when validations.schema is included"
            } else {
                "may only be set when `version.schema.openAPIV3Schema` is not included"
            };
            errors.push(Error::invalid(path, "", why));
        }
    }
}

/// Versions whose selectable fields were too many before and did not change.
pub fn many_selectable(
    new: &api::CustomResourceDefinitionSpec,
    old: &api::CustomResourceDefinitionSpec,
) -> BTreeSet<String> {
    let fields = |v: &Version| v.selectable_fields.clone().unwrap_or_default();
    let kept = |n: &Version| {
        let before = old.versions.iter().find(|o| o.name == n.name);
        before.is_some_and(|o| fields_of::too_many(fields(o).len()) && fields(o) == fields(n))
    };
    let mut out: BTreeSet<String> = new.versions.iter().filter(|v| kept(v)).map(|v| v.name.clone()).collect();
    if !out.is_empty() && out.len() == new.versions.len() {
        out.insert(String::new());
    }
    out
}

/// Versions whose schema is as it was.
pub fn same_schema(new: &Definition<'_>, old: &Definition<'_>) -> BTreeSet<String> {
    let kept = |(i, v): &(usize, &Version)| {
        let before = old.spec.versions.iter().position(|o| o.name == v.name);
        before.is_some_and(|b| old.schemas[b] == new.schemas[*i])
    };
    new.spec.versions.iter().enumerate().filter(kept).map(|(_, v)| v.name.clone()).collect()
}

fn deprecation(v: &Version, path: &Path, errors: &mut ErrorList) {
    let Some(w) = &v.deprecation_warning else { return };
    let mut wrong = |why: String| errors.push(Error::invalid(path, w, why));
    if v.deprecated != Some(true) {
        return wrong("can only be set for deprecated versions".into());
    }
    if w.len() > 256 {
        wrong("must be <= 256 characters long".into());
    }
    if w.is_empty() {
        wrong("must not be an empty string".into());
    }
    let unprintable = |c: char| c.is_control() || (c.is_whitespace() && c != ' ');
    if let Some((i, _)) = w.char_indices().find(|(_, c)| unprintable(*c)) {
        wrong(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {i}"
        ));
    }
}

/// Paths begin with a dot.
fn simple_path(s: &str, path: &Path, errors: &mut ErrorList) -> bool {
    if !s.starts_with('.') {
        errors.push(Error::invalid(path, s, "must be a simple json path starting with ."));
    }
    s.starts_with('.')
}

fn subresources(v: &Version, path: &Path, errors: &mut ErrorList) {
    let Some(scale) = v.subresources.as_ref().and_then(|s| s.scale.as_ref()) else { return };
    for (field, value, root, name) in [
        ("scale.specReplicasPath", &scale.spec_replicas_path, ".spec.", ".spec"),
        ("scale.statusReplicasPath", &scale.status_replicas_path, ".status.", ".status"),
    ] {
        let at = path.child(field);
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
        } else if simple_path(value, &at, errors) && !value.starts_with(root) {
            errors.push(Error::invalid(&at, value, format!("should be a json path under {name}")));
        }
    }
    let selector = text(&scale.label_selector_path);
    let at = path.child("scale.labelSelectorPath");
    let in_place = selector.starts_with(".spec.") || selector.starts_with(".status.");
    if !selector.is_empty() && simple_path(selector, &at, errors) && !in_place {
        let why = "should be a json path under either .spec or .status";
        errors.push(Error::invalid(&at, selector, why));
    }
}

fn columns(v: &Version, path: &Path, errors: &mut ErrorList) {
    for (i, c) in items(&v.additional_printer_columns).iter().enumerate() {
        column(c, &path.index(i), errors);
    }
}

fn column(c: &api::CustomResourceColumnDefinition, path: &Path, errors: &mut ErrorList) {
    if c.name.is_empty() {
        errors.push(Error::required(&path.child("name"), ""));
    }
    let at = path.child("type");
    let one_of = format!("must be one of {}", COLUMN_TYPES.join(","));
    if c.type_.is_empty() {
        errors.push(Error::required(&at, one_of));
    } else if !COLUMN_TYPES.contains(&c.type_.as_str()) {
        errors.push(Error::invalid(&at, &c.type_, one_of));
    }
    let format = text(&c.format);
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        let why = format!("must be one of {}", COLUMN_FORMATS.join(","));
        errors.push(Error::invalid(&path.child("format"), format, why));
    }
    let at = path.child("JSONPath");
    if c.json_path.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        simple_path(&c.json_path, &at, errors);
    }
}
