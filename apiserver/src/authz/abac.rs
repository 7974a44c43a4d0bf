//! `--authorization-policy-file`: the older attribute based policy, one JSON object a line.
//!
//! Source: Kubernetes documentation, "Using ABAC Authorization".

use serde::Deserialize;

use super::rules::Rule;
use super::{Attributes, Decision};
use crate::authn::AUTHENTICATED_GROUP;
use crate::request::UserInfo;

/// One line's spec. Empty fields match nothing but what is empty; `*` matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Policy {
    user: String,
    group: String,
    readonly: bool,
    #[serde(rename = "apiGroup")]
    api_group: String,
    resource: String,
    namespace: String,
    non_resource_path: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    spec: Option<Policy>,
}

/// The lines of a file.
#[derive(Debug, Default)]
pub struct Policies(Vec<Policy>);

impl Policies {
    /// Reads a file's contents. Lines without kind are of the form before versions.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(contents)
            .map_err(|e| format!("--authorization-policy-file: not UTF-8: {e}"))?;
        let mut out = Vec::new();
        let mut unversioned = 0;
        for (i, line) in text.lines().enumerate() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let bad = |why: String| format!("--authorization-policy-file: line {}: {line}: {why}", i + 1);
            let parsed: Line = serde_json::from_str(trimmed).map_err(|e| bad(e.to_string()))?;
            match (parsed.api_version.as_str(), parsed.kind.as_str(), parsed.spec) {
                ("abac.authorization.kubernetes.io/v1beta1", "Policy", Some(p)) => {
                    out.push(with_users(p));
                }
                ("", "", None) => {
                    unversioned += 1;
                    out.push(unversioned_policy(
                        serde_json::from_str(trimmed).map_err(|e| bad(e.to_string()))?,
                    ));
                }
                (version, kind, _) => {
                    return Err(bad(format!(
                        "no Policy of {version:?} {kind:?} is known, or it has no spec"
                    )));
                }
            }
        }
        if unversioned > 0 {
            tracing::warn!(lines = unversioned, "the policy file has lines without apiVersion and kind");
        }
        Ok(Self(out))
    }

    pub fn authorize(&self, attrs: &Attributes<'_>) -> Decision {
        if self.0.iter().any(|p| p.matches(attrs)) {
            return Decision::Allow(String::new());
        }
        Decision::NoOpinion("No policy matched.".to_owned())
    }

    /// The policies that apply to a user, as rules.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let mut out = Vec::new();
        let list = |s: &str| -> Box<[Box<str>]> { [Box::from(s)].into() };
        for p in self.0.iter().filter(|p| p.subject(user)) {
            if p.namespace != "*" && p.namespace != namespace {
                continue;
            }
            let verbs: Box<[Box<str>]> =
                if p.readonly { ["get", "list", "watch"].map(Box::from).into() } else { list("*") };
            if !p.resource.is_empty() {
                out.push(Rule {
                    verbs: verbs.clone(),
                    api_groups: list(&p.api_group),
                    resources: list(&p.resource),
                    ..Rule::default()
                });
            }
            if !p.non_resource_path.is_empty() {
                out.push(Rule { verbs, non_resource_urls: list(&p.non_resource_path), ..Rule::default() });
            }
        }
        out
    }
}

impl Policy {
    fn matches(&self, a: &Attributes<'_>) -> bool {
        if !self.subject(a.user) || (self.readonly && !a.is_read_only()) {
            return false;
        }
        let is = |pattern: &str, value: &str| pattern == "*" || pattern == value;
        if a.is_resource {
            return is(&self.namespace, a.namespace)
                && is(&self.resource, a.resource)
                && is(&self.api_group, a.api_group);
        }
        let path = self.non_resource_path.as_str();
        is(path, a.path) || (path.ends_with('*') && a.path.starts_with(path.trim_end_matches('*')))
    }

    /// Whether the policy is about this user: what it names of user and group must both fit.
    fn subject(&self, user: &UserInfo) -> bool {
        let named = !self.user.is_empty() || !self.group.is_empty();
        named
            && (self.user.is_empty() || self.user == "*" || self.user == user.name)
            && (self.group.is_empty() || self.group == "*" || user.in_group(&self.group))
    }
}

/// A star as user or group stands for everybody who is authenticated.
fn with_users(mut p: Policy) -> Policy {
    if p.user == "*" || p.group == "*" {
        p.user.clear();
        p.group = AUTHENTICATED_GROUP.to_owned();
    }
    p
}

/// What a line of the oldest form means: absent restrictions allow everything, for every authenticated user.
fn unversioned_policy(mut p: Policy) -> Policy {
    if p.user.is_empty() && p.group.is_empty() {
        p.group = AUTHENTICATED_GROUP.to_owned();
    }
    p.non_resource_path =
        if p.namespace.is_empty() && p.resource.is_empty() { "*".to_owned() } else { String::new() };
    for field in [&mut p.namespace, &mut p.resource] {
        if field.is_empty() {
            *field = "*".to_owned();
        }
    }
    p.api_group = "*".to_owned();
    with_users(p)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
# comment
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"alice","namespace":"*","resource":"*","apiGroup":"*"}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"user":"bob","namespace":"projectCaribou","resource":"pods","readonly":true}}
{"apiVersion":"abac.authorization.kubernetes.io/v1beta1","kind":"Policy","spec":{"group":"system:authenticated","readonly":true,"nonResourcePath":"/api*"}}
{"user":"kubelet","readonly":true,"resource":"pods"}
"#;

    #[test]
    fn decisions() {
        let p = Policies::parse(FILE.as_bytes()).unwrap();
        let ask = |user: &str, verb: &str, group: &str, resource: &str, namespace: &str| {
            let user = UserInfo {
                name: user.into(),
                groups: vec!["system:authenticated".into()],
                ..UserInfo::default()
            };
            let mut a = Attributes::resource(&user, verb, group, resource, "x");
            a.namespace = namespace;
            p.authorize(&a).is_allowed()
        };
        assert!(ask("alice", "delete", "apps", "deployments", "any"));
        assert!(ask("bob", "get", "", "pods", "projectCaribou"));
        assert!(!ask("bob", "create", "", "pods", "projectCaribou"));
        assert!(!ask("bob", "get", "", "pods", "other"));
        assert!(!ask("bob", "get", "", "secrets", "projectCaribou"));
        assert!(ask("kubelet", "list", "", "pods", "any"));
        assert!(!ask("kubelet", "update", "", "pods", "any"));
        let user =
            UserInfo { name: "x".into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() };
        let mut a = Attributes::resource(&user, "get", "", "", "");
        (a.is_resource, a.path) = (false, "/apis/apps");
        assert!(p.authorize(&a).is_allowed());
        a.path = "/metrics";
        assert_eq!(p.authorize(&a), Decision::NoOpinion("No policy matched.".to_owned()));
        assert_eq!(p.rules_for(&user, "n").len(), 0, "path rules need the namespace to fit, as upstream");
    }

    #[test]
    fn bad_lines() {
        assert!(Policies::parse(b"{").unwrap_err().contains("line 1"));
        assert!(Policies::parse(br#"{"apiVersion":"x/v1","kind":"Policy","spec":{}}"#).is_err());
        assert!(Policies::parse(b"\xff").is_err());
    }
}
