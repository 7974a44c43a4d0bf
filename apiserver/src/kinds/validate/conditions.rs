//! Conditions in the form that all newer kinds share (`metav1.Condition`).

use std::collections::BTreeSet;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use super::{invalid_each, text};
use crate::field::{Error, ErrorList, Path};

const REASON_BYTES: usize = 1024;
const MESSAGE_BYTES: usize = 32 * 1024;

/// The zero time, `0001-01-01T00:00:00Z`, in seconds of Unix time.
const BEGINNING: i64 = -62_135_596_800;

/// Everything wrong with a list of conditions.
pub fn conditions(all: &[Condition], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let mut seen = BTreeSet::new();
    for (i, c) in all.iter().enumerate() {
        let at = path.index(i);
        if !seen.insert(c.type_.as_str()) {
            errors.push(Error::duplicate(&at.child("type"), &c.type_));
        }
        errors.extend(invalid_each(&at.child("type"), &c.type_, text::qualified_name(&c.type_)));
        if !["False", "True", "Unknown"].contains(&c.status.as_str()) {
            errors.push(Error::not_supported(&at.child("status"), &c.status, &["False", "True", "Unknown"]));
        }
        if let Some(n) = c.observed_generation.filter(|n| *n < 0) {
            let why = "must be greater than or equal to zero";
            errors.push(Error::invalid(&at.child("observedGeneration"), n, why));
        }
        // What is not there reads as the beginning of time.
        if c.last_transition_time.0.as_second() == BEGINNING {
            errors.push(Error::required(&at.child("lastTransitionTime"), ""));
        }
        let reason = at.child("reason");
        if c.reason.is_empty() {
            errors.push(Error::required(&reason, ""));
        } else {
            errors.extend(invalid_each(&reason, &c.reason, reason_format(&c.reason)));
            if c.reason.len() > REASON_BYTES {
                errors.push(Error::too_long(&reason, REASON_BYTES as i64));
            }
        }
        if c.message.len() > MESSAGE_BYTES {
            errors.push(Error::too_long(&at.child("message"), MESSAGE_BYTES as i64));
        }
    }
    errors
}

fn reason_format(s: &str) -> Vec<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let good = s.starts_with(|c: char| c.is_ascii_alphabetic())
        && s.ends_with(word)
        && s.chars().all(|c| word(c) || matches!(c, ',' | ':'));
    if good {
        return Vec::new();
    }
    vec![text::regex_sentence(
        "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
        "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
        &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
    )]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons() {
        for good in ["A", "MyName", "A,B:c_1", "a_"] {
            assert!(reason_format(good).is_empty(), "{good}");
        }
        for bad in ["1a", "a:", "a b", "_a", "é"] {
            assert_eq!(reason_format(bad).len(), 1, "{bad}");
        }
    }

    #[test]
    fn each_type_once() {
        let c = |t: &str, status: &str| Condition {
            type_: t.to_owned(),
            status: status.to_owned(),
            reason: "R".to_owned(),
            ..serde_json::from_value(
                serde_json::json!({"type": "", "status": "", "reason": "", "message": "",
                "lastTransitionTime": "2026-01-01T00:00:00Z"}),
            )
            .unwrap()
        };
        let path = Path::new("conditions");
        assert!(conditions(&[c("A", "True"), c("B", "False")], &path).is_empty());
        let found = conditions(&[c("A", "True"), c("A", "Maybe")], &path);
        let fields: Vec<&str> = found.iter().map(|e| e.field.as_str()).collect();
        assert_eq!(fields, ["conditions[1].type", "conditions[1].status"]);
    }
}
