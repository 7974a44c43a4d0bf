//! FlowSchemas as matchers, parsed once when the object changes.

use serde_json::Value;

use crate::lookup::{items, text};
use crate::request::{RequestInfo, UserInfo};

/// Whose requests a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Subject {
    User(String),
    Group(String),
    /// Namespace and name; the name `*` is all of the namespace.
    ServiceAccount(String, String),
}

impl Subject {
    fn parse(v: &Value) -> Option<Self> {
        match text(v, "/kind") {
            "User" => Some(Self::User(text(v, "/user/name").to_owned())),
            "Group" => Some(Self::Group(text(v, "/group/name").to_owned())),
            "ServiceAccount" => Some(Self::ServiceAccount(
                text(v, "/serviceAccount/namespace").to_owned(),
                text(v, "/serviceAccount/name").to_owned(),
            )),
            _ => None,
        }
    }

    fn matches(&self, user: &UserInfo) -> bool {
        match self {
            Self::User(n) => n == "*" || *n == user.name,
            Self::Group(n) => n == "*" || user.in_group(n),
            Self::ServiceAccount(namespace, name) => {
                let account =
                    user.name.strip_prefix("system:serviceaccount:").and_then(|r| r.split_once(':'));
                account.is_some_and(|(ns, n)| ns == namespace && (name == "*" || n == name))
            }
        }
    }
}

/// Names, or everything.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Names {
    All,
    These(Vec<String>),
}

impl Names {
    fn parse(v: &Value, pointer: &str) -> Self {
        let list: Vec<String> =
            items(v, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect();
        if list == ["*"] { Self::All } else { Self::These(list) }
    }

    fn has(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::These(l) => l.iter().any(|x| x == name),
        }
    }
}

#[derive(Debug, Clone)]
struct ResourceRule {
    verbs: Names,
    groups: Names,
    resources: Names,
    namespaces: Names,
    cluster_scope: bool,
}

impl ResourceRule {
    fn parse(v: &Value) -> Self {
        Self {
            verbs: Names::parse(v, "/verbs"),
            groups: Names::parse(v, "/apiGroups"),
            resources: Names::parse(v, "/resources"),
            namespaces: Names::parse(v, "/namespaces"),
            cluster_scope: v.get("clusterScope").and_then(Value::as_bool).unwrap_or(false),
        }
    }

    fn has_resource(&self, info: &RequestInfo) -> bool {
        match &self.resources {
            Names::All => true,
            Names::These(l) if info.subresource.is_empty() => l.contains(&info.resource),
            Names::These(l) => l
                .iter()
                .any(|x| x.split_once('/').is_some_and(|(r, s)| r == info.resource && s == info.subresource)),
        }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(&info.verb)
            && self.has_resource(info)
            && self.groups.has(&info.api_group)
            && if info.namespace.is_empty() {
                self.cluster_scope
            } else {
                self.namespaces.has(&info.namespace)
            }
    }
}

#[derive(Debug, Clone)]
struct UrlRule {
    verbs: Names,
    urls: Vec<String>,
}

impl UrlRule {
    fn parse(v: &Value) -> Self {
        let urls = items(v, "/nonResourceURLs").iter().filter_map(Value::as_str).map(str::to_owned).collect();
        Self { verbs: Names::parse(v, "/verbs"), urls }
    }

    fn matches(&self, info: &RequestInfo) -> bool {
        self.verbs.has(&info.verb) && self.urls.iter().any(|u| url_matches(u, &info.path))
    }
}

/// `*`, the very path, or everything below it (with or without `/*` in the rule).
fn url_matches(rule: &str, path: &str) -> bool {
    if rule == "*" || rule == path {
        return true;
    }
    let folder = rule.trim_end_matches('*').trim_end_matches('/');
    path.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'))
}

#[derive(Debug, Clone)]
struct Rule {
    subjects: Vec<Subject>,
    resources: Vec<ResourceRule>,
    urls: Vec<UrlRule>,
}

/// What makes the requests of a schema different flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distinguisher {
    None,
    User,
    Namespace,
}

impl Distinguisher {
    pub fn of<'a>(self, info: &'a RequestInfo, user: &'a UserInfo) -> &'a str {
        match self {
            Self::None => "",
            Self::User => &user.name,
            Self::Namespace => &info.namespace,
        }
    }
}

/// A FlowSchema's spec.
#[derive(Debug, Clone)]
pub struct Matcher {
    rules: Vec<Rule>,
    pub precedence: i64,
    pub level: String,
    pub distinguisher: Distinguisher,
}

impl Matcher {
    /// Reads a FlowSchema; what validation forbids matches nothing.
    pub fn parse(schema: &Value) -> Self {
        let rule = |r: &Value| Rule {
            subjects: items(r, "/subjects").iter().filter_map(Subject::parse).collect(),
            resources: items(r, "/resourceRules").iter().map(ResourceRule::parse).collect(),
            urls: items(r, "/nonResourceRules").iter().map(UrlRule::parse).collect(),
        };
        Self {
            rules: items(schema, "/spec/rules").iter().map(rule).collect(),
            precedence: schema.pointer("/spec/matchingPrecedence").and_then(Value::as_i64).unwrap_or(1000),
            level: text(schema, "/spec/priorityLevelConfiguration/name").to_owned(),
            distinguisher: match text(schema, "/spec/distinguisherMethod/type") {
                "ByUser" => Distinguisher::User,
                "ByNamespace" => Distinguisher::Namespace,
                _ => Distinguisher::None,
            },
        }
    }

    pub fn matches(&self, info: &RequestInfo, user: &UserInfo) -> bool {
        self.rules.iter().any(|r| {
            r.subjects.iter().any(|s| s.matches(user))
                && if info.is_resource {
                    r.resources.iter().any(|x| x.matches(info))
                } else {
                    r.urls.iter().any(|x| x.matches(info))
                }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    fn get(group: &str, namespace: &str, resource: &str, sub: &str) -> RequestInfo {
        RequestInfo {
            is_resource: true,
            verb: "get".into(),
            api_group: group.into(),
            namespace: namespace.into(),
            resource: resource.into(),
            subresource: sub.into(),
            ..RequestInfo::default()
        }
    }

    fn of(subjects: Value, resources: Value, urls: Value) -> Matcher {
        Matcher::parse(&json!({"spec": {
            "matchingPrecedence": 7, "priorityLevelConfiguration": {"name": "l"},
            "distinguisherMethod": {"type": "ByNamespace"},
            "rules": [{"subjects": subjects, "resourceRules": resources, "nonResourceRules": urls}],
        }}))
    }

    #[test]
    fn subjects() {
        let all = json!([{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]);
        let of = |s: Value| of(json!([s]), all.clone(), json!([]));
        let i = get("", "a", "pods", "");
        assert!(of(json!({"kind": "User", "user": {"name": "*"}})).matches(&i, &user("x", &[])));
        assert!(!of(json!({"kind": "User", "user": {"name": "y"}})).matches(&i, &user("x", &[])));
        assert!(of(json!({"kind": "Group", "group": {"name": "g"}})).matches(&i, &user("x", &["f", "g"])));
        let sa = |n: &str| {
            of(json!({"kind": "ServiceAccount", "serviceAccount": {"namespace": "kube-system", "name": n}}))
        };
        assert!(sa("*").matches(&i, &user("system:serviceaccount:kube-system:a", &[])));
        assert!(!sa("*").matches(&i, &user("system:serviceaccount:kube-systems:a", &[])));
        assert!(!sa("b").matches(&i, &user("system:serviceaccount:kube-system:a", &[])));
    }

    #[test]
    fn resources_and_urls() {
        let who = json!([{"kind": "Group", "group": {"name": "*"}}]);
        let m = of(
            who,
            json!([{"verbs": ["get"], "apiGroups": [""], "resources": ["pods/status", "nodes"], "namespaces": ["a"]}]),
            json!([{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/debug/*"]}]),
        );
        let u = user("x", &[]);
        assert_eq!((m.precedence, m.level.as_str(), m.distinguisher), (7, "l", Distinguisher::Namespace));
        assert!(m.matches(&get("", "a", "pods", "status"), &u));
        assert!(!m.matches(&get("", "a", "pods", ""), &u));
        assert!(!m.matches(&get("", "b", "pods", "status"), &u));
        assert!(!m.matches(&get("", "", "nodes", ""), &u), "not cluster scope");
        let url = |p: &str| RequestInfo { path: p.into(), verb: "get".into(), ..RequestInfo::default() };
        for (path, yes) in [
            ("/healthz", true),
            ("/healthz/ping", true),
            ("/healthzz", false),
            ("/debug/pprof", true),
            ("/debugger", false),
        ] {
            assert_eq!(m.matches(&url(path), &u), yes, "{path}");
        }
    }
}
