//! Impersonation: a user with the right to do so acts as someone else, by request headers.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};

use super::request_header::{decode_key, strip_prefix_ignore_case};
use super::{ANONYMOUS, AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP, service_account};
use crate::authz::{Attributes, Authorizer, PRIVILEGED_GROUP, quoted};
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";
/// The old right, and its verb.
const LEGACY: &str = "impersonate";

/// Groups and extra values from which on a grant of all of them is asked for first.
const MANY: usize = 4;

/// Whom the headers name.
struct Wanted {
    name: String,
    uid: String,
    groups: Vec<String>,
    extra: BTreeMap<String, Vec<String>>,
}

/// The user to go on as; none where the request impersonates nobody. `request` is what the request wants to do,
/// with its own user. The headers are taken out of the request.
///
/// The constrained modes are tried first: they need a right on the user that is not the old, unlimited one, and a
/// right to do this very thing as someone else. Then the old right alone. The first refusal is the one told.
pub async fn impersonate(
    authorizer: &Authorizer,
    request: &Attributes<'_>,
    headers: &mut HeaderMap,
) -> ApiResult<Option<UserInfo>> {
    let Some(wanted) = wanted(headers)? else { return Ok(None) };
    strip(headers);
    let bare = wanted.uid.is_empty() && wanted.groups.is_empty() && wanted.extra.is_empty();
    let node = node_user(&wanted.name);
    let account = service_account::split_user(&wanted.name).is_some();
    let associated = node.is_some_and(|n| service_account::is_on_node(request.user, n));
    let modes = [
        ("associated-node", bare && associated),
        ("arbitrary-node", bare && node.is_some()),
        ("serviceaccount", bare && account),
        ("user-info", node.is_none() && !account),
        (LEGACY, true),
    ];
    let mut refusal = None;
    for (mode, applies) in modes {
        if !applies {
            continue;
        }
        match (Mode { authorizer, request, name: mode }).user(&wanted).await {
            Ok(user) => {
                let constraint = if mode == LEGACY { String::new() } else { format!("impersonate:{mode}") };
                crate::audit::impersonated(&user, &constraint);
                return Ok(Some(user));
            }
            Err(e) => {
                refusal.get_or_insert(e);
            }
        }
    }
    Err(refusal.unwrap_or_else(|| ApiError::internal("no way of impersonation applies")))
}

fn wanted(headers: &HeaderMap) -> ApiResult<Option<Wanted>> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let first = |name: &str| texts(name).into_iter().next().unwrap_or_default();
    let (name, uid, groups) = (first(USER), first(UID), texts(GROUP));
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers {
        if let (Some(key), Ok(v)) = (strip_prefix_ignore_case(header.as_str(), EXTRA), value.to_str()) {
            extra.entry(decode_key(key)).or_default().push(v.to_owned());
        }
    }
    if !name.is_empty() {
        return Ok(Some(Wanted { name, uid, groups, extra }));
    }
    if groups.is_empty() && uid.is_empty() && extra.is_empty() {
        return Ok(None);
    }
    Err(ApiError::bad_request(without_user(&uid, &groups, &extra)))
}

/// The node that a user name stands for.
fn node_user(name: &str) -> Option<&str> {
    let node = name.strip_prefix("system:node:")?;
    let label = |l: &str| {
        let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        edge(l.chars().next())
            && edge(l.chars().last())
            && l.chars().all(|c| c == '-' || c.is_ascii_lowercase() || c.is_ascii_digit())
    };
    (node.len() <= 253 && node.split('.').all(label)).then_some(node)
}

/// One way in which impersonation may be allowed.
struct Mode<'a> {
    authorizer: &'a Authorizer,
    request: &'a Attributes<'a>,
    name: &'static str,
}

impl Mode<'_> {
    fn constrained(&self) -> bool {
        self.name != LEGACY
    }

    async fn user(&self, wanted: &Wanted) -> ApiResult<UserInfo> {
        // All an associated node's permission may depend on is that there is one: which node does not matter.
        let blind = self.name == "associated-node";
        let reduced;
        let requestor = if blind {
            let keys = self.request.user.extra.keys().cloned().collect();
            let extra =
                BTreeMap::from([("authentication.kubernetes.io/associated-node-keys".to_owned(), keys)]);
            reduced = UserInfo { extra, ..self.request.user.clone() };
            &reduced
        } else {
            self.request.user
        };
        if self.constrained() {
            let verb = format!("impersonate-on:{}:{}", self.name, self.request.verb);
            let on = Attributes { user: requestor, verb: &verb, ..self.request.clone() };
            self.authorizer.check(&on).await?;
        }
        let verb = if self.constrained() { format!("impersonate:{}", self.name) } else { LEGACY.to_owned() };
        let group = if self.constrained() { AUTHENTICATION } else { "" };
        let ask = |group, resource, namespace, subresource, name| {
            let mut a = Attributes::resource(requestor, &verb, group, resource, name);
            (a.namespace, a.subresource) = (namespace, subresource);
            a
        };
        let refuse = |a: &Attributes<'_>, reason: &str| Err(crate::authz::forbidden(a, reason));
        let mut groups = wanted.groups.clone();
        if let Some((namespace, account)) = service_account::split_user(&wanted.name) {
            self.authorizer.check(&ask(group, "serviceaccounts", namespace, "", account)).await?;
            if groups.is_empty() {
                groups = service_account::groups(namespace);
            }
        } else if let Some(node) = node_user(&wanted.name).filter(|_| self.constrained()) {
            self.authorizer.check(&ask(group, "nodes", "", "", if blind { "*" } else { node })).await?;
            groups = vec!["system:nodes".to_owned()];
        } else {
            self.authorizer.check(&ask(group, "users", "", "", &wanted.name)).await?;
        }
        if !wanted.uid.is_empty() {
            self.authorizer.check(&ask(AUTHENTICATION, "uids", "", "", &wanted.uid)).await?;
        }
        let a = |name| ask(group, "groups", "", "", name);
        if self.constrained() {
            if wanted.groups.iter().any(String::is_empty) {
                return refuse(&a(""), "impersonating the empty string group is not allowed");
            }
            if wanted.groups.iter().any(|g| g == PRIVILEGED_GROUP) {
                return refuse(&a(PRIVILEGED_GROUP), "impersonating the system:masters group is not allowed");
            }
        }
        let many = |count| self.constrained() && count >= MANY;
        if !(many(wanted.groups.len()) && self.authorizer.check(&a("*")).await.is_ok()) {
            for g in &wanted.groups {
                self.authorizer.check(&a(g)).await?;
            }
        }
        let values: usize = wanted.extra.values().map(Vec::len).sum();
        let e = |key, value| ask(AUTHENTICATION, "userextras", "", key, value);
        if self.constrained()
            && wanted.extra.iter().any(|(k, v)| k.is_empty() || v.iter().any(String::is_empty))
        {
            return refuse(&e("", ""), "impersonating the empty string value in extra is not allowed");
        }
        if !(many(values) && self.authorizer.check(&e("*", "*")).await.is_ok()) {
            for (key, values) in &wanted.extra {
                for v in values {
                    self.authorizer.check(&e(key, v)).await?;
                }
            }
        }
        Ok(completed(wanted, groups))
    }
}

fn completed(wanted: &Wanted, mut groups: Vec<String>) -> UserInfo {
    let has = |g: &str| groups.iter().any(|x| x == g);
    if wanted.name == ANONYMOUS {
        if !has(UNAUTHENTICATED_GROUP) {
            groups.push(UNAUTHENTICATED_GROUP.to_owned());
        }
    } else if !has(AUTHENTICATED_GROUP) && !has(UNAUTHENTICATED_GROUP) {
        groups.push(AUTHENTICATED_GROUP.to_owned());
    }
    UserInfo { name: wanted.name.clone(), uid: wanted.uid.clone(), groups, extra: wanted.extra.clone() }
}

/// Upstream shows the nameless user as its own data structure prints.
fn without_user(uid: &str, groups: &[String], extra: &BTreeMap<String, Vec<String>>) -> String {
    let list = |l: &[String]| {
        let quoted: Vec<String> = l.iter().map(|s| quoted(s)).collect();
        if l.is_empty() { "[]string(nil)".to_owned() } else { format!("[]string{{{}}}", quoted.join(", ")) }
    };
    let shown_extra = if extra.is_empty() {
        "map[string][]string(nil)".to_owned()
    } else {
        let entries: Vec<String> = extra.iter().map(|(k, v)| format!("{}:{}", quoted(k), list(v))).collect();
        format!("map[string][]string{{{}}}", entries.join(", "))
    };
    format!(
        "requested &user.DefaultInfo{{Name:\"\", UID:{}, Groups:{}, Extra:{shown_extra}}} without impersonating a user name",
        quoted(uid),
        list(groups)
    )
}

fn strip(headers: &mut HeaderMap) {
    let ours: Vec<HeaderName> =
        headers.keys().filter(|k| k.as_str().starts_with("impersonate-")).cloned().collect();
    for name in ours {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::rbac::Kind;
    use serde_json::json;

    fn authorizer() -> Authorizer {
        let a = Authorizer::new(&["RBAC".to_owned()]).unwrap();
        a.rbac().upsert(
            Kind::ClusterRole,
            &json!({"metadata":{"name":"r"},"rules":[
                {"verbs":["impersonate"],"apiGroups":[""],"resources":["users"],"resourceNames":["jane"]},
                {"verbs":["impersonate"],"apiGroups":[""],"resources":["serviceaccounts"]},
                {"verbs":["impersonate"],"apiGroups":[""],"resources":["groups"],"resourceNames":["dev"]},
                {"verbs":["impersonate"],"apiGroups":[AUTHENTICATION],"resources":["userextras/scopes"]}]}),
        );
        a.rbac().upsert(
            Kind::ClusterRoleBinding,
            &json!({"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"r"},
                "subjects":[{"kind":"User","name":"boss"}]}),
        );
        a.rbac().upsert(
            Kind::ClusterRole,
            &json!({"metadata":{"name":"c"},"rules":[
                {"verbs":["impersonate:user-info"],"apiGroups":[AUTHENTICATION],"resources":["users","groups"]},
                {"verbs":["impersonate:associated-node"],"apiGroups":[AUTHENTICATION],"resources":["nodes"]},
                {"verbs":["impersonate-on:user-info:list","impersonate-on:associated-node:list"],"apiGroups":[""],
                    "resources":["pods"]}]}),
        );
        a.rbac().upsert(
            Kind::ClusterRoleBinding,
            &json!({"metadata":{"name":"c"},"roleRef":{"kind":"ClusterRole","name":"c"},"subjects":[
                {"kind":"User","name":"agent"},{"kind":"ServiceAccount","name":"agent","namespace":"ns"}]}),
        );
        a
    }

    fn ask(headers: &[(&'static str, &'static str)]) -> (ApiResult<Option<UserInfo>>, HeaderMap) {
        let mut map = HeaderMap::new();
        for (k, v) in headers {
            map.append(*k, http::HeaderValue::from_static(v));
        }
        ask_as(UserInfo { name: "boss".into(), ..UserInfo::default() }, map)
    }

    fn ask_as(user: UserInfo, mut map: HeaderMap) -> (ApiResult<Option<UserInfo>>, HeaderMap) {
        let request = Attributes::resource(&user, "list", "", "pods", "");
        // Authorizers in memory answer at once.
        let found = futures::executor::block_on(impersonate(&authorizer(), &request, &mut map));
        (found, map)
    }

    #[test]
    fn as_another_user() {
        let (u, left) = ask(&[("impersonate-user", "jane"), ("impersonate-group", "dev"), ("accept", "x")]);
        let u = u.unwrap().unwrap();
        assert_eq!(
            (u.name.as_str(), u.groups),
            ("jane", vec!["dev".to_owned(), AUTHENTICATED_GROUP.to_owned()])
        );
        assert_eq!(left.len(), 1);
        let (u, _) = ask(&[("impersonate-user", "jane"), ("impersonate-extra-scopes", "view")]);
        assert_eq!(u.unwrap().unwrap().extra["scopes"], ["view"]);
        let (u, _) = ask(&[("impersonate-user", "system:serviceaccount:ns:sa")]);
        assert_eq!(
            u.unwrap().unwrap().groups,
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"]
        );
        assert_eq!(ask(&[("accept", "x")]).0.unwrap(), None);
    }

    #[test]
    fn refusals() {
        let (e, _) = ask(&[("impersonate-user", "root")]);
        assert_eq!(
            e.unwrap_err().message,
            r#"pods is forbidden: User "boss" cannot impersonate-on:user-info:list resource "pods" in API group "" at the cluster scope"#
        );
        assert_eq!(
            ask(&[("impersonate-user", "jane"), ("impersonate-group", "system:masters")]).0.unwrap_err().code,
            403
        );
        assert_eq!(ask(&[("impersonate-user", "jane"), ("impersonate-uid", "1")]).0.unwrap_err().code, 403);
        let e = ask(&[("impersonate-group", "dev")]).0.unwrap_err();
        assert_eq!(
            (e.code, e.message.as_str()),
            (
                400,
                "requested &user.DefaultInfo{Name:\"\", UID:\"\", Groups:[]string{\"dev\"}, Extra:map[string][]string(nil)} without impersonating a user name"
            )
        );
    }

    #[test]
    fn constrained_modes_allow_only_the_named_actions() {
        let headers = |user: &'static str, group: &'static str| {
            let mut map = HeaderMap::new();
            map.append("impersonate-user", http::HeaderValue::from_static(user));
            if !group.is_empty() {
                map.append("impersonate-group", http::HeaderValue::from_static(group));
            }
            map
        };
        let agent = || UserInfo { name: "agent".into(), ..UserInfo::default() };
        let (u, _) = ask_as(agent(), headers("jane", "dev"));
        assert_eq!(u.unwrap().unwrap().groups, ["dev", AUTHENTICATED_GROUP]);
        let (e, _) = ask_as(agent(), headers("jane", "system:masters"));
        assert!(e.unwrap_err().message.ends_with("impersonating the system:masters group is not allowed"));
        // Accounts and nodes are no plain users.
        assert!(ask_as(agent(), headers("system:serviceaccount:a:b", "")).0.is_err());
        assert!(ask_as(agent(), headers("system:node:n1", "")).0.is_err());
        let user = agent();
        let delete = Attributes::resource(&user, "delete", "", "pods", "x");
        let mut map = headers("jane", "");
        assert!(futures::executor::block_on(impersonate(&authorizer(), &delete, &mut map)).is_err());
        // A workload may act as the node it runs on, not as another.
        let daemon = |node: &str| UserInfo {
            name: "system:serviceaccount:ns:agent".into(),
            extra: BTreeMap::from([(service_account::NODE_NAME.to_owned(), vec![node.to_owned()])]),
            ..UserInfo::default()
        };
        let (u, _) = ask_as(daemon("n1"), headers("system:node:n1", ""));
        assert_eq!(u.unwrap().unwrap().groups, ["system:nodes", AUTHENTICATED_GROUP]);
        assert!(ask_as(daemon("n2"), headers("system:node:n1", "")).0.is_err());
    }
}
