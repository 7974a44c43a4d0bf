//! The selectors of access reviews: whether they are well formed, and what they demand.
//!
//! Source: KEP-4601 "Authorize with Field and Label Selectors".

use serde_json::Value;

use super::{LabelRequirement, Requirement, selector};
use crate::field::{Error, ErrorList, Path};
use crate::lookup::{items, text};
use crate::registry::{labels, names};

/// What a review's selectors demand. Parts that are not understood are left out, which asks for more rights, not less;
/// `errors` says so.
#[derive(Debug, Default)]
pub(super) struct Selectors {
    pub fields: Vec<Requirement>,
    pub labels: Vec<LabelRequirement>,
    pub errors: Vec<&'static str>,
}

fn strings(v: &Value, pointer: &str) -> Vec<String> {
    items(v, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn set(v: &Value, key: &str) -> bool {
    v.get(key).is_some_and(|v| !v.is_null())
}

/// Checks both selectors of `spec.resourceAttributes`.
pub(super) fn validate(attrs: &Value, errors: &mut ErrorList) {
    for (key, labels) in [("fieldSelector", false), ("labelSelector", true)] {
        if !set(attrs, key) {
            continue;
        }
        let s = &attrs[key];
        let path = Path::new("spec").child("resourceAttributes").child(key);
        let raw = text(s, "/rawSelector");
        let requirements = items(s, "/requirements");
        if !raw.is_empty() && !requirements.is_empty() {
            errors.push(Error::invalid(
                &path.child("rawSelector"),
                raw,
                "may not specified at the same time as requirements",
            ));
        }
        let list = path.child("requirements");
        if raw.is_empty() && requirements.is_empty() {
            let why = format!("when {path} is specified, requirements or rawSelector is required");
            errors.push(Error::required(&list, why));
        }
        for (i, r) in requirements.iter().enumerate() {
            validate_requirement(r, labels, &list.index(i), errors);
        }
    }
}

fn validate_requirement(r: &Value, labels: bool, path: &Path, errors: &mut ErrorList) {
    let values = items(r, "/values");
    match text(r, "/operator") {
        "In" | "NotIn" if values.is_empty() => errors.push(Error::required(
            &path.child("values"),
            "must be specified when `operator` is 'In' or 'NotIn'",
        )),
        "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(Error::forbidden(
            &path.child("values"),
            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
        )),
        // Others may come from clients that are newer than this server.
        _ => {}
    }
    let key = text(r, "/key");
    if !labels {
        if key.is_empty() {
            errors.push(Error::required(&path.child("key"), "must be specified"));
        }
        return;
    }
    for why in names::qualified_name(key).err().unwrap_or_default() {
        errors.push(Error::invalid(&path.child("key"), key, why));
    }
    for (i, v) in values.iter().enumerate() {
        let v = v.as_str().unwrap_or_default();
        for why in names::label_value(v).err().unwrap_or_default() {
            errors.push(Error::invalid(&path.child("values").index(i), v, why));
        }
    }
}

impl Selectors {
    /// Reads both selectors of `spec.resourceAttributes`.
    pub(super) fn of(attrs: &Value) -> Self {
        let mut out = Self::default();
        let (fields, bad) = fields(attrs);
        if bad {
            out.errors.push(if fields.is_empty() {
                "spec.resourceAttributes.fieldSelector ignored due to parse error"
            } else {
                "spec.resourceAttributes.fieldSelector partially ignored due to parse error"
            });
        }
        out.fields = fields;
        let (labels, bad) = label_requirements(attrs);
        if bad {
            out.errors.push(if labels.is_empty() {
                "spec.resourceAttributes.labelSelector ignored due to parse error"
            } else {
                "spec.resourceAttributes.labelSelector partially ignored due to parse error"
            });
        }
        out.labels = labels;
        out
    }
}

fn fields(attrs: &Value) -> (Vec<Requirement>, bool) {
    let raw = text(attrs, "/fieldSelector/rawSelector");
    let listed = items(attrs, "/fieldSelector/requirements");
    if listed.is_empty() {
        let out = selector::parse_fields(raw);
        let bad = !raw.is_empty() && out.is_empty();
        return (out, bad);
    }
    let (mut out, mut bad) = (Vec::new(), false);
    for r in listed {
        let equals = match text(r, "/operator") {
            "In" => true,
            "NotIn" => false,
            _ => {
                bad = true;
                continue;
            }
        };
        match <[String; 1]>::try_from(strings(r, "/values")) {
            Ok([value]) => out.push(Requirement { field: text(r, "/key").to_owned(), equals, value }),
            Err(_) => bad = true,
        }
    }
    (out, bad)
}

fn label_requirements(attrs: &Value) -> (Vec<LabelRequirement>, bool) {
    let raw = text(attrs, "/labelSelector/rawSelector");
    let listed = items(attrs, "/labelSelector/requirements");
    if listed.is_empty() {
        return (selector::parse_labels(raw), !raw.is_empty() && labels::Selector::parse(raw).is_err());
    }
    let (mut out, mut bad) = (Vec::new(), false);
    for r in listed {
        let values = strings(r, "/values");
        let operator = match (text(r, "/operator"), values.is_empty()) {
            ("In", false) => "In",
            ("NotIn", false) => "NotIn",
            ("Exists", true) => "Exists",
            ("DoesNotExist", true) => "DoesNotExist",
            _ => {
                bad = true;
                continue;
            }
        };
        out.push(LabelRequirement { key: text(r, "/key").to_owned(), operator, values });
    }
    (out, bad)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn demands() {
        let s = Selectors::of(&json!({
            "fieldSelector": {"rawSelector": "spec.nodeName=n1"},
            "labelSelector": {"requirements": [
                {"key": "a", "operator": "In", "values": ["x", "y"]}, {"key": "b", "operator": "Newer"}]},
        }));
        assert!(Requirement::pins(&s.fields, "spec.nodeName", "n1"));
        assert_eq!(s.labels.len(), 1);
        assert_eq!(s.errors, ["spec.resourceAttributes.labelSelector partially ignored due to parse error"]);
        let s = Selectors::of(&json!({"labelSelector": {"rawSelector": "a in (x"}}));
        assert_eq!(s.errors, ["spec.resourceAttributes.labelSelector ignored due to parse error"]);
        let s = Selectors::of(&json!({"labelSelector": {"rawSelector": "a,!b,c!=d"}}));
        assert_eq!(
            s.labels.iter().map(|l| l.operator).collect::<Vec<_>>(),
            ["Exists", "DoesNotExist", "NotIn"]
        );
    }

    #[test]
    fn malformed() {
        let ask = |attrs: Value| {
            let mut errors = ErrorList::new();
            validate(&attrs, &mut errors);
            errors.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(ask(json!({})), Vec::<String>::new());
        assert_eq!(
            ask(json!({"fieldSelector": {}})),
            [
                "spec.resourceAttributes.fieldSelector.requirements: Required value: when spec.resourceAttributes.fieldSelector is specified, requirements or rawSelector is required"
            ]
        );
        let both =
            json!({"labelSelector": {"rawSelector": "a", "requirements": [{"key": "a", "operator": "In"}]}});
        assert_eq!(
            ask(both),
            [
                "spec.resourceAttributes.labelSelector.rawSelector: Invalid value: \"a\": may not specified at the same time as requirements",
                "spec.resourceAttributes.labelSelector.requirements[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"
            ]
        );
        let e = ask(
            json!({"labelSelector": {"requirements": [{"key": "a b", "operator": "Exists", "values": ["x"]}]}}),
        );
        assert_eq!(e.len(), 2);
        assert!(e[1].starts_with(
            "spec.resourceAttributes.labelSelector.requirements[0].key: Invalid value: \"a b\""
        ));
    }
}
