//! Impersonation: a user with the right to do so acts as someone else, by request headers.

use std::collections::BTreeMap;

use http::{HeaderMap, HeaderName};

use super::request_header::{decode_key, strip_prefix_ignore_case};
use super::{ANONYMOUS, AUTHENTICATED_GROUP, UNAUTHENTICATED_GROUP, service_account};
use crate::authz::{Attributes, Authorizer, quoted};
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

const USER: &str = "impersonate-user";
const GROUP: &str = "impersonate-group";
const UID: &str = "impersonate-uid";
const EXTRA: &str = "impersonate-extra-";
const AUTHENTICATION: &str = "authentication.k8s.io";

/// The user to go on as; none where the request impersonates nobody. The headers are taken out of the request.
pub fn impersonate(
    authorizer: &Authorizer,
    user: &UserInfo,
    headers: &mut HeaderMap,
) -> ApiResult<Option<UserInfo>> {
    let texts = |name: &str| -> Vec<String> {
        headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
    };
    let name = texts(USER).into_iter().next().unwrap_or_default();
    let asked_groups = texts(GROUP);
    let uid = texts(UID).into_iter().next().unwrap_or_default();
    let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (header, value) in headers.iter() {
        if let (Some(key), Ok(v)) = (strip_prefix_ignore_case(header.as_str(), EXTRA), value.to_str()) {
            extra.entry(decode_key(key)).or_default().push(v.to_owned());
        }
    }
    if name.is_empty() {
        if asked_groups.is_empty() && uid.is_empty() && extra.is_empty() {
            return Ok(None);
        }
        return Err(ApiError::bad_request(without_user(&uid, &asked_groups, &extra)));
    }

    let check = |group, resource, namespace, subresource, object| {
        let mut a = Attributes::resource(user, "impersonate", group, resource, object);
        a.namespace = namespace;
        a.subresource = subresource;
        authorizer.check(&a)
    };
    let mut groups = Vec::new();
    match service_account::split_user(&name) {
        Some((namespace, account)) => {
            check("", "serviceaccounts", namespace, "", account)?;
            if asked_groups.is_empty() {
                groups = service_account::groups(namespace);
            }
        }
        None => check("", "users", "", "", &name)?,
    }
    for g in &asked_groups {
        check("", "groups", "", "", g)?;
    }
    for (key, values) in &extra {
        for v in values {
            check(AUTHENTICATION, "userextras", "", key, v)?;
        }
    }
    if !uid.is_empty() {
        check(AUTHENTICATION, "uids", "", "", &uid)?;
    }
    groups.extend(asked_groups);
    let has = |g: &str| groups.iter().any(|x| x == g);
    if name == ANONYMOUS {
        if !has(UNAUTHENTICATED_GROUP) {
            groups.push(UNAUTHENTICATED_GROUP.to_owned());
        }
    } else if !has(AUTHENTICATED_GROUP) && !has(UNAUTHENTICATED_GROUP) {
        groups.push(AUTHENTICATED_GROUP.to_owned());
    }
    strip(headers);
    Ok(Some(UserInfo { name, uid, groups, extra }))
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
        a
    }

    fn ask(headers: &[(&'static str, &'static str)]) -> (ApiResult<Option<UserInfo>>, HeaderMap) {
        let mut map = HeaderMap::new();
        for (k, v) in headers {
            map.append(*k, http::HeaderValue::from_static(v));
        }
        let boss = UserInfo { name: "boss".into(), ..UserInfo::default() };
        (impersonate(&authorizer(), &boss, &mut map), map)
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
            r#"users "root" is forbidden: User "boss" cannot impersonate resource "users" in API group "" at the cluster scope"#
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
}
