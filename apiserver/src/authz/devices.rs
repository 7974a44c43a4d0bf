//! Who may do what with devices: admin access is for namespaces that are marked for it, allocations are for whoever may
//! bind claims, and what is said of a device for whoever may speak for its driver.
//!
//! Source: KEP-5018 "DRA: AdminAccess", and the virtual subresources `binding` and `driver` of `resourceclaims` in the
//! API reference.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::{Authorizer, forbidden};
use crate::admission::{Attributes, Operation, Phase, Plugin, RequestOptions};
use crate::authn::service_account;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::same;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::registry::options::WriteKind;
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "resource.k8s.io";
const CLAIMS: &str = "resourceclaims";
const ADMIN_LABEL: &str = "resource.kubernetes.io/admin-access";

/// Runs the checks among the last of the validating plugins. They are part of what claims are, so no flag turns them
/// off.
pub struct DeviceAccess {
    authorizer: Arc<Authorizer>,
    objects: Arc<dyn ObjectLookup>,
}

impl DeviceAccess {
    pub fn new(authorizer: Arc<Authorizer>, objects: Arc<dyn ObjectLookup>) -> Self {
        Self { authorizer, objects }
    }

    /// Admin access has to be allowed by a label of the namespace.
    async fn admin(&self, namespace: &str, at: Option<Path>, errors: &mut ErrorList) -> ApiResult<()> {
        let Some(at) = at else { return Ok(()) };
        let labels = self.objects.labels(lookup::NAMESPACES, "", namespace).await?;
        if labels.is_none_or(|l| l.get(ADMIN_LABEL) != Some("true")) {
            let why = format!(
                "admin access to devices requires the `{ADMIN_LABEL}: true` label on the containing namespace"
            );
            errors.push(Error::forbidden(&at, why));
        }
        Ok(())
    }

    /// Why none of these verbs is allowed on a virtual subresource of claims; None: one is.
    async fn refused(
        &self,
        user: &UserInfo,
        verbs: &[String],
        subresource: &str,
        (namespace, name): (&str, &str),
    ) -> Option<ApiError> {
        let mut first = None;
        for verb in verbs {
            let mut ask = super::Attributes::resource(user, verb, GROUP, CLAIMS, name);
            (ask.subresource, ask.namespace) = (subresource, namespace);
            let decision = self.authorizer.authorize(&ask).await;
            if decision.is_allowed() {
                return None;
            }
            first.get_or_insert_with(|| forbidden(&ask, decision.reason()));
        }
        first
    }

    async fn status(&self, attrs: &Attributes<'_>, old: &Value, new: &Value) -> ApiResult<ErrorList> {
        let mut errors = ErrorList::new();
        let (before, after) = (&old["status"], &new["status"]);
        if granted(before).is_none() {
            self.admin(attrs.namespace, granted(after), &mut errors).await?;
        }
        let verb = match attrs.options {
            RequestOptions::Write(_, WriteKind::Patch { .. }) => "patch",
            _ => "update",
        };
        let path = Path::new("status");
        let held = |s: &Value| json!({"allocation": s["allocation"], "reservedFor": s["reservedFor"]});
        if !same(&held(before), &held(after))
            && let Some(e) = self.refused(attrs.user, &[verb.to_owned()], "binding", ("", "")).await
        {
            let why = format!(
                "changing status.allocation or status.reservedFor requires resource=\"resourceclaims/binding\", verb=\"{verb}\" permission: {}",
                e.message
            );
            errors.push(Error::forbidden(&path.child("allocation"), why));
        }
        // What is said of devices goes with the allocation.
        if after.get("allocation").is_none_or(Value::is_null) {
            return Ok(errors);
        }
        let mut verbs = vec![format!("arbitrary-node:{verb}")];
        if node_of(after).is_some_and(|node| service_account::is_on_node(attrs.user, node)) {
            verbs.insert(0, format!("associated-node:{verb}"));
        }
        for driver in told_of(before, after) {
            if let Some(e) = self.refused(attrs.user, &verbs, "driver", (attrs.namespace, driver)).await {
                let why = format!(
                    "changing status.devices requires resource=\"resourceclaims/driver\", verb=\"[{}]\" permission: {}",
                    verbs.join(" "),
                    e.message
                );
                errors.push(Error::forbidden(&path.child("devices"), why));
            }
        }
        Ok(errors)
    }
}

#[async_trait]
impl Plugin for DeviceAccess {
    fn name(&self) -> &'static str {
        "DeviceAccess"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| attrs.group == GROUP) else { return Ok(()) };
        let mut errors = ErrorList::new();
        let spec = Path::new("spec");
        match (attrs.resource, attrs.subresource, attrs.operation) {
            (CLAIMS, "", Operation::Create) => {
                self.admin(attrs.namespace, asked(&object["spec"], &spec), &mut errors).await?;
            }
            ("resourceclaimtemplates", "", Operation::Create) => {
                // Upstream tells of the path in the claim.
                let at = asked(&object["spec"]["spec"], &spec);
                self.admin(attrs.namespace, at, &mut errors).await?;
            }
            (CLAIMS, "status", Operation::Update) => {
                let Some(old) = attrs.old else { return Ok(()) };
                errors = self.status(attrs, old, object).await?;
            }
            _ => return Ok(()),
        }
        if errors.is_empty() {
            Ok(())
        } else {
            Err(ApiError::invalid(GROUP, attrs.kind, attrs.name, &errors))
        }
    }
}

/// The first request of a claim's spec that asks for admin access.
fn asked(spec: &Value, path: &Path) -> Option<Path> {
    let at = items(spec, "/devices/requests").iter().position(|r| r["exactly"]["adminAccess"] == true)?;
    Some(path.child("devices").child("requests").index(at).child("adminAccess"))
}

/// The first device of a claim's status that was allocated with admin access.
fn granted(status: &Value) -> Option<Path> {
    let at = items(status, "/allocation/devices/results").iter().position(|r| r["adminAccess"] == true)?;
    let results = Path::new("status").child("allocation").child("devices").child("results");
    Some(results.index(at).child("adminAccess"))
}

/// The drivers of devices of which something new is said.
fn told_of<'v>(before: &'v Value, after: &'v Value) -> BTreeSet<&'v str> {
    let (before, after) = (items(before, "/devices"), items(after, "/devices"));
    let is = |a: &Value, b: &Value| ["driver", "pool", "device", "shareID"].iter().all(|f| a[f] == b[f]);
    let new = after.iter().filter(|d| !before.contains(d));
    let gone = before.iter().filter(|o| !after.iter().any(|d| is(d, o)));
    new.chain(gone).map(|d| text(d, "/driver")).collect()
}

/// The node that an allocation is tied to by name.
fn node_of(status: &Value) -> Option<&str> {
    let selector = status.pointer("/allocation/nodeSelector")?;
    let [term] = selector["nodeSelectorTerms"].as_array()?.as_slice() else { return None };
    let [field] = term["matchFields"].as_array()?.as_slice() else { return None };
    let [name] = field["values"].as_array()?.as_slice() else { return None };
    let by_name = items(term, "/matchExpressions").is_empty()
        && text(field, "/key") == "metadata.name"
        && text(field, "/operator") == "In";
    name.as_str().filter(|name| by_name && !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};
    use crate::authz::rbac::Kind;

    const TEMPLATES: lookup::Resource =
        lookup::Resource { resource: "resourceclaimtemplates", ..lookup::RESOURCE_CLAIMS };

    /// A user may do `verb` to `resource`.
    fn grant(a: &Authorizer, user: &str, verb: &str, resource: &str) {
        let name = format!("{user}-{verb}-{resource}");
        let rules = json!([{"verbs": [verb], "apiGroups": [GROUP], "resources": [resource]}]);
        a.rbac().upsert(Kind::ClusterRole, &json!({"metadata": {"name": name}, "rules": rules}));
        let binding = json!({"metadata": {"name": name}, "roleRef": {"kind": "ClusterRole", "name": name},
            "subjects": [{"kind": "User", "name": user}]});
        a.rbac().upsert(Kind::ClusterRoleBinding, &binding);
    }

    fn plugin() -> DeviceAccess {
        let namespace = |name: &str, labels: Value| {
            (lookup::NAMESPACES, json!({"metadata": {"name": name, "labels": labels}}))
        };
        let (env, _) =
            environment([namespace("plain", json!({})), namespace("admin", json!({ADMIN_LABEL: "true"}))]);
        grant(&env.authorizer, "scheduler", "update", "resourceclaims/binding");
        grant(&env.authorizer, "driver", "arbitrary-node:update", "resourceclaims/driver");
        let agent = "system:serviceaccount:kube-system:agent";
        grant(&env.authorizer, agent, "associated-node:update", "resourceclaims/driver");
        DeviceAccess::new(env.authorizer.clone(), env.objects)
    }

    async fn run(w: &Write<'_>, object: Value) -> Result<(), String> {
        plugin().validate(&w.attributes(), Some(&object)).await.map_err(|e| {
            assert_eq!((e.code, e.reason), (422, "Invalid"));
            e.message
        })
    }

    #[tokio::test]
    async fn admin_access_is_for_marked_namespaces() {
        let claim = json!({"devices": {"requests": [{"name": "a", "exactly": {}},
            {"name": "b", "exactly": {"adminAccess": true}}]}});
        for (kind, spec) in [(lookup::RESOURCE_CLAIMS, claim.clone()), (TEMPLATES, json!({"spec": claim}))] {
            let object = json!({"metadata": {"name": "c"}, "spec": spec});
            assert_eq!(run(&Write::create(kind, "admin"), object.clone()).await, Ok(()));
            let refused = run(&Write::create(kind, "plain"), object).await.unwrap_err();
            let at = "spec.devices.requests[1].adminAccess: Forbidden: admin access to devices requires the \
                      `resource.kubernetes.io/admin-access: true` label on the containing namespace";
            assert!(refused.ends_with(at), "{refused}");
        }
        let plain = json!({"spec": {"devices": {"requests": [{"name": "a", "exactly": {}}]}}});
        assert_eq!(run(&Write::create(lookup::RESOURCE_CLAIMS, "plain"), plain).await, Ok(()));
    }

    fn allocated(extra: Value) -> Value {
        let mut status = json!({"allocation": {
            "devices": {"results": [{"request": "r", "driver": "d", "pool": "p", "device": "x"}]},
            "nodeSelector": {"nodeSelectorTerms": [{"matchFields":
                [{"key": "metadata.name", "operator": "In", "values": ["n1"]}]}]}}});
        for (k, v) in extra.as_object().unwrap() {
            status[k] = v.clone();
        }
        json!({"metadata": {"name": "c"}, "status": status})
    }

    async fn change(user: UserInfo, old: Value, new: Value) -> Result<(), String> {
        let w = Write {
            user,
            subresource: "status",
            name: "c",
            operation: Operation::Update,
            old: Some(old),
            ..Write::create(lookup::RESOURCE_CLAIMS, "plain")
        };
        run(&w, new).await
    }

    fn user(name: &str) -> UserInfo {
        UserInfo { name: name.to_owned(), ..UserInfo::default() }
    }

    #[tokio::test]
    async fn who_binds_a_claim_may_allocate_it() {
        let free = json!({"metadata": {"name": "c"}, "status": {}});
        let with = |l: Value| allocated(json!({"reservedFor": l}));
        let pods = json!([{"resource": "pods", "name": "p", "uid": "u"}]);
        for (old, new) in [(free.clone(), with(json!([]))), (with(json!([])), with(pods))] {
            assert_eq!(change(user("scheduler"), old.clone(), new.clone()).await, Ok(()));
            let refused = change(user("driver"), old, new).await.unwrap_err();
            assert!(
                refused.contains(
                    "status.allocation: Forbidden: changing status.allocation or status.reservedFor requires \
                     resource=\"resourceclaims/binding\", verb=\"update\" permission: \
                     resourceclaims.resource.k8s.io is forbidden: User \"driver\" cannot update resource \
                     \"resourceclaims/binding\" in API group \"resource.k8s.io\" at the cluster scope"
                ),
                "{refused}"
            );
        }
        let same = change(user("anybody"), with(json!([])), with(Value::Null)).await;
        assert_eq!(same, Ok(()), "nothing of it changed");
    }

    #[tokio::test]
    async fn allocations_with_admin_access_need_the_label_too() {
        let mut new = allocated(json!({}));
        new["status"]["allocation"]["devices"]["results"][0]["adminAccess"] = json!(true);
        let refused = change(user("scheduler"), json!({"status": {}}), new).await.unwrap_err();
        assert!(refused.contains("status.allocation.devices.results[0].adminAccess: Forbidden"), "{refused}");
    }

    #[tokio::test]
    async fn drivers_tell_of_their_devices() {
        let agent_on = |node: &str| UserInfo {
            extra: [(service_account::NODE_NAME.to_owned(), vec![node.to_owned()])].into(),
            ..user("system:serviceaccount:kube-system:agent")
        };
        let told = |data: &str| {
            allocated(json!({"devices": [{"driver": "d", "pool": "p", "device": "x", "data": data}]}))
        };
        let silent = || allocated(json!({}));
        for (old, new) in [(silent(), told("1")), (told("1"), told("2")), (told("1"), silent())] {
            for may in [user("driver"), agent_on("n1")] {
                assert_eq!(change(may, old.clone(), new.clone()).await, Ok(()));
            }
            let elsewhere = change(agent_on("n2"), old.clone(), new.clone()).await.unwrap_err();
            assert!(elsewhere.contains("verb=\"[arbitrary-node:update]\""), "{elsewhere}");
            let refused = change(user("scheduler"), old, new).await.unwrap_err();
            assert!(
                refused.contains(
                    "status.devices: Forbidden: changing status.devices requires \
                     resource=\"resourceclaims/driver\", verb=\"[arbitrary-node:update]\" permission: \
                     resourceclaims.resource.k8s.io \"d\" is forbidden: User \"scheduler\" cannot \
                     arbitrary-node:update resource \"resourceclaims/driver\" in API group \"resource.k8s.io\" \
                     in the namespace \"plain\""
                ),
                "{refused}"
            );
        }
    }
}
