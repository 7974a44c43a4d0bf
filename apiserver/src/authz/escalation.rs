//! Nobody grants what he does not hold: checks on writes of roles and bindings.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use super::rules::{Rule, quoted_list, uncovered};
use super::{Authorizer, PRIVILEGED_GROUP, quoted};
use crate::admission::{Attributes, Operation, Plugin};
use crate::lookup::{items, text};
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "rbac.authorization.k8s.io";

/// Runs the checks as the last of the validating plugins. It is part of what the four resources are, so no flag
/// turns it off.
pub struct Escalation {
    authorizer: Arc<Authorizer>,
}

impl Escalation {
    pub fn new(authorizer: Arc<Authorizer>) -> Self {
        Self { authorizer }
    }
}

#[async_trait]
impl Plugin for Escalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object else { return Ok(()) };
        if attrs.group != GROUP || !matches!(attrs.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        check(&self.authorizer, attrs, object).await
    }
}

/// Whether the user may write this role or binding.
async fn check(authorizer: &Authorizer, attrs: &Attributes<'_>, object: &Value) -> ApiResult<()> {
    if attrs.user.in_group(PRIVILEGED_GROUP) || attrs.old.is_some_and(|old| only_ownership(old, object)) {
        return Ok(());
    }
    match attrs.resource {
        "roles" | "clusterroles" => role(authorizer, attrs, object).await,
        "rolebindings" | "clusterrolebindings" => binding(authorizer, attrs, object).await,
        _ => Ok(()),
    }
}

async fn role(authorizer: &Authorizer, attrs: &Attributes<'_>, object: &Value) -> ApiResult<()> {
    let mut ask = super::Attributes::resource(attrs.user, "escalate", GROUP, attrs.resource, attrs.name);
    ask.namespace = attrs.namespace;
    if authorizer.authorize(&ask).await.is_allowed() {
        return Ok(());
    }
    let refuse = |m: &str| ApiError::forbidden(GROUP, attrs.resource, text(object, "/metadata/name"), m);
    covered(authorizer, attrs.user, attrs.namespace, &Rule::of_role(object)).map_err(|m| refuse(&m))?;
    if attrs.resource == "clusterroles" && (aggregates(object) || attrs.old.is_some_and(aggregates)) {
        // An aggregated role may come to hold anything.
        covered(authorizer, attrs.user, "", &Rule::everything())
            .map_err(|_| refuse("must have cluster-admin privileges to use the aggregationRule"))?;
    }
    Ok(())
}

async fn binding(authorizer: &Authorizer, attrs: &Attributes<'_>, object: &Value) -> ApiResult<()> {
    let (kind, name) = (text(object, "/roleRef/kind"), text(object, "/roleRef/name"));
    let resource = match kind {
        "ClusterRole" => "clusterroles",
        "Role" => "roles",
        // Validation says what is wrong with any other kind.
        _ => return Ok(()),
    };
    let mut ask =
        super::Attributes::resource(attrs.user, "bind", text(object, "/roleRef/apiGroup"), resource, name);
    ask.namespace = attrs.namespace;
    if authorizer.authorize(&ask).await.is_allowed() {
        return Ok(());
    }
    let rules = authorizer
        .rbac()
        .role_rules(kind, attrs.namespace, name)
        .map_err(|_| ApiError::not_found(GROUP, resource, name))?;
    covered(authorizer, attrs.user, attrs.namespace, &rules)
        .map_err(|m| ApiError::forbidden(GROUP, attrs.resource, text(object, "/metadata/name"), m))
}

fn covered(authorizer: &Authorizer, user: &UserInfo, namespace: &str, wanted: &[Rule]) -> Result<(), String> {
    let (held, errors) = authorizer.rbac().rules_for(user, namespace);
    let missing = uncovered(&held, wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<String> = missing.iter().map(Rule::compact).collect();
    lines.sort();
    lines.dedup();
    let groups = quoted_list(user.groups.iter().map(String::as_str));
    let mut message = format!(
        "user {} (groups={groups}) is attempting to grant RBAC permissions not currently held:\n{}",
        quoted(&user.name),
        lines.join("\n")
    );
    if !errors.is_empty() {
        message.push_str(&format!("; resolution errors: [{}]", errors.join(" ")));
    }
    Err(message)
}

fn aggregates(role: &Value) -> bool {
    !items(role, "/aggregationRule/clusterRoleSelectors").is_empty()
}

/// Whether nothing but owners and finalizers changed: what the garbage collector writes.
fn only_ownership(old: &Value, new: &Value) -> bool {
    let strip = |o: &Value| {
        let mut o = o.clone();
        if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            for k in ["ownerReferences", "finalizers", "managedFields", "resourceVersion"] {
                m.remove(k);
            }
        }
        o
    };
    strip(old) == strip(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::rbac::Kind;
    use serde_json::json;

    fn authorizer() -> Arc<Authorizer> {
        let a = Authorizer::new(&["RBAC".to_owned()]).unwrap();
        let role = |name: &str, verbs: &[&str], group: &str, resource: &str| json!({"metadata":{"name":name},"rules":[{"verbs":verbs,"apiGroups":[group],"resources":[resource]}]});
        a.rbac().upsert(Kind::ClusterRole, &role("reader", &["get"], "", "pods"));
        a.rbac().upsert(Kind::ClusterRole, &role("writer", &["create"], "", "pods"));
        a.rbac().upsert(Kind::ClusterRole, &role("binder", &["bind"], GROUP, "clusterroles"));
        for (name, user) in [("reader", "r"), ("binder", "b")] {
            a.rbac().upsert(
                Kind::ClusterRoleBinding,
                &json!({"metadata":{"name":name},"roleRef":{"kind":"ClusterRole","name":name},
                    "subjects":[{"kind":"User","name":user}]}),
            );
        }
        Arc::new(a)
    }

    async fn write(user: &str, resource: &str, object: Value) -> ApiResult<()> {
        let user = UserInfo { name: user.into(), groups: vec!["g".into()], ..UserInfo::default() };
        let attrs = Attributes {
            user: &user,
            group: GROUP,
            version: "v1",
            resource,
            kind: "",
            subresource: "",
            namespace: if resource.starts_with("cluster") { "" } else { "ns" },
            name: text(&object, "/metadata/name"),
            operation: Operation::Create,
            dry_run: false,
            old: None,
            options: Default::default(),
            warnings: Default::default(),
            reinvocation: Default::default(),
        };
        Escalation::new(authorizer()).validate(&attrs, Some(&object)).await
    }

    fn role(verbs: &[&str]) -> Value {
        json!({"metadata":{"name":"x"},"rules":[{"verbs":verbs,"apiGroups":[""],"resources":["pods"]}]})
    }

    fn bind(to: &str) -> Value {
        json!({"metadata":{"name":"x"},"roleRef":{"apiGroup":GROUP,"kind":"ClusterRole","name":to}})
    }

    #[tokio::test]
    async fn grants_need_to_be_held() {
        assert!(write("r", "roles", role(&["get"])).await.is_ok());
        let e = write("r", "clusterroles", role(&["get", "delete"])).await.unwrap_err();
        assert_eq!(
            e.message,
            "clusterroles.rbac.authorization.k8s.io \"x\" is forbidden: user \"r\" (groups=[\"g\"]) is attempting to \
             grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"
        );
        assert!(write("r", "rolebindings", bind("reader")).await.is_ok());
        assert_eq!(write("r", "rolebindings", bind("writer")).await.unwrap_err().code, 403);
        assert!(write("b", "clusterrolebindings", bind("writer")).await.is_ok());
        assert_eq!(write("r", "rolebindings", bind("gone")).await.unwrap_err().code, 404);
        let mut aggregated = role(&["get"]);
        aggregated["aggregationRule"] = json!({"clusterRoleSelectors":[{"matchLabels":{"a":"b"}}]});
        let e = write("r", "clusterroles", aggregated).await.unwrap_err();
        assert!(e.message.ends_with("must have cluster-admin privileges to use the aggregationRule"));
    }
}
