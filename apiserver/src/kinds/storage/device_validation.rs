//! What may be wrong with claims of devices, classes and slices (KEP-4381).

use std::collections::{BTreeMap, BTreeSet};

use expressions::device;
use k8s_openapi::api::resource::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::scheduling;
use crate::kinds::semantic::items;
use crate::kinds::validate::{invalid_each, text};

const REQUESTS: usize = 32;
const ALTERNATIVES: usize = 8;
const CONSTRAINTS: usize = 32;
const CONFIGURATIONS: usize = 32;
const SELECTORS: usize = 32;
const EXPRESSION_BYTES: i64 = 10 * 1024;
const PARAMETERS_BYTES: usize = 10 * 1024;
const DRIVER_BYTES: usize = 63;
const ID_BYTES: i64 = 32;
const VALUE_BYTES: i64 = 64;
const DEVICES: usize = 128;
/// Where devices have taints, counters or lists of values.
const ADVANCED_DEVICES: usize = 64;
const ATTRIBUTES: usize = 32;
const ATTRIBUTE_VALUES: usize = 48;
const TAINTS: usize = 16;
const COUNTER_SETS: usize = 8;
const COUNTERS: usize = 32;
const CONSUMPTIONS: usize = 2;

/// Bounds a list, whose items are looked at only if it is within.
pub(super) fn list<T>(
    all: &[T],
    max: usize,
    path: &Path,
    errors: &mut ErrorList,
    mut each: impl FnMut(&T, &Path, &mut ErrorList),
) -> bool {
    if all.len() > max {
        errors.push(Error::too_many(path, all.len(), max));
        return false;
    }
    for (i, item) in all.iter().enumerate() {
        each(item, &path.index(i), errors);
    }
    true
}

/// As [`list`], and no two items have the same key.
pub(super) fn set<'a, T>(
    all: &'a [T],
    max: usize,
    path: &Path,
    errors: &mut ErrorList,
    key: impl Fn(&'a T) -> &'a str,
    each: impl FnMut(&T, &Path, &mut ErrorList),
) {
    if list(all, max, path, errors, each) {
        let mut seen = BTreeSet::new();
        for (i, item) in all.iter().enumerate() {
            if !seen.insert(key(item)) {
                errors.push(Error::duplicate(&path.index(i), key(item)));
            }
        }
    }
}

pub(super) fn label(name: &str, path: &Path, errors: &mut ErrorList) {
    errors.extend(invalid_each(path, name, text::dns1123_label(name)));
}

pub(super) fn driver(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > DRIVER_BYTES {
        errors.push(Error::too_long(path, DRIVER_BYTES as i64));
    }
    errors.extend(invalid_each(path, name, text::dns1123_subdomain(&name.to_lowercase())));
}

/// `id` or `domain/id`.
fn qualified(name: &str, path: &Path, errors: &mut ErrorList) {
    let id = |id: &str, errors: &mut ErrorList| {
        if id.len() as i64 > ID_BYTES {
            errors.push(Error::too_long(path, ID_BYTES));
        }
        errors.extend(invalid_each(path, id, text::c_identifier(id)));
    };
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [one] => id(one, errors),
        [domain, name] => {
            if domain.is_empty() {
                errors.push(Error::invalid(path, "", "the domain must not be empty"));
            } else {
                driver(domain, path, errors);
            }
            if name.is_empty() {
                errors.push(Error::invalid(path, "", "the name must not be empty"));
            } else {
                id(name, errors);
            }
        }
        _ => {}
    }
}

fn fully_qualified(name: &str, path: &Path, errors: &mut ErrorList) {
    qualified(name, path, errors);
    if !name.contains('/') {
        let why = "a fully qualified name must be a domain and a name separated by a slash";
        errors.push(Error::invalid(path, name, why));
    }
}

/// Names of the requests of a claim, each with those of its alternatives.
pub(super) type Names<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The names of a claim's requests.
pub(super) fn names_of(spec: &api::ResourceClaimSpec) -> Names<'_> {
    let requests = spec.devices.as_ref().map(|d| items(&d.requests)).unwrap_or_default();
    requests
        .iter()
        .map(|r| (r.name.as_str(), items(&r.first_available).iter().map(|s| s.name.as_str()).collect()))
        .collect()
}

/// What a claim asks for.
pub fn claim(spec: &api::ResourceClaimSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(d) = &spec.devices else { return errors };
    let path = path.child("devices");
    let requests = items(&d.requests);
    let names = names_of(spec);
    set(requests, REQUESTS, &path.child("requests"), &mut errors, |r| &r.name, device_request);
    list(items(&d.constraints), CONSTRAINTS, &path.child("constraints"), &mut errors, |c, at, errors| {
        referred(items(&c.requests), &names, &at.child("requests"), errors);
        match (&c.match_attribute, &c.distinct_attribute) {
            (Some(a), _) => fully_qualified(a, &at.child("matchAttribute"), errors),
            (None, Some(a)) => fully_qualified(a, &at.child("distinctAttribute"), errors),
            (None, None) => errors.push(Error::required(
                at,
                "exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
            )),
        }
    });
    list(items(&d.config), CONFIGURATIONS, &path.child("config"), &mut errors, |c, at, errors| {
        referred(items(&c.requests), &names, &at.child("requests"), errors);
        opaque(c.opaque.as_ref(), &at.child("opaque"), errors);
    });
    errors
}

/// Names of requests that something is about.
pub(super) fn referred(list: &[String], names: &Names<'_>, path: &Path, errors: &mut ErrorList) {
    const WHY: &str = "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'";
    set(
        list,
        REQUESTS,
        path,
        errors,
        |n| n,
        |name, at, errors| {
            let parts: Vec<&str> = name.split('/').collect();
            if parts.len() > 2 {
                errors.push(Error::invalid(at, name, WHY));
                return;
            }
            for p in &parts {
                label(p, at, errors);
            }
            let known = names
                .get(parts[0])
                .is_some_and(|alternatives| parts.get(1).is_none_or(|sub| alternatives.contains(sub)));
            if !known {
                errors.push(Error::invalid(at, name, WHY));
            }
        },
    );
}

pub(super) fn opaque(c: Option<&api::OpaqueDeviceConfiguration>, path: &Path, errors: &mut ErrorList) {
    let Some(c) = c else {
        errors.push(Error::required(path, ""));
        return;
    };
    driver(&c.driver, &path.child("driver"), errors);
    object(&c.parameters.0, PARAMETERS_BYTES, &path.child("parameters"), errors);
}

/// JSON that somebody else understands: an object of bounded size.
pub(super) fn object(v: &serde_json::Value, most: usize, path: &Path, errors: &mut ErrorList) {
    match v {
        serde_json::Value::Null => errors.push(Error::required(path, "")),
        v if v.to_string().len() > most => errors.push(Error::too_long(path, most as i64)),
        serde_json::Value::Object(_) => {}
        _ => errors.push(Error::invalid(path, "<value omitted>", "must be a valid JSON object")),
    }
}

fn device_request(r: &api::DeviceRequest, path: &Path, errors: &mut ErrorList) {
    label(&r.name, &path.child("name"), errors);
    let alternatives = items(&r.first_available);
    match (&r.exactly, alternatives.is_empty()) {
        (None, true) => {
            errors.push(Error::required(path, "exactly one of `exactly` or `firstAvailable` is required"));
        }
        (Some(_), false) => errors.push(Error::invalid(
            path,
            serde_json::Value::Null,
            "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
        )),
        (None, false) => {
            let at = path.child("firstAvailable");
            set(
                alternatives,
                ALTERNATIVES,
                &at,
                errors,
                |s| &s.name,
                |s, at, errors| {
                    label(&s.name, &at.child("name"), errors);
                    wanted(&s.device_class_name, items(&s.selectors), at, errors);
                    amount(s.allocation_mode.as_deref(), s.count, at, errors);
                    tolerations(items(&s.tolerations), at, errors);
                },
            );
        }
        (Some(e), true) => {
            let at = path.child("exactly");
            wanted(&e.device_class_name, items(&e.selectors), &at, errors);
            amount(e.allocation_mode.as_deref(), e.count, &at, errors);
            tolerations(items(&e.tolerations), &at, errors);
        }
    }
}

fn wanted(class: &str, selectors: &[api::DeviceSelector], path: &Path, errors: &mut ErrorList) {
    let at = path.child("deviceClassName");
    if class.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        errors.extend(invalid_each(&at, class, text::dns1123_subdomain(class)));
    }
    self::selectors(selectors, path, errors);
}

fn selectors(all: &[api::DeviceSelector], path: &Path, errors: &mut ErrorList) {
    list(all, SELECTORS, &path.child("selectors"), errors, |s, at, errors| {
        let at = at.child("cel");
        match &s.cel {
            None => errors.push(Error::required(&at, "")),
            Some(c) if c.expression.len() as i64 > EXPRESSION_BYTES => {
                errors.push(Error::too_long(&at.child("expression"), EXPRESSION_BYTES));
            }
            Some(c) => expression(&c.expression, &at.child("expression"), errors),
        }
    });
}

/// An expression must compile, and cost a bounded amount whatever the device.
fn expression(text: &str, path: &Path, errors: &mut ErrorList) {
    match device::compile(text) {
        Err(why) => errors.push(Error::invalid(path, text, why)),
        Ok(c) if c.cost(&device::decl()).max > device::MAX_COST => {
            errors.push(Error::forbidden(path, "too complex, exceeds cost limit"));
        }
        Ok(_) => {}
    }
}

fn amount(mode: Option<&str>, count: Option<i64>, path: &Path, errors: &mut ErrorList) {
    let (at, n) = (path.child("count"), count.unwrap_or(0));
    match mode.unwrap_or_default() {
        "All" if n != 0 => {
            errors.push(Error::invalid(&at, n, "must not be specified when allocationMode is 'All'"));
        }
        "ExactCount" if n <= 0 => errors.push(Error::invalid(&at, n, "must be greater than zero")),
        "All" | "ExactCount" => {}
        other => {
            errors.push(Error::not_supported(&path.child("allocationMode"), other, &["All", "ExactCount"]));
        }
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

fn tolerations(all: &[api::DeviceToleration], path: &Path, errors: &mut ErrorList) {
    for (i, t) in all.iter().enumerate() {
        let at = path.child("tolerations").index(i);
        if let Some(k) = t.key.as_deref().filter(|k| !k.is_empty()) {
            errors.extend(invalid_each(&at.child("key"), k, text::qualified_name(k)));
        }
        let value = t.value.as_deref().unwrap_or_default();
        match t.operator.as_deref().unwrap_or_default() {
            "Exists" if !value.is_empty() => {
                errors.push(Error::invalid(&at.child("value"), value, "must be empty for operator `Exists`"));
            }
            "Exists" => {}
            "Equal" => errors.extend(invalid_each(&at.child("value"), value, text::label_value(value))),
            "" => errors.push(Error::required(&at.child("operator"), "")),
            other => errors.push(Error::not_supported(&at.child("operator"), other, &["Equal", "Exists"])),
        }
        if let Some(e) = t.effect.as_deref().filter(|e| !e.is_empty() && !EFFECTS.contains(e)) {
            errors.push(Error::not_supported(&at.child("effect"), e, &EFFECTS));
        }
    }
}

/// What a class says.
pub fn class(spec: &api::DeviceClassSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    selectors(items(&spec.selectors), path, &mut errors);
    list(items(&spec.config), CONFIGURATIONS, &path.child("config"), &mut errors, |c, at, errors| {
        opaque(c.opaque.as_ref(), &at.child("opaque"), errors);
    });
    errors
}

fn node_name(name: &str, path: &Path, errors: &mut ErrorList) {
    errors.extend(invalid_each(path, name, text::dns1123_subdomain(name)));
}

/// What a slice tells of the devices of a driver.
pub fn slice(s: &api::ResourceSliceSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let e = &mut errors;
    driver(&s.driver, &path.child("driver"), e);
    pool(&s.pool, &path.child("pool"), e);
    let mut set_fields = Vec::new();
    if let Some(n) = &s.node_name {
        let at = path.child("nodeName");
        if n.is_empty() {
            e.push(Error::invalid(&at, n, "must be either unset or set to a non-empty string"));
        } else {
            set_fields.push("`nodeName`");
            node_name(n, &at, e);
        }
    }
    if let Some(n) = &s.node_selector {
        set_fields.push("`nodeSelector`");
        let at = path.child("nodeSelector");
        scheduling::node_selector(n, &at, e);
        if n.node_selector_terms.len() != 1 {
            let why = "must have exactly one node selector term";
            e.push(Error::invalid(&at.child("nodeSelectorTerms"), &n.node_selector_terms, why));
        }
    }
    for (name, flag) in [("allNodes", s.all_nodes), ("perDeviceNodeSelection", s.per_device_node_selection)] {
        match flag {
            Some(true) => {
                set_fields.push(if name == "allNodes" { "`allNodes`" } else { "`perDeviceNodeSelection`" })
            }
            Some(false) => {
                e.push(Error::invalid(&path.child(name), false, "must be either unset or set to true"));
            }
            None => {}
        }
    }
    const ONE: &str =
        "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required";
    match set_fields.len() {
        0 => e.push(Error::required(path, ONE)),
        1 => {}
        _ => {
            let shown = format!("{{{}}}", set_fields.join(", "));
            e.push(Error::invalid(path, shown, format!("{ONE}, but multiple fields are set")));
        }
    }
    if s.shared_counters.is_some() && s.devices.is_some() {
        e.push(Error::invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"));
    }
    let devices = items(&s.devices);
    let max = if devices.iter().any(advanced) { ADVANCED_DEVICES } else { DEVICES };
    let by_device = s.per_device_node_selection == Some(true);
    set(devices, max, &path.child("devices"), e, |d| &d.name, |d, at, e| device(d, by_device, at, e));
    let at = path.child("sharedCounters");
    set(
        items(&s.shared_counters),
        COUNTER_SETS,
        &at,
        e,
        |c| &c.name,
        |c, at, e| {
            named_counters(&c.name, "name", c.counters.keys(), c.counters.len(), at, e);
        },
    );
    errors
}

fn advanced(d: &api::Device) -> bool {
    let lists = |a: &api::DeviceAttribute| {
        a.bools.is_some() || a.ints.is_some() || a.strings.is_some() || a.versions.is_some()
    };
    !items(&d.taints).is_empty()
        || !items(&d.consumes_counters).is_empty()
        || d.attributes.iter().flatten().any(|(_, a)| lists(a))
}

pub(super) fn pool_name(name: &str, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    if name.len() > 253 {
        errors.push(Error::too_long(path, 253));
    }
    for part in name.split('/') {
        errors.extend(invalid_each(path, part, text::dns1123_subdomain(part)));
    }
}

fn pool(p: &api::ResourcePool, path: &Path, errors: &mut ErrorList) {
    pool_name(&p.name, &path.child("name"), errors);
    if p.resource_slice_count <= 0 {
        let at = path.child("resourceSliceCount");
        errors.push(Error::invalid(&at, p.resource_slice_count, "must be greater than zero"));
    }
    if p.generation < 0 {
        let at = path.child("generation");
        errors.push(Error::invalid(&at, p.generation, "must be greater than or equal to zero"));
    }
}

fn named_counters<'a>(
    name: &str,
    field: &str,
    counters: impl Iterator<Item = &'a String>,
    count: usize,
    path: &Path,
    errors: &mut ErrorList,
) {
    let at = path.child(field);
    if name.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        label(name, &at, errors);
    }
    let at = path.child("counters");
    match count {
        0 => errors.push(Error::required(&at, "")),
        n if n > COUNTERS => errors.push(Error::too_many(&at, n, COUNTERS)),
        _ => counters.for_each(|k| label(k, &at, errors)),
    }
}

fn device(d: &api::Device, by_device: bool, path: &Path, e: &mut ErrorList) {
    label(&d.name, &path.child("name"), e);
    let described = d.attributes.iter().flatten().count() + d.capacity.iter().flatten().count();
    if described > ATTRIBUTES {
        let why = format!("the total number of attributes and capacities must not exceed {ATTRIBUTES}");
        e.push(Error::invalid(path, described, why));
    }
    let values: usize = d.attributes.iter().flatten().map(|(_, a)| number_of_values(a)).sum();
    if values > ATTRIBUTE_VALUES {
        let why = format!("the total number of attribute values must not exceed {ATTRIBUTE_VALUES}");
        e.push(Error::invalid(path, values, why));
    }
    let at = path.child("attributes");
    for (k, a) in d.attributes.iter().flatten() {
        qualified(k, &at, e);
        attribute(a, &at.key(k), e);
    }
    let at = path.child("capacity");
    for (k, c) in d.capacity.iter().flatten() {
        qualified(k, &at, e);
        if c.request_policy.is_some() && d.allow_multiple_allocations != Some(true) {
            let why = "allowMultipleAllocations must be true";
            e.push(Error::forbidden(&at.key(k).child("requestPolicy"), why));
        }
    }
    list(items(&d.taints), TAINTS, &path.child("taints"), e, taint);
    let at = path.child("consumesCounters");
    set(
        items(&d.consumes_counters),
        CONSUMPTIONS,
        &at,
        e,
        |c| &c.counter_set,
        |c, at, e| {
            named_counters(&c.counter_set, "counterSet", c.counters.keys(), c.counters.len(), at, e);
        },
    );
    place(d, by_device, path, e);
}

/// Where the device is, when the slice leaves that to its devices.
fn place(d: &api::Device, by_device: bool, path: &Path, e: &mut ErrorList) {
    if !by_device {
        if d.node_name.is_some() || d.node_selector.is_some() || d.all_nodes.is_some() {
            let why = "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
            e.push(Error::invalid(path, serde_json::Value::Null, why));
        }
        return;
    }
    let mut set_fields = Vec::new();
    if let Some(n) = &d.node_name {
        let at = path.child("nodeName");
        if n.is_empty() {
            e.push(Error::invalid(&at, n, "must not be empty"));
        } else {
            set_fields.push("`nodeName`");
            node_name(n, &at, e);
        }
    }
    if let Some(n) = &d.node_selector {
        set_fields.push("`nodeSelector`");
        scheduling::node_selector(n, &path.child("nodeSelector"), e);
    }
    match d.all_nodes {
        Some(true) => set_fields.push("`allNodes`"),
        Some(false) => {
            e.push(Error::invalid(&path.child("allNodes"), false, "must be either unset or set to true"));
        }
        None => {}
    }
    const ONE: &str = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match set_fields.len() {
        0 => e.push(Error::required(path, ONE)),
        1 => {}
        _ => e.push(Error::invalid(path, format!("{{{}}}", set_fields.join(", ")), ONE)),
    }
}

fn number_of_values(a: &api::DeviceAttribute) -> usize {
    let n = items(&a.bools).len() + items(&a.ints).len() + items(&a.strings).len() + items(&a.versions).len();
    n.max(1)
}

fn attribute(a: &api::DeviceAttribute, path: &Path, e: &mut ErrorList) {
    let long = |s: &str, at: &Path, e: &mut ErrorList| {
        if s.len() as i64 > VALUE_BYTES {
            e.push(Error::too_long(at, VALUE_BYTES));
        }
    };
    let version = |s: &str, at: &Path, e: &mut ErrorList| {
        if !is_semantic_version(s) {
            e.push(Error::invalid(at, s, "must be a string compatible with semver.org spec 2.0.0"));
        }
        long(s, at, e);
    };
    if let Some(s) = &a.string {
        long(s, &path.child("string"), e);
    }
    if let Some(s) = &a.version {
        version(s, &path.child("version"), e);
    }
    const EMPTY: &str = "must not be empty if specified";
    let none: [&str; 0] = [];
    for (name, empty) in [
        ("bools", a.bools.as_ref().is_some_and(Vec::is_empty)),
        ("ints", a.ints.as_ref().is_some_and(Vec::is_empty)),
        ("strings", a.strings.as_ref().is_some_and(Vec::is_empty)),
        ("versions", a.versions.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if empty {
            e.push(Error::invalid(&path.child(name), none, EMPTY));
        }
    }
    for (i, s) in items(&a.strings).iter().enumerate() {
        long(s, &path.child("strings").index(i), e);
    }
    for (i, s) in items(&a.versions).iter().enumerate() {
        version(s, &path.child("versions").index(i), e);
    }
    let set = [
        a.bool.is_some(),
        a.int.is_some(),
        a.string.is_some(),
        a.version.is_some(),
        a.bools.is_some(),
        a.ints.is_some(),
        a.strings.is_some(),
        a.versions.is_some(),
    ];
    match set.iter().filter(|s| **s).count() {
        0 => e.push(Error::invalid(path, "", "exactly one value must be specified")),
        1 => {}
        _ => e.push(Error::invalid(path, a, "exactly one value must be specified")),
    }
}

/// `1.2.3`, perhaps with `-pre.release` and `+build`.
fn is_semantic_version(s: &str) -> bool {
    let (rest, build) = s.split_once('+').map_or((s, None), |(r, b)| (r, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(c, p)| (c, Some(p)));
    let digits = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit());
    let number = |p: &str| digits(p) && (p.len() == 1 || !p.starts_with('0'));
    let word = |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let core: Vec<&str> = core.split('.').collect();
    core.len() == 3
        && core.iter().all(|p| number(p))
        && pre.is_none_or(|p| p.split('.').all(|p| word(p) && (!digits(p) || number(p))))
        && build.is_none_or(|b| b.split('.').all(word))
}

fn taint(t: &api::DeviceTaint, path: &Path, e: &mut ErrorList) {
    e.extend(invalid_each(&path.child("key"), &t.key, text::qualified_name(&t.key)));
    if let Some(v) = t.value.as_deref().filter(|v| !v.is_empty()) {
        e.extend(invalid_each(&path.child("value"), v, text::label_value(v)));
    }
    if t.effect.is_empty() {
        e.push(Error::required(&path.child("effect"), ""));
    } else if !EFFECTS.contains(&t.effect.as_str()) {
        e.push(Error::not_supported(&path.child("effect"), &t.effect, &EFFECTS));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims() {
        let of = |v: serde_json::Value| {
            let spec: api::ResourceClaimSpec =
                serde_json::from_value(json!({"devices": v})).expect("a claim");
            claim(&spec, &Path::new("spec")).aggregate()
        };
        let request = json!([{"name": "r", "exactly": {"deviceClassName": "c", "allocationMode": "All"}}]);
        assert_eq!(
            of(json!({"requests": request, "constraints": [{"requests": ["r"], "matchAttribute": "a/b"}]})),
            "[]"
        );
        assert_eq!(
            of(json!({"requests": request, "constraints": [{"requests": ["x"], "matchAttribute": "b"}],
                "config": [{"requests": ["r", "r"], "opaque": {"driver": "", "parameters": 1}}]})),
            "[spec.devices.constraints[0].requests[0]: Invalid value: \"x\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/', \
             spec.devices.constraints[0].matchAttribute: Invalid value: \"b\": a fully qualified name must be a domain and a name separated by a slash, \
             spec.devices.config[0].requests[1]: Duplicate value: \"r\", \
             spec.devices.config[0].opaque.driver: Required value, \
             spec.devices.config[0].opaque.parameters: Invalid value: \"<value omitted>\": must be a valid JSON object]"
        );
    }

    #[test]
    fn slices() {
        let of = |v: serde_json::Value| {
            let spec: api::ResourceSliceSpec = serde_json::from_value(v).expect("a slice");
            slice(&spec, &Path::new("spec")).aggregate()
        };
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let good = json!({"driver": "a.b", "pool": pool, "nodeName": "n", "devices": [
            {"name": "d", "attributes": {"a": {"version": "1.2.3-rc.1+x"}}}]});
        assert_eq!(of(good), "[]");
        assert_eq!(
            of(json!({"driver": "a.b", "pool": {"name": "", "generation": -1, "resourceSliceCount": 0},
                "allNodes": true, "nodeName": "n", "devices": [{"name": "d", "allNodes": true,
                "attributes": {"a": {}, "b": {"version": "1.02.3"}}}]})),
            "[spec.pool.name: Required value, \
             spec.pool.resourceSliceCount: Invalid value: 0: must be greater than zero, \
             spec.pool.generation: Invalid value: -1: must be greater than or equal to zero, \
             spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set, \
             spec.devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified, \
             spec.devices[0].attributes[b].version: Invalid value: \"1.02.3\": must be a string compatible with semver.org spec 2.0.0, \
             spec.devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec]"
        );
    }
}
