//! RBAC policy rules: what one rule allows, and whether some rules cover others.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Attributes;

type Strings = Box<[Box<str>]>;

/// One `PolicyRule`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    pub verbs: Strings,
    pub api_groups: Strings,
    pub resources: Strings,
    pub resource_names: Strings,
    pub non_resource_urls: Strings,
}

fn strings(v: &Value, field: &str) -> Strings {
    v.get(field)
        .and_then(Value::as_array)
        .map(|a| a.iter().filter_map(Value::as_str).map(Box::from).collect())
        .unwrap_or_default()
}

fn has(set: &[Box<str>], s: &str) -> bool {
    set.iter().any(|x| &**x == s)
}

fn has_or_all(set: &[Box<str>], s: &str) -> bool {
    set.iter().any(|x| &**x == s || &**x == "*")
}

fn boxed(list: &[&str]) -> Strings {
    list.iter().map(|s| Box::from(*s)).collect()
}

impl Rule {
    pub fn from_json(v: &Value) -> Self {
        Self {
            verbs: strings(v, "verbs"),
            api_groups: strings(v, "apiGroups"),
            resources: strings(v, "resources"),
            resource_names: strings(v, "resourceNames"),
            non_resource_urls: strings(v, "nonResourceURLs"),
        }
    }

    /// The rules of a role.
    pub fn of_role(role: &Value) -> Vec<Self> {
        role.get("rules")
            .and_then(Value::as_array)
            .map(|a| a.iter().map(Self::from_json).collect())
            .unwrap_or_default()
    }

    pub fn to_json(&self) -> Value {
        let mut out = json!({ "verbs": self.verbs });
        for (k, v) in [
            ("apiGroups", &self.api_groups),
            ("resources", &self.resources),
            ("resourceNames", &self.resource_names),
            ("nonResourceURLs", &self.non_resource_urls),
        ] {
            if !v.is_empty() {
                out[k] = json!(v);
            }
        }
        out
    }

    /// Rules that allow every request.
    pub fn everything() -> [Self; 2] {
        [
            Self {
                verbs: boxed(&["*"]),
                api_groups: boxed(&["*"]),
                resources: boxed(&["*"]),
                ..Self::default()
            },
            Self { verbs: boxed(&["*"]), non_resource_urls: boxed(&["*"]), ..Self::default() },
        ]
    }

    /// Whether the rule allows the request.
    pub fn allows(&self, a: &Attributes<'_>) -> bool {
        if !has_or_all(&self.verbs, a.verb) {
            return false;
        }
        if !a.is_resource {
            return self.non_resource_urls.iter().any(|u| url_covers(u, a.path));
        }
        has_or_all(&self.api_groups, a.api_group)
            && self.resources.iter().any(|r| resource_matches(r, a.resource, a.subresource))
            && (self.resource_names.is_empty() || has(&self.resource_names, a.name))
    }

    /// One rule per verb, group, resource and name: each is then covered whole or not at all.
    fn atoms(&self) -> Vec<Self> {
        let mut out = Vec::new();
        let no_name: [Option<&Box<str>>; 1] = [None];
        let names: Vec<Option<&Box<str>>> = if self.resource_names.is_empty() {
            no_name.to_vec()
        } else {
            self.resource_names.iter().map(Some).collect()
        };
        for group in &self.api_groups {
            for resource in &self.resources {
                for verb in &self.verbs {
                    for name in &names {
                        out.push(Self {
                            verbs: [verb.clone()].into(),
                            api_groups: [group.clone()].into(),
                            resources: [resource.clone()].into(),
                            resource_names: name.iter().map(|n| (*n).clone()).collect(),
                            non_resource_urls: Strings::default(),
                        });
                    }
                }
            }
        }
        for url in &self.non_resource_urls {
            for verb in &self.verbs {
                out.push(Self {
                    verbs: [verb.clone()].into(),
                    non_resource_urls: [url.clone()].into(),
                    ..Self::default()
                });
            }
        }
        out
    }

    fn covers_atom(&self, atom: &Self) -> bool {
        atom.verbs.iter().all(|v| has_or_all(&self.verbs, v))
            && atom.api_groups.iter().all(|g| has_or_all(&self.api_groups, g))
            && atom.resources.iter().all(|r| resource_covers(&self.resources, r))
            && (self.resource_names.is_empty()
                || (!atom.resource_names.is_empty()
                    && atom.resource_names.iter().all(|n| has(&self.resource_names, n))))
            && atom.non_resource_urls.iter().all(|u| self.non_resource_urls.iter().any(|o| url_covers(o, u)))
    }

    /// The short form that stands in escalation errors.
    pub fn compact(&self) -> String {
        let mut parts = Vec::new();
        for (name, v) in [
            ("APIGroups", &self.api_groups),
            ("Resources", &self.resources),
            ("NonResourceURLs", &self.non_resource_urls),
            ("ResourceNames", &self.resource_names),
            ("Verbs", &self.verbs),
        ] {
            if !v.is_empty() {
                parts.push(format!("{name}:{}", quoted_list(v.iter().map(|s| &**s))));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }
}

/// `["a" "b"]`: a list of strings as upstream's messages show it.
pub(crate) fn quoted_list<'a>(items: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = items.map(super::quoted).collect();
    format!("[{}]", quoted.join(" "))
}

fn resource_matches(rule: &str, resource: &str, subresource: &str) -> bool {
    if rule == "*" {
        return true;
    }
    if subresource.is_empty() {
        return rule == resource;
    }
    match rule.split_once('/') {
        Some((r, s)) => s == subresource && (r == resource || r == "*"),
        None => false,
    }
}

fn resource_covers(owned: &[Box<str>], wanted: &str) -> bool {
    if has_or_all(owned, wanted) {
        return true;
    }
    wanted
        .split_once('/')
        .is_some_and(|(_, sub)| owned.iter().any(|o| o.strip_prefix("*/").is_some_and(|s| s == sub)))
}

fn url_covers(owner: &str, wanted: &str) -> bool {
    owner == "*"
        || owner == wanted
        || (owner.ends_with('*') && wanted.starts_with(owner.trim_end_matches('*')))
}

/// Those parts of `wanted` that `owned` does not cover, verbs of the same resource taken together.
pub fn uncovered(owned: &[Rule], wanted: &[Rule]) -> Vec<Rule> {
    let missing =
        wanted.iter().flat_map(Rule::atoms).filter(|atom| !owned.iter().any(|o| o.covers_atom(atom)));
    let mut merged: BTreeMap<(Strings, Strings, Strings), Rule> = BTreeMap::new();
    let mut out = Vec::new();
    for atom in missing {
        if !atom.non_resource_urls.is_empty() {
            out.push(atom);
            continue;
        }
        let key = (atom.api_groups.clone(), atom.resources.clone(), atom.resource_names.clone());
        match merged.get_mut(&key) {
            Some(rule) => {
                rule.verbs = rule.verbs.iter().chain(atom.verbs.iter()).cloned().collect();
            }
            None => {
                merged.insert(key, atom);
            }
        }
    }
    out.extend(merged.into_values());
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;

    fn rule(v: Value) -> Rule {
        Rule::from_json(&v)
    }

    #[test]
    fn what_a_rule_allows() {
        let user = UserInfo::default();
        // rule, verb, group, resource, subresource, name, allowed
        let table = [
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}),
                "get",
                "",
                "pods",
                "",
                "a",
                true,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}),
                "get",
                "",
                "pods",
                "log",
                "a",
                false,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods/log"]}),
                "get",
                "",
                "pods",
                "log",
                "a",
                true,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["*/log"]}),
                "get",
                "",
                "pods",
                "log",
                "a",
                true,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods/*"]}),
                "get",
                "",
                "pods",
                "log",
                "a",
                false,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["*/scale"]}),
                "get",
                "",
                "pods",
                "",
                "a",
                false,
            ),
            (json!({"verbs":["*"],"apiGroups":["*"],"resources":["*"]}), "zap", "x", "y", "z", "", true),
            (
                json!({"verbs":["get"],"apiGroups":["apps"],"resources":["*"]}),
                "get",
                "",
                "pods",
                "",
                "",
                false,
            ),
            (
                json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}),
                "get",
                "",
                "pods",
                "",
                "a",
                true,
            ),
            (
                json!({"verbs":["get","list"],"apiGroups":[""],"resources":["pods"],"resourceNames":["a"]}),
                "list",
                "",
                "pods",
                "",
                "",
                false,
            ),
            (
                json!({"verbs":["list"],"apiGroups":[""],"resources":["pods"]}),
                "get",
                "",
                "pods",
                "",
                "",
                false,
            ),
        ];
        for (r, verb, group, resource, sub, name, want) in table {
            let mut a = Attributes::resource(&user, verb, group, resource, name);
            a.subresource = sub;
            assert_eq!(rule(r.clone()).allows(&a), want, "{r} {verb} {resource}/{sub}");
        }
    }

    #[test]
    fn urls() {
        let user = UserInfo::default();
        for (url, path, want) in [
            ("/healthz", "/healthz", true),
            ("/healthz", "/healthz/etcd", false),
            ("/healthz/*", "/healthz/etcd", true),
            ("/healthz/*", "/healthz", false),
            ("*", "/anything", true),
            ("/api*", "/apis", true),
        ] {
            let mut a = Attributes::resource(&user, "get", "", "", "");
            a.is_resource = false;
            a.path = path;
            let r = rule(json!({"verbs":["get"],"nonResourceURLs":[url]}));
            assert_eq!(r.allows(&a), want, "{url} {path}");
        }
    }

    #[test]
    fn cover() {
        let own = [rule(json!({"verbs":["get","list"],"apiGroups":[""],"resources":["pods","*/scale"]}))];
        let none: [Rule; 0] = [];
        assert!(
            uncovered(&own, &[rule(json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}))])
                .is_empty()
        );
        assert!(
            uncovered(&own, &[rule(json!({"verbs":["get"],"apiGroups":[""],"resources":["foo/scale"]}))])
                .is_empty()
        );
        assert!(
            uncovered(
                &own,
                &[rule(json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["x"]}))]
            )
            .is_empty()
        );
        let missing = uncovered(
            &none,
            &[rule(json!({"verbs":["get","list"],"apiGroups":["apps"],"resources":["deployments"]}))],
        );
        assert_eq!(missing.len(), 1);
        assert_eq!(
            missing[0].compact(),
            r#"{APIGroups:["apps"], Resources:["deployments"], Verbs:["get" "list"]}"#
        );
        let named =
            [rule(json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"],"resourceNames":["x"]}))];
        assert_eq!(
            uncovered(&named, &[rule(json!({"verbs":["get"],"apiGroups":[""],"resources":["pods"]}))]).len(),
            1
        );
        let urls = [rule(json!({"verbs":["get"],"nonResourceURLs":["/healthz/*"]}))];
        assert!(
            uncovered(&urls, &[rule(json!({"verbs":["get"],"nonResourceURLs":["/healthz/*"]}))]).is_empty()
        );
        assert_eq!(uncovered(&urls, &[rule(json!({"verbs":["get"],"nonResourceURLs":["*"]}))]).len(), 1);
    }
}
