//! Labels and label selectors.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::{invalid_each, text};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::items;

/// A selector as messages show it: its labels first.
#[derive(serde::Serialize)]
#[serde(rename_all = "camelCase")]
struct Shown<'a> {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    match_labels: &'a BTreeMap<String, String>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    match_expressions: &'a [LabelSelectorRequirement],
}

/// That something is wrong with the selector as a whole.
pub fn invalid(s: &LabelSelector, path: &Path, why: &str) -> Error {
    static NONE: BTreeMap<String, String> = BTreeMap::new();
    let match_labels = s.match_labels.as_ref().unwrap_or(&NONE);
    Error::invalid(path, Shown { match_labels, match_expressions: items(&s.match_expressions) }, why)
}

/// Key of a label.
pub fn label_name(name: &str, path: &Path) -> ErrorList {
    invalid_each(path, name, text::qualified_name(name))
}

/// Labels: every key and value.
pub fn labels(map: Option<&BTreeMap<String, String>>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (k, v) in map.into_iter().flatten() {
        errors.extend(label_name(k, path));
        errors.extend(invalid_each(path, v, text::label_value(v)));
    }
    errors
}

/// A selector, if there is one.
pub fn label_selector(selector: Option<&LabelSelector>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let Some(s) = selector else { return errors };
    errors.extend(labels(s.match_labels.as_ref(), &path.child("matchLabels")));
    for (i, r) in items(&s.match_expressions).iter().enumerate() {
        errors.extend(requirement(r, &path.child("matchExpressions").index(i)));
    }
    errors
}

fn requirement(r: &LabelSelectorRequirement, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let values = items(&r.values);
    match r.operator.as_str() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(Error::required(
                &path.child("values"),
                "must be specified when `operator` is 'In' or 'NotIn'",
            ));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors.push(Error::forbidden(
                &path.child("values"),
                "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
            ));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
        other => {
            errors.push(Error::invalid(&path.child("operator"), other, "not a valid selector operator"));
        }
    }
    errors.extend(label_name(&r.key, &path.child("key")));
    for (i, v) in values.iter().enumerate() {
        errors.extend(invalid_each(&path.child("values").index(i), v, text::label_value(v)));
    }
    errors
}

/// True if the selector says nothing, and so selects everything.
pub fn is_empty(s: &LabelSelector) -> bool {
    s.match_labels.as_ref().is_none_or(BTreeMap::is_empty) && items(&s.match_expressions).is_empty()
}

/// True if the selector takes an object with these labels. A malformed selector takes none.
pub fn matches(s: &LabelSelector, labels: Option<&BTreeMap<String, String>>) -> bool {
    let get = |k: &str| labels.and_then(|l| l.get(k));
    let exact = s.match_labels.iter().flatten().all(|(k, v)| get(k) == Some(v));
    exact
        && items(&s.match_expressions).iter().all(|r| {
            let value = get(&r.key);
            let listed = value.is_some_and(|v| items(&r.values).contains(v));
            match r.operator.as_str() {
                "In" => listed,
                "NotIn" => !listed,
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selector(v: serde_json::Value) -> LabelSelector {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn matching() {
        let labels: BTreeMap<String, String> = [("a".to_owned(), "b".to_owned())].into();
        let m = |v| matches(&selector(v), Some(&labels));
        assert!(m(serde_json::json!({})));
        assert!(m(serde_json::json!({"matchLabels": {"a": "b"}})));
        assert!(!m(serde_json::json!({"matchLabels": {"a": "c"}})));
        assert!(m(
            serde_json::json!({"matchExpressions": [{"key": "x", "operator": "NotIn", "values": ["y"]}]})
        ));
        assert!(!m(serde_json::json!({"matchExpressions": [{"key": "a", "operator": "DoesNotExist"}]})));
    }

    #[test]
    fn operators() {
        let bad = selector(serde_json::json!({"matchExpressions": [
            {"key": "a", "operator": "In"}, {"key": "a", "operator": "Exists", "values": ["b"]},
            {"key": "a", "operator": "Gt"}]}));
        let errors = label_selector(Some(&bad), &Path::new("s"));
        let fields: Vec<_> = errors.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(
            fields,
            [
                "s.matchExpressions[0].values",
                "s.matchExpressions[1].values",
                "s.matchExpressions[2].operator"
            ]
        );
    }
}
