//! Runs the checks of a level in the order in which upstream lists their findings.

use serde_json::Value;

use super::policy::{Level, LevelVersion};
use super::{baseline, restricted};

/// One check that a pod does not pass.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: String,
    pub detail: String,
}

/// A check: the release that brought it, the baseline check that it takes the place of, and what it finds in a pod
/// by the rules of a release.
pub struct Check {
    pub since: u32,
    pub id: &'static str,
    pub overrides: &'static str,
    pub find: fn(&Value, u32) -> Option<Finding>,
}

/// What in the pod is not allowed.
pub fn evaluate(level: &LevelVersion, pod: &Value) -> Vec<Finding> {
    let minor = level.minor();
    let restricted: Vec<&Check> = match level.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => Vec::new(),
        Level::Restricted => restricted::CHECKS.iter().filter(|c| c.since <= minor).collect(),
    };
    let baseline = baseline::CHECKS
        .iter()
        .filter(|c| c.since <= minor && !restricted.iter().any(|r| r.overrides == c.id));
    baseline.chain(restricted.iter().copied()).filter_map(|c| (c.find)(pod, minor)).collect()
}

/// `reason (detail), reason (detail)`.
pub fn detail(findings: &[Finding]) -> String {
    let parts: Vec<String> = findings
        .iter()
        .map(|f| if f.detail.is_empty() { f.reason.clone() } else { format!("{} ({})", f.reason, f.detail) })
        .collect();
    parts.join(", ")
}

/// The reasons alone.
pub fn reasons(findings: &[Finding]) -> String {
    findings.iter().map(|f| f.reason.as_str()).collect::<Vec<_>>().join(", ")
}

pub(super) fn finding(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail: detail.into() })
}

/// `"a", "b"`.
pub(super) fn quote<S: AsRef<str>>(list: impl IntoIterator<Item = S>) -> String {
    let quoted: Vec<String> = list.into_iter().map(|s| format!("\"{}\"", s.as_ref())).collect();
    quoted.join(", ")
}

pub(super) fn plural<'a>(one: &'a str, many: &'a str, count: usize) -> &'a str {
    if count == 1 { one } else { many }
}

/// `container "a"` or `containers "a", "b"`.
pub(super) fn named(word: &str, names: &[String]) -> String {
    let many = format!("{word}s");
    format!("{} {}", plural(word, &many, names.len()), quote(names))
}

/// Who set something: the pod, some containers, or both.
pub(super) fn setters(pod: bool, containers: &[String]) -> Option<String> {
    match (pod, containers.is_empty()) {
        (false, true) => None,
        (true, true) => Some("pod".to_owned()),
        (false, false) => Some(named("container", containers)),
        (true, false) => Some(format!("pod and {}", named("container", containers))),
    }
}
