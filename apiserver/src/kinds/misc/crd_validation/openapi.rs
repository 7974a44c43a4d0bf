//! What each node of a schema may say: fields that are not supported, lists and maps, the form of rules.

use serde_json::Value;

use super::Options;
use super::rule_costs::{Costs, Scope};
use crate::crd::schema::node::unsupported;
use crate::crd::schema::paths;
use crate::crd::schema::props::{Additional, Items, Props};
use crate::crd::schema::prune::is_meta;
use crate::field::{Error, ErrorList, Path};

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const REASONS: [&str; 4] =
    ["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"];

/// True for the types that a schema may name.
pub fn is_type(name: &str) -> bool {
    TYPES.contains(&name)
}

/// What holds for a part of the schema because of the parts around it.
#[derive(Debug, Clone, Copy)]
struct Around<'a> {
    /// Why defaults may not be set here.
    no_defaults: Option<&'a str>,
    /// Inside `apiVersion`, `kind` or `metadata` of an object.
    in_meta: bool,
    /// The outermost list whose old and new items cannot be told to belong together.
    uncorrelatable: Option<&'a Path>,
}

/// What is found on the way.
struct Found<'a> {
    options: &'a Options,
    schema: ErrorList,
    rules: ErrorList,
    costs: Costs,
}

/// What is wrong with the nodes of `schema`. Rules are compiled if `with_rules`; per-rule limits are off where
/// `stored` says that the schema is stored already.
pub fn check(
    schema: Props<'_>,
    path: &Path,
    options: &Options,
    with_rules: bool,
    stored: bool,
) -> (ErrorList, Costs) {
    let mut found =
        Found { options, schema: ErrorList::new(), rules: ErrorList::new(), costs: Costs::new(stored) };
    let around = Around { no_defaults: None, in_meta: false, uncorrelatable: None };
    node(schema, path, around, true, with_rules.then(Scope::root), &mut found);
    found.schema.extend(found.rules);
    (found.schema, found.costs)
}

fn node(
    p: Props<'_>,
    path: &Path,
    around: Around<'_>,
    root: bool,
    scope: Option<Scope>,
    found: &mut Found<'_>,
) {
    let (o, before) = (found.options, found.schema.len());
    let scope = scope.map(|s| s.enter(p, root || p.embeds()));
    supported(p, path, around, o, &mut found.schema);
    if p.flag("uniqueItems") {
        found.schema.push(Error::forbidden(
            &path.child("uniqueItems"),
            "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
        ));
    }
    children(p, path, around, root, scope.as_ref(), found);
    let errors = &mut found.schema;
    if p.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(false)) {
        let at = path.child("x-kubernetes-preserve-unknown-fields");
        errors.push(Error::invalid(&at, false, "must be true or undefined"));
    }
    map_type(p, path, errors);
    list_type(p, path, o, errors);
    if o.require_map_list_keys {
        map_list_keys(p, path, errors);
    }
    for (i, rule) in p.list("x-kubernetes-validations").iter().enumerate() {
        if let Some(rule) = Props::new(rule) {
            rule_form(rule, p, &path.child("x-kubernetes-validations").index(i), errors);
        }
    }
    // Rules on what is no schema yet are not worth telling about.
    if let (Some(scope), true) = (scope, found.schema.len() == before) {
        let at = path.child("x-kubernetes-validations");
        found.costs.rules(p, &scope, around.uncorrelatable, &at, &mut found.rules);
    }
}

fn supported(p: Props<'_>, path: &Path, around: Around<'_>, o: &Options, errors: &mut ErrorList) {
    let at = path.child("type");
    if o.require_valid_types && !p.ty().is_empty() && !TYPES.contains(&p.ty()) {
        errors.push(Error::not_supported(&at, p.ty(), &TYPES));
    }
    if let (Some(_), Some(why)) = (p.default(), around.no_defaults) {
        errors.push(Error::forbidden(&path.child("default"), format!("must not be set {why}")));
    }
    for (field, given) in unsupported(p).into_iter().filter(|(f, _)| *f != "schema") {
        if given {
            errors.push(Error::forbidden(&path.child(field), format!("{field} is not supported")));
        }
    }
    if p.ty() == "null" {
        errors.push(Error::forbidden(&at, "type cannot be set to null, use nullable as an alternative"));
    }
    if let Some(Items::Each(list)) = p.items()
        && !list.is_empty()
    {
        let at = path.child("items");
        errors.push(Error::forbidden(&at, "items must be a schema object and not an array"));
    }
    if around.in_meta && p.embeds() {
        let at = path.child("x-kubernetes-embedded-resource");
        errors.push(Error::forbidden(&at, "must not be used inside of resource meta"));
    }
}

fn children(
    p: Props<'_>,
    path: &Path,
    around: Around<'_>,
    root: bool,
    scope: Option<&Scope>,
    found: &mut Found<'_>,
) {
    let additional = path.child("additionalProperties");
    if p.has_properties()
        && matches!(p.additional(), Some(Additional::Schema(_) | Additional::Allowed(false)))
    {
        let why = "additionalProperties and properties are mutual exclusive";
        found.schema.push(Error::forbidden(&additional, why));
    }
    if let Some(inner) = p.additional_schema() {
        let why = "inside additionalProperties applying to object metadata";
        let no_defaults = if around.in_meta { Some(why) } else { around.no_defaults };
        let scope = scope.map(|s| s.element(p));
        node(inner, &additional, Around { no_defaults, ..around }, false, scope, found);
    }
    for (name, inner) in p.properties() {
        let mut here = around;
        if !p.map_type().is_none_or(is_map_type) {
            here.uncorrelatable = around.uncorrelatable.or(Some(path));
        }
        let why = format!("in top-level {name}");
        if (root || p.embeds()) && is_meta(name) {
            here.in_meta = true;
            if root {
                here.no_defaults = Some(&why);
            }
        }
        let scope = scope.map(|s| s.field(p, name));
        node(inner, &path.child("properties").key(name), here, false, scope, found);
    }
    if let Some(inner) = p.schema("not") {
        node(inner, &path.child("not"), around, false, None, found);
    }
    for field in ["allOf", "oneOf", "anyOf"] {
        for (i, inner) in p.schemas(field).enumerate() {
            node(inner, &path.child(field).index(i), around, false, None, found);
        }
    }
    for field in ["definitions", "dependencies"] {
        for (name, inner) in p.named(field) {
            node(inner, &path.child(field).key(name), around, false, None, found);
        }
    }
    let mut here = around;
    if p.list_type() != Some("map") {
        here.uncorrelatable = around.uncorrelatable.or(Some(path));
    }
    match p.items() {
        Some(Items::One(inner)) => {
            node(inner, &path.child("items"), here, false, scope.map(|s| s.element(p)), found);
        }
        Some(Items::Each(list)) => {
            for (i, inner) in list.iter().filter_map(Props::new).enumerate() {
                node(inner, &path.child("items").index(i), here, false, None, found);
            }
        }
        None => {}
    }
}

/// `type` must be `wanted` because `extension` is given.
fn wants_type(p: Props<'_>, wanted: &str, extension: &str, path: &Path, errors: &mut ErrorList) -> bool {
    if p.ty() == wanted {
        return true;
    }
    let why = format!("must be {wanted} if {extension} is specified");
    let at = path.child("type");
    errors.push(if p.ty().is_empty() { Error::required(&at, why) } else { Error::invalid(&at, p.ty(), why) });
    false
}

fn is_map_type(name: &str) -> bool {
    ["atomic", "granular"].contains(&name)
}

fn map_type(p: Props<'_>, path: &Path, errors: &mut ErrorList) {
    let Some(given) = p.map_type() else { return };
    wants_type(p, "object", "x-kubernetes-map-type", path, errors);
    if !is_map_type(given) {
        let at = path.child("x-kubernetes-map-type");
        errors.push(Error::not_supported(&at, given, &["atomic", "granular"]));
    }
}

/// What keeps the items of a set from being compared as wholes.
fn not_atomic(item: Props<'_>) -> Option<&'static str> {
    match item.ty() {
        "array" if item.list_type().is_some_and(|l| l != "atomic") => Some("x-kubernetes-list-type"),
        "object" if item.map_type() != Some("atomic") => Some("x-kubernetes-map-type"),
        _ => None,
    }
}

/// True for sets of items that cannot be compared as wholes.
pub fn has_non_atomic_set(p: Props<'_>) -> bool {
    p.list_type() == Some("set") && p.item().and_then(not_atomic).is_some()
}

fn list_type(p: Props<'_>, path: &Path, o: &Options, errors: &mut ErrorList) {
    let given = p.list_type();
    let at = path.child("x-kubernetes-list-type");
    if let Some(l) = given {
        if wants_type(p, "array", "x-kubernetes-list-type", path, errors)
            && o.require_atomic_set
            && l == "set"
            && let Some((item, field)) = p.item().and_then(|i| not_atomic(i).map(|f| (i, f)))
        {
            // Upstream shows the list type for both.
            errors.push(Error::invalid(
                &path.child("items").child(field),
                item.list_type(),
                "must be atomic as item of a list with x-kubernetes-list-type=set",
            ));
        }
        if !["atomic", "set", "map"].contains(&l) {
            errors.push(Error::not_supported(&at, l, &["atomic", "set", "map"]));
        }
    }
    let keys = p.texts("x-kubernetes-list-map-keys");
    if !keys.is_empty() && given != Some("map") {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(match given {
            None => Error::required(&at, why),
            Some(l) => Error::invalid(&at, l, why),
        });
    }
    if given != Some("map") {
        return;
    }
    let at = path.child("x-kubernetes-list-map-keys");
    if keys.is_empty() {
        errors.push(Error::required(&at, "must not be empty if x-kubernetes-list-type is map"));
    }
    let items = path.child("items");
    let item = match p.items() {
        None => {
            return errors
                .push(Error::required(&items, "must have a schema if x-kubernetes-list-type is map"));
        }
        Some(Items::Each(_)) => {
            let why = "must only have a single schema if x-kubernetes-list-type is map";
            return errors.push(Error::invalid(&items, p.get("items"), why));
        }
        Some(Items::One(item)) => item,
    };
    if item.ty() != "object" {
        let why = "must be object if parent array's x-kubernetes-list-type is map";
        return errors.push(Error::invalid(&items.child("type"), item.ty(), why));
    }
    for (i, k) in keys.iter().enumerate() {
        match item.property(k) {
            Some(s) if matches!(s.ty(), "array" | "object") => {
                let at = items.child("properties").key(k).child("type");
                let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
                errors.push(Error::invalid(&at, item.ty(), why));
            }
            Some(_) => {}
            None => errors.push(Error::invalid(&at, &keys, "entries must all be names of item properties")),
        }
        if keys[..i].contains(k) {
            errors.push(Error::invalid(&at, &keys, "must not contain duplicate entries"));
        }
    }
}

/// Items of sets and maps are never null, and keys of maps always there.
pub fn map_list_keys(p: Props<'_>, path: &Path, errors: &mut ErrorList) {
    let (Some(list @ ("set" | "map")), Some(item)) = (p.list_type(), p.item()) else { return };
    let items = path.child("items");
    if item.flag("nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {list}");
        errors.push(Error::forbidden(&items.child("nullable"), why));
    }
    if list == "set" {
        return;
    }
    let required = item.texts("required");
    for k in p.texts("x-kubernetes-list-map-keys") {
        let Some(key) = item.property(k) else { continue };
        let at = items.child("properties").key(k);
        if !required.contains(&k) && key.default().is_none() {
            errors.push(Error::required(
                &at.child("default"),
                "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required \
                 property",
            ));
        }
        if key.flag("nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(Error::forbidden(&at.child("nullable"), why));
        }
    }
}

fn has_newlines(s: &str) -> bool {
    s.contains(['\n', '\r'])
}

/// The form of a rule, without reading its expression.
fn rule_form(rule: Props<'_>, schema: Props<'_>, path: &Path, errors: &mut ErrorList) {
    let (expression, message) = (rule.text("rule").trim(), rule.text("message"));
    let at = path.child("message");
    if expression.is_empty() {
        errors.push(Error::required(&path.child("rule"), "rule is not specified"));
    } else if !message.is_empty() && message.trim().is_empty() {
        errors.push(Error::invalid(&at, message, "must be non-empty if specified"));
    } else if has_newlines(message.trim()) {
        errors.push(Error::invalid(&at, message, "must not contain line breaks"));
    } else if has_newlines(expression) && message.trim().is_empty() {
        errors.push(Error::required(&at, "message must be specified if rule contains line breaks"));
    }
    let given = rule.text("messageExpression");
    if !given.is_empty() && given.trim().is_empty() {
        let at = path.child("messageExpression");
        errors.push(Error::required(&at, "messageExpression must be non-empty if specified"));
    }
    if let Some(reason) = rule.get("reason").and_then(Value::as_str)
        && !REASONS.contains(&reason)
    {
        errors.push(Error::not_supported(&path.child("reason"), reason, &REASONS));
    }
    let given = rule.text("fieldPath");
    let at = path.child("fieldPath");
    if given.is_empty() {
        return;
    }
    if given.trim().is_empty() {
        errors.push(Error::invalid(&at, given, "must be non-empty if specified"));
    }
    if has_newlines(given) {
        errors.push(Error::invalid(&at, given, "must not contain line breaks"));
    }
    if paths::resolve(given, schema, true).is_err() {
        errors.push(Error::invalid(&at, given, "must be a valid path"));
    }
}
