//! The RBAC authorizer: an index of roles and bindings by subject, so that a decision looks only at the bindings
//! of the asking user and his groups.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use parking_lot::RwLock;
use serde_json::Value;

use super::rules::Rule;
use super::{Attributes, Decision};
use crate::lookup::{items, text};
use crate::request::UserInfo;

/// The four resources that make up the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Role,
    ClusterRole,
    RoleBinding,
    ClusterRoleBinding,
}

impl Kind {
    /// By plural resource name.
    pub fn from_resource(resource: &str) -> Option<Self> {
        Some(match resource {
            "roles" => Self::Role,
            "clusterroles" => Self::ClusterRole,
            "rolebindings" => Self::RoleBinding,
            "clusterrolebindings" => Self::ClusterRoleBinding,
            _ => return None,
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Subject {
    User(Box<str>),
    Group(Box<str>),
}

/// Namespace (empty for the cluster) and name.
type Key = (Box<str>, Box<str>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct RoleRef {
    cluster: bool,
    kind: Box<str>,
    name: Box<str>,
}

#[derive(Debug)]
struct Binding {
    role: RoleRef,
    /// In the order of the binding, each with its description for reasons.
    subjects: Vec<(Subject, Box<str>)>,
}

#[derive(Debug)]
struct ClusterRole {
    own: Arc<[Rule]>,
    labels: BTreeMap<String, String>,
    /// Selectors of an aggregated role; its rules are those of the roles they select.
    aggregates: Option<Vec<Value>>,
    effective: Arc<[Rule]>,
}

#[derive(Debug, Default)]
struct Index {
    roles: HashMap<Key, Arc<[Rule]>>,
    cluster_roles: BTreeMap<Box<str>, ClusterRole>,
    bindings: HashMap<Key, Binding>,
    /// Per namespace (empty: cluster), the names of the bindings of each subject.
    by_subject: HashMap<Box<str>, HashMap<Subject, BTreeSet<Box<str>>>>,
}

/// The authorizer. Reads and writes may come from any thread.
#[derive(Debug, Default)]
pub struct Rbac {
    index: RwLock<Index>,
}

impl Rbac {
    /// Takes in an object as it is now.
    pub fn upsert(&self, kind: Kind, object: &Value) {
        let namespace = text(object, "/metadata/namespace");
        let name = text(object, "/metadata/name");
        let mut index = self.index.write();
        match kind {
            Kind::Role => {
                index.roles.insert((namespace.into(), name.into()), Rule::of_role(object).into());
            }
            Kind::ClusterRole => index.put_cluster_role(name, object),
            Kind::RoleBinding => index.put_binding(namespace, name, object),
            Kind::ClusterRoleBinding => index.put_binding("", name, object),
        }
    }

    /// Forgets an object.
    pub fn remove(&self, kind: Kind, namespace: &str, name: &str) {
        let mut index = self.index.write();
        match kind {
            Kind::Role => {
                index.roles.remove(&(namespace.into(), name.into()));
            }
            Kind::ClusterRole => {
                index.cluster_roles.remove(name);
                index.aggregate();
            }
            Kind::RoleBinding => index.drop_binding(namespace, name),
            Kind::ClusterRoleBinding => index.drop_binding("", name),
        }
    }

    pub fn authorize(&self, attrs: &Attributes<'_>) -> Decision {
        let mut allowed = None;
        let mut errors = Vec::new();
        self.visit(attrs.user, attrs.namespace, |found| match found {
            Ok((source, rules)) => {
                if rules.iter().any(|r| r.allows(attrs)) {
                    allowed = Some(format!("RBAC: allowed by {}", source()));
                    return false;
                }
                true
            }
            Err(e) => {
                errors.push(e);
                true
            }
        });
        if let Some(reason) = allowed {
            return Decision::Allow(reason);
        }
        if errors.is_empty() {
            return Decision::NoOpinion(String::new());
        }
        Decision::NoOpinion(format!("RBAC: {}", aggregate_errors(errors)))
    }

    /// All rules that apply to the user in the namespace (empty: cluster-wide ones alone), and what could not be
    /// resolved.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> (Vec<Rule>, Vec<String>) {
        let (mut rules, mut errors) = (Vec::new(), Vec::new());
        self.visit(user, namespace, |found| {
            match found {
                Ok((_, r)) => rules.extend(r.iter().cloned()),
                Err(e) => errors.push(e),
            }
            true
        });
        (rules, errors)
    }

    /// The rules of a role that a binding in `namespace` (empty: a cluster role binding) refers to.
    pub fn role_rules(&self, kind: &str, namespace: &str, name: &str) -> Result<Arc<[Rule]>, String> {
        let role = RoleRef { cluster: kind == "ClusterRole", kind: kind.into(), name: name.into() };
        self.index.read().resolve(&role, namespace)
    }

    /// Calls `f` for every binding of the user with its description and rules, or with why they are unknown,
    /// until it returns false.
    fn visit(
        &self,
        user: &UserInfo,
        namespace: &str,
        mut f: impl FnMut(Result<(&dyn Fn() -> String, &[Rule]), String>) -> bool,
    ) {
        let index = self.index.read();
        let subjects: Vec<Subject> = std::iter::once(Subject::User(user.name.as_str().into()))
            .chain(user.groups.iter().map(|g| Subject::Group(g.as_str().into())))
            .collect();
        let scopes: &[&str] = if namespace.is_empty() { &[""] } else { &["", namespace] };
        for scope in scopes {
            let Some(by_subject) = index.by_subject.get(*scope) else { continue };
            let names: BTreeSet<&Box<str>> =
                subjects.iter().filter_map(|s| by_subject.get(s)).flatten().collect();
            for name in names {
                let key: Key = ((*scope).into(), name.clone());
                let Some(binding) = index.bindings.get(&key) else { continue };
                let go_on = match index.resolve(&binding.role, scope) {
                    Ok(rules) => {
                        let source = || binding.describe(scope, name, &subjects);
                        f(Ok((&source, &rules)))
                    }
                    Err(e) => f(Err(e)),
                };
                if !go_on {
                    return;
                }
            }
        }
    }
}

impl Binding {
    fn describe(&self, namespace: &str, name: &str, of: &[Subject]) -> String {
        let subject = self.subjects.iter().find(|(s, _)| of.contains(s)).map_or("", |(_, d)| d);
        let (kind, full) = if namespace.is_empty() {
            ("ClusterRoleBinding", name.to_owned())
        } else {
            ("RoleBinding", format!("{name}/{namespace}"))
        };
        let role = super::quoted(&self.role.name);
        format!("{kind} {} of {} {role} to {subject}", super::quoted(&full), self.role.kind)
    }
}

impl Index {
    fn resolve(&self, role: &RoleRef, namespace: &str) -> Result<Arc<[Rule]>, String> {
        if role.cluster {
            return self.cluster_roles.get(&role.name).map(|r| r.effective.clone()).ok_or_else(|| {
                format!("clusterrole.rbac.authorization.k8s.io {} not found", super::quoted(&role.name))
            });
        }
        if &*role.kind != "Role" {
            return Err(format!("unsupported role reference kind: {}", super::quoted(&role.kind)));
        }
        self.roles
            .get(&(namespace.into(), role.name.clone()))
            .cloned()
            .ok_or_else(|| format!("role.rbac.authorization.k8s.io {} not found", super::quoted(&role.name)))
    }

    fn put_cluster_role(&mut self, name: &str, object: &Value) {
        let labels = object
            .pointer("/metadata/labels")
            .and_then(Value::as_object)
            .map(|m| m.iter().map(|(k, v)| (k.clone(), v.as_str().unwrap_or_default().to_owned())).collect())
            .unwrap_or_default();
        let own: Arc<[Rule]> = Rule::of_role(object).into();
        let aggregates = object
            .get("aggregationRule")
            .filter(|v| !v.is_null())
            .map(|_| items(object, "/aggregationRule/clusterRoleSelectors").to_vec());
        let role = ClusterRole { effective: own.clone(), own, labels, aggregates };
        self.cluster_roles.insert(name.into(), role);
        self.aggregate();
    }

    /// Recomputes the rules of aggregated roles. There are a handful of them, and cluster roles seldom change.
    fn aggregate(&mut self) {
        let names: Vec<Box<str>> = self
            .cluster_roles
            .iter()
            .filter(|(_, r)| r.aggregates.is_some())
            .map(|(n, _)| n.clone())
            .collect();
        // Aggregated roles may select aggregated roles: repeat until nothing changes, at most once per role.
        for _ in 0..=names.len() {
            let mut changed = false;
            for name in &names {
                let Some(role) = self.cluster_roles.get(name) else { continue };
                let Some(selectors) = &role.aggregates else { continue };
                let mut rules: Vec<Rule> = Vec::new();
                for selector in selectors {
                    for (other, r) in &self.cluster_roles {
                        if other != name && selects(selector, &r.labels) {
                            for rule in r.effective.iter() {
                                if !rules.contains(rule) {
                                    rules.push(rule.clone());
                                }
                            }
                        }
                    }
                }
                // What was written into the role stays in force until nothing selects anything any more.
                if rules.is_empty() {
                    rules = role.own.to_vec();
                }
                if *role.effective != rules[..] {
                    changed = true;
                    if let Some(role) = self.cluster_roles.get_mut(name) {
                        role.effective = rules.into();
                    }
                }
            }
            if !changed {
                break;
            }
        }
    }

    fn put_binding(&mut self, namespace: &str, name: &str, object: &Value) {
        self.drop_binding(namespace, name);
        let kind = text(object, "/roleRef/kind");
        let role = RoleRef {
            cluster: kind == "ClusterRole",
            kind: kind.into(),
            name: text(object, "/roleRef/name").into(),
        };
        let subjects: Vec<(Subject, Box<str>)> =
            items(object, "/subjects").iter().filter_map(|s| subject(s, namespace)).collect();
        let by_subject = self.by_subject.entry(namespace.into()).or_default();
        for (s, _) in &subjects {
            by_subject.entry(s.clone()).or_default().insert(name.into());
        }
        self.bindings.insert((namespace.into(), name.into()), Binding { role, subjects });
    }

    fn drop_binding(&mut self, namespace: &str, name: &str) {
        let Some(old) = self.bindings.remove(&(namespace.into(), name.into())) else { return };
        let Some(by_subject) = self.by_subject.get_mut(namespace) else { return };
        for (s, _) in &old.subjects {
            if let Some(names) = by_subject.get_mut(s) {
                names.remove(name);
                if names.is_empty() {
                    by_subject.remove(s);
                }
            }
        }
        if by_subject.is_empty() {
            self.by_subject.remove(namespace);
        }
    }
}

fn subject(s: &Value, binding_namespace: &str) -> Option<(Subject, Box<str>)> {
    let (kind, name) = (text(s, "/kind"), text(s, "/name"));
    let described = |n: &str| format!("{kind} {}", super::quoted(n)).into_boxed_str();
    match kind {
        "User" => Some((Subject::User(name.into()), described(name))),
        "Group" => Some((Subject::Group(name.into()), described(name))),
        "ServiceAccount" => {
            let own = text(s, "/namespace");
            let namespace = if own.is_empty() { binding_namespace } else { own };
            if namespace.is_empty() {
                return None;
            }
            let user = format!("system:serviceaccount:{namespace}:{name}");
            Some((Subject::User(user.into()), described(&format!("{name}/{namespace}"))))
        }
        _ => None,
    }
}

/// Whether a label selector (`matchLabels`, `matchExpressions`) selects the labels.
fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> bool {
    let exact = selector.get("matchLabels").and_then(Value::as_object);
    if !exact.is_none_or(|m| m.iter().all(|(k, v)| labels.get(k).map(String::as_str) == v.as_str())) {
        return false;
    }
    items(selector, "/matchExpressions").iter().all(|e| {
        let value = labels.get(text(e, "/key"));
        let listed = value.is_some_and(|v| items(e, "/values").iter().any(|x| x.as_str() == Some(v)));
        match text(e, "/operator") {
            "In" => listed,
            "NotIn" => !listed,
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    })
}

/// Several errors as one sentence: one bare, more in brackets, repeats once.
fn aggregate_errors(errors: Vec<String>) -> String {
    let mut seen: Vec<String> = Vec::new();
    for e in errors {
        if !seen.contains(&e) {
            seen.push(e);
        }
    }
    if seen.len() == 1 { seen.remove(0) } else { format!("[{}]", seen.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn role(name: &str, verbs: &[&str], resource: &str) -> Value {
        json!({"metadata":{"name":name,"namespace":"ns"},
            "rules":[{"verbs":verbs,"apiGroups":[""],"resources":[resource]}]})
    }

    fn binding(name: &str, kind: &str, role: &str, subjects: Value) -> Value {
        json!({"metadata":{"name":name,"namespace":"ns"},"roleRef":{"kind":kind,"name":role},"subjects":subjects})
    }

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.into(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    fn ask(r: &Rbac, u: &UserInfo, verb: &str, resource: &str, namespace: &str) -> Decision {
        let mut a = Attributes::resource(u, verb, "", resource, "");
        a.namespace = namespace;
        r.authorize(&a)
    }

    #[test]
    fn bindings_by_user_group_and_service_account() {
        let r = Rbac::default();
        r.upsert(Kind::ClusterRole, &role("read", &["get", "list"], "pods"));
        r.upsert(Kind::Role, &role("write", &["create"], "pods"));
        r.upsert(
            Kind::ClusterRoleBinding,
            &binding("b1", "ClusterRole", "read", json!([{"kind":"Group","name":"devs"}])),
        );
        r.upsert(
            Kind::RoleBinding,
            &binding(
                "b2",
                "Role",
                "write",
                json!([{"kind":"ServiceAccount","name":"sa"},{"kind":"User","name":"u"}]),
            ),
        );
        let dev = user("d", &["devs"]);
        assert_eq!(
            ask(&r, &dev, "list", "pods", "any"),
            Decision::Allow(
                r#"RBAC: allowed by ClusterRoleBinding "b1" of ClusterRole "read" to Group "devs""#.into()
            )
        );
        assert!(ask(&r, &dev, "list", "pods", "").is_allowed());
        assert!(!ask(&r, &dev, "create", "pods", "ns").is_allowed());
        let sa = user("system:serviceaccount:ns:sa", &[]);
        assert_eq!(
            ask(&r, &sa, "create", "pods", "ns"),
            Decision::Allow(
                r#"RBAC: allowed by RoleBinding "b2/ns" of Role "write" to ServiceAccount "sa/ns""#.into()
            )
        );
        assert!(!ask(&r, &sa, "create", "pods", "other").is_allowed());
        assert!(!ask(&r, &sa, "create", "pods", "").is_allowed());
        assert!(ask(&r, &user("u", &[]), "create", "pods", "ns").is_allowed());

        r.remove(Kind::RoleBinding, "ns", "b2");
        assert!(!ask(&r, &sa, "create", "pods", "ns").is_allowed());
        r.upsert(
            Kind::ClusterRoleBinding,
            &binding("b1", "ClusterRole", "read", json!([{"kind":"Group","name":"ops"}])),
        );
        assert!(!ask(&r, &dev, "list", "pods", "").is_allowed());
    }

    #[test]
    fn a_missing_role_is_told() {
        let r = Rbac::default();
        r.upsert(
            Kind::ClusterRoleBinding,
            &binding("b", "ClusterRole", "gone", json!([{"kind":"User","name":"u"}])),
        );
        assert_eq!(
            ask(&r, &user("u", &[]), "get", "pods", ""),
            Decision::NoOpinion(r#"RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found"#.into())
        );
    }

    #[test]
    fn aggregation_follows_labels() {
        let r = Rbac::default();
        r.upsert(
            Kind::ClusterRole,
            &json!({"metadata":{"name":"view"},"aggregationRule":{"clusterRoleSelectors":[{"matchLabels":{"agg":"view"}}]}}),
        );
        r.upsert(
            Kind::ClusterRoleBinding,
            &binding("b", "ClusterRole", "view", json!([{"kind":"User","name":"u"}])),
        );
        assert!(!ask(&r, &user("u", &[]), "get", "pods", "").is_allowed());
        let mut part = role("part", &["get"], "pods");
        part["metadata"]["labels"] = json!({"agg":"view"});
        r.upsert(Kind::ClusterRole, &part);
        assert!(ask(&r, &user("u", &[]), "get", "pods", "").is_allowed());
        r.remove(Kind::ClusterRole, "", "part");
        assert!(!ask(&r, &user("u", &[]), "get", "pods", "").is_allowed());
    }
}
