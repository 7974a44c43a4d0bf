//! `NodeRestriction`: what the Node authorizer cannot see. A kubelet writes its own node, its own pods and their
//! status, and asks only for tokens of pods that run on it.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::admission::plugins::certificates::common_name;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::authz::graph::{config_map_names, secret_names};
use crate::authz::node::node_name;
use crate::authz::{self, Authorizer};
use crate::kinds::podspec::validate::MIRROR;
use crate::lookup::{self, ObjectLookup, Resource, items, text};
use crate::status::{ApiError, ApiResult};

const LEASE_NAMESPACE: &str = "kube-node-lease";
const CSI_DRIVERS: Resource =
    Resource { group: "storage.k8s.io", version: "v1", resource: "csidrivers", kind: "CSIDriver" };
/// Labels below `kubernetes.io` and `k8s.io` that a kubelet sets on its node.
const KUBELET_LABELS: [&str; 13] = [
    "kubernetes.io/hostname",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "beta.kubernetes.io/instance-type",
    "node.kubernetes.io/instance-type",
    "kubernetes.io/os",
    "kubernetes.io/arch",
    "beta.kubernetes.io/os",
    "beta.kubernetes.io/arch",
    "node.kubernetes.io/windows-build",
    "node.kubernetes.io/exclude-from-external-load-balancers",
];
const KUBELET_LABEL_NAMESPACES: [&str; 2] = ["kubelet.kubernetes.io", "node.kubernetes.io"];
const KUBELET_SIGNERS: [&str; 2] =
    ["kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"];

struct NodeRestriction {
    objects: Arc<dyn ObjectLookup>,
    authorizer: Arc<Authorizer>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(NodeRestriction { objects: env.objects.clone(), authorizer: env.authorizer.clone() })
}

/// One write by one node.
struct Write<'a> {
    node: &'a str,
    attrs: &'a Attributes<'a>,
    object: Option<&'a Value>,
}

impl Write<'_> {
    fn refuse(&self, message: impl AsRef<str>) -> ApiResult<()> {
        Err(self.attrs.forbidden(self.object, message))
    }

    fn object(&self) -> &Value {
        self.object.unwrap_or(&Value::Null)
    }

    fn old(&self) -> &Value {
        self.attrs.old.unwrap_or(&Value::Null)
    }
}

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(node) = node_name(attrs.user) else { return Ok(()) };
        if attrs.operation == Operation::Connect {
            return Ok(());
        }
        let w = Write { node, attrs, object: object.as_deref() };
        if node.is_empty() {
            return w
                .refuse(format!("could not determine node from user {}", authz::quoted(&attrs.user.name)));
        }
        match (attrs.group, attrs.resource, attrs.subresource) {
            ("", "pods", "") => self.pod(&w).await,
            ("", "pods", "status") => pod_status(&w),
            ("", "pods", "eviction") => self.eviction(&w).await,
            ("", "pods", other) => {
                let other = authz::quoted(other);
                w.refuse(format!(
                    "unexpected pod subresource {other}, only 'status' and 'eviction' are allowed"
                ))
            }
            ("", "nodes", _) => node_object(&w),
            ("", "persistentvolumeclaims", "status") => claim_status(&w),
            ("", "persistentvolumeclaims", _) => w.refuse("may only update PVC status"),
            ("", "serviceaccounts", "token") => self.token(&w).await,
            ("coordination.k8s.io", "leases", _) => lease(&w),
            ("storage.k8s.io", "csinodes", _) => csi_node(&w),
            ("resource.k8s.io", "resourceslices", _) => slice(&w),
            ("certificates.k8s.io", "certificatesigningrequests", _) => signing_request(&w),
            _ => Ok(()),
        }
    }
}

impl NodeRestriction {
    async fn pod(&self, w: &Write<'_>) -> ApiResult<()> {
        let node = authz::quoted(w.node);
        match w.attrs.operation {
            Operation::Create => self.mirror_pod(w).await,
            Operation::Delete => {
                let pod = self.existing_pod(w, w.attrs.name).await?;
                if text(&pod, "/spec/nodeName") != w.node {
                    return w.refuse(format!(
                        "node {node} can only delete pods with spec.nodeName set to itself"
                    ));
                }
                Ok(())
            }
            _ => w.refuse(format!(
                "unexpected operation \"UPDATE\", node {node} can only create and delete mirror pods"
            )),
        }
    }

    async fn existing_pod(&self, w: &Write<'_>, name: &str) -> ApiResult<Arc<Value>> {
        self.objects
            .get(lookup::PODS, w.attrs.namespace, name)
            .await?
            .ok_or_else(|| ApiError::not_found("", "pods", name))
    }

    async fn mirror_pod(&self, w: &Write<'_>) -> ApiResult<()> {
        let (pod, node) = (w.object(), authz::quoted(w.node));
        if pod["metadata"]["annotations"].get(MIRROR).is_none() {
            return w.refuse(format!(
                "pod does not have \"{MIRROR}\" annotation, node {node} can only create mirror pods"
            ));
        }
        if text(pod, "/spec/nodeName") != w.node {
            return w.refuse(format!("node {node} can only create pods with spec.nodeName set to itself"));
        }
        let owner = match items(pod, "/metadata/ownerReferences") {
            [] => {
                return w.refuse(format!(
                    "node {node} can only create pods with an owner reference set to itself"
                ));
            }
            [one] => one,
            _ => {
                return w.refuse(format!(
                    "node {node} can only create pods with a single owner reference set to itself"
                ));
            }
        };
        if text(owner, "/apiVersion") != "v1"
            || text(owner, "/kind") != "Node"
            || text(owner, "/name") != w.node
        {
            return w
                .refuse(format!("node {node} can only create pods with an owner reference set to itself"));
        }
        if owner["controller"].as_bool() != Some(true) {
            return w.refuse(format!(
                "node {node} can only create pods with a controller owner reference set to itself"
            ));
        }
        if owner["blockOwnerDeletion"].as_bool() == Some(true) {
            return w.refuse(format!("node {node} must not set blockOwnerDeletion on an owner reference"));
        }
        let Some(object) = self.objects.get(lookup::NODES, "", w.node).await? else {
            return Err(ApiError::not_found("", "nodes", w.node));
        };
        let (sent, stored) = (text(owner, "/uid"), text(&object, "/metadata/uid"));
        if sent != stored {
            return w.refuse(format!("node {} UID mismatch: expected {sent} got {stored}", w.node));
        }
        match references(pod) {
            Some(what) => w.refuse(format!("node {node} can not create pods that reference {what}")),
            None => Ok(()),
        }
    }

    async fn eviction(&self, w: &Write<'_>) -> ApiResult<()> {
        if w.attrs.operation != Operation::Create {
            return w.refuse("unexpected operation UPDATE");
        }
        let name = w.attrs.object_name(w.object);
        if name.is_empty() {
            return w.refuse("could not determine pod from request data");
        }
        let pod = self.existing_pod(w, name).await?;
        if text(&pod, "/spec/nodeName") != w.node {
            return w.refuse(format!("node {} can only evict pods with spec.nodeName set to itself", w.node));
        }
        Ok(())
    }

    async fn token(&self, w: &Write<'_>) -> ApiResult<()> {
        if w.attrs.operation != Operation::Create {
            return Ok(());
        }
        let reference = &w.object()["spec"]["boundObjectRef"];
        let name = text(reference, "/name");
        if text(reference, "/apiVersion") != "v1" || text(reference, "/kind") != "Pod" || name.is_empty() {
            return w.refuse("node requested token not bound to a pod");
        }
        let uid = text(reference, "/uid");
        if uid.is_empty() {
            return w.refuse("node requested token with a pod binding without a uid");
        }
        let pod = self.existing_pod(w, name).await?;
        if uid != text(&pod, "/metadata/uid") {
            return w.refuse(format!(
                "the UID in the bound object reference ({uid}) does not match the UID in record. The object might have been deleted and then recreated"
            ));
        }
        if text(&pod, "/spec/nodeName") != w.node {
            return w.refuse("node requested token bound to a pod scheduled on a different node");
        }
        let audience = match items(w.object(), "/spec/audiences") {
            [] => "",
            [one] => one.as_str().unwrap_or_default(),
            _ => return w.refuse("node may only request 0 or 1 audiences"),
        };
        if self.pod_has_audience(&pod, audience).await? {
            return Ok(());
        }
        let mut ask = authz::Attributes::resource(
            w.attrs.user,
            "request-serviceaccounts-token-audience",
            "",
            audience,
            w.attrs.name,
        );
        ask.namespace = w.attrs.namespace;
        ask.api_version = "v1";
        if self.authorizer.authorize(&ask).await.is_allowed() {
            return Ok(());
        }
        w.refuse(format!(
            "audience {} not found in pod spec volume, {} is not authorized to request tokens for this audience",
            authz::quoted(audience),
            w.attrs.user.name
        ))
    }

    /// Whether a volume of the pod asks for tokens of this audience, itself or through its CSI driver.
    async fn pod_has_audience(&self, pod: &Value, audience: &str) -> ApiResult<bool> {
        let (namespace, pod_name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        for v in items(pod, "/spec/volumes") {
            let projected = items(v, "/projected/sources").iter().any(|s| {
                s.get("serviceAccountToken").is_some_and(|t| !t.is_null() && text(t, "/audience") == audience)
            });
            if projected {
                return Ok(true);
            }
            let driver = if v.get("ephemeral").is_some_and(|e| !e.is_null()) {
                self.claim_driver(namespace, &format!("{pod_name}-{}", text(v, "/name"))).await?
            } else if !text(v, "/persistentVolumeClaim/claimName").is_empty() {
                self.claim_driver(namespace, text(v, "/persistentVolumeClaim/claimName")).await?
            } else {
                text(v, "/csi/driver").to_owned()
            };
            if driver.is_empty() {
                continue;
            }
            let driver = self.objects.get(CSI_DRIVERS, "", &driver).await?;
            if driver.is_some_and(|d| {
                items(&d, "/spec/tokenRequests").iter().any(|t| text(t, "/audience") == audience)
            }) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn claim_driver(&self, namespace: &str, claim: &str) -> ApiResult<String> {
        let Some(pvc) = self.objects.get(lookup::PERSISTENT_VOLUME_CLAIMS, namespace, claim).await? else {
            return Ok(String::new());
        };
        let pv = self.objects.get(lookup::PERSISTENT_VOLUMES, "", text(&pvc, "/spec/volumeName")).await?;
        Ok(pv.map(|p| text(&p, "/spec/csi/driver").to_owned()).unwrap_or_default())
    }
}

/// The first API object that a pod refers to, as mirror pods must not.
fn references(pod: &Value) -> Option<&'static str> {
    let set = |v: &Value, field: &str| v.get(field).is_some_and(|x| !x.is_null());
    if !text(pod, "/spec/serviceAccountName").is_empty() {
        return Some("serviceaccounts");
    }
    if !secret_names(pod).is_empty() {
        return Some("secrets");
    }
    if !config_map_names(pod).is_empty() {
        return Some("configmaps");
    }
    if !items(pod, "/spec/resourceClaims").is_empty() {
        return Some("resourceclaims");
    }
    for v in items(pod, "/spec/volumes") {
        for (field, what) in [
            ("configMap", "configmaps (via configmap volumes)"),
            ("secret", "secrets (via secret volumes)"),
            ("csi", "csidrivers (via CSI volumes)"),
            ("glusterfs", "endpoints (via glusterFS volumes)"),
            ("persistentVolumeClaim", "persistentvolumeclaims"),
            ("ephemeral", "persistentvolumeclaims (via ephemeral volumes)"),
            ("azureFile", "secrets (via azureFile volumes)"),
        ] {
            if set(v, field) {
                return Some(what);
            }
        }
        for s in items(v, "/projected/sources") {
            for (field, what) in [
                ("configMap", "configmaps (via projected volumes)"),
                ("secret", "secrets (via projected volumes)"),
                ("serviceAccountToken", "serviceaccounts (via projected volumes)"),
                ("clusterTrustBundle", "clustertrustbundles"),
                ("podCertificate", "podcertificates"),
            ] {
                if set(s, field) {
                    return Some(what);
                }
            }
        }
    }
    None
}

/// Two optional fields, an empty one as good as none.
fn same(a: &Value, b: &Value) -> bool {
    let empty = |v: &Value| match v {
        Value::Null => true,
        Value::Array(a) => a.is_empty(),
        Value::Object(o) => o.is_empty(),
        _ => false,
    };
    a == b || (empty(a) && empty(b))
}

fn pod_status(w: &Write<'_>) -> ApiResult<()> {
    if w.attrs.operation != Operation::Update {
        return w.refuse("unexpected operation \"CREATE\"");
    }
    let (old, new, node) = (w.old(), w.object(), authz::quoted(w.node));
    if text(old, "/spec/nodeName") != w.node {
        return w.refuse(format!(
            "node {node} can only update pod status for pods with spec.nodeName set to itself"
        ));
    }
    if !same(&old["metadata"]["labels"], &new["metadata"]["labels"]) {
        return w.refuse(format!("node {node} cannot update labels through pod status"));
    }
    if !same(&old["status"]["resourceClaimStatuses"], &new["status"]["resourceClaimStatuses"]) {
        return w.refuse(format!("node {node} cannot update resource claim statues"));
    }
    if !same(&old["status"]["extendedResourceClaimStatus"], &new["status"]["extendedResourceClaimStatus"]) {
        return w.refuse(format!("node {node} cannot update extended resource claim status"));
    }
    Ok(())
}

fn claim_status(w: &Write<'_>) -> ApiResult<()> {
    if w.attrs.operation != Operation::Update {
        return w.refuse("unexpected operation \"CREATE\"");
    }
    let rest = |o: &Value| {
        let mut o = o.clone();
        for (at, fields) in [
            ("/metadata", &["resourceVersion", "managedFields"][..]),
            ("/status", &["capacity", "conditions", "allocatedResourceStatuses", "allocatedResources"][..]),
        ] {
            if let Some(m) = o.pointer_mut(at).and_then(Value::as_object_mut) {
                m.retain(|k, _| !fields.contains(&k.as_str()));
            }
        }
        o
    };
    if rest(w.old()) == rest(w.object()) {
        return Ok(());
    }
    w.refuse(format!(
        "node {} is not allowed to update fields other than status.quantity and status.conditions",
        authz::quoted(w.node)
    ))
}

fn node_object(w: &Write<'_>) -> ApiResult<()> {
    let (node, name) = (authz::quoted(w.node), w.attrs.object_name(w.object));
    if name != w.node {
        return w.refuse(format!("node {node} is not allowed to modify node {}", authz::quoted(name)));
    }
    let (old, new) = (w.old(), w.object());
    match w.attrs.operation {
        Operation::Create => {
            if !same(&new["spec"]["configSource"], &Value::Null) {
                return w.refuse(format!(
                    "node {node} is not allowed to create pods with a non-nil configSource"
                ));
            }
            let bad = forbidden_labels(&Value::Null, new);
            if !bad.is_empty() {
                return w.refuse(format!(
                    "node {node} is not allowed to set the following labels: {}",
                    bad.join(", ")
                ));
            }
        }
        Operation::Update => {
            let source = &new["spec"]["configSource"];
            if !source.is_null() && *source != old["spec"]["configSource"] {
                return w.refuse(format!(
                    "node {node} is not allowed to update configSource to a new non-nil configSource"
                ));
            }
            if !same(&old["spec"]["taints"], &new["spec"]["taints"]) {
                return w.refuse(format!("node {node} is not allowed to modify taints"));
            }
            if !same(&old["metadata"]["ownerReferences"], &new["metadata"]["ownerReferences"]) {
                return w.refuse(format!("node {node} is not allowed to modify ownerReferences"));
            }
            let bad = forbidden_labels(old, new);
            if !bad.is_empty() {
                return w.refuse(format!("is not allowed to modify labels: {}", bad.join(", ")));
            }
        }
        Operation::Delete | Operation::Connect => {}
    }
    Ok(())
}

/// Changed labels that are not a kubelet's to change.
fn forbidden_labels(old: &Value, new: &Value) -> Vec<String> {
    let labels =
        |o: &Value| o.pointer("/metadata/labels").and_then(Value::as_object).cloned().unwrap_or_default();
    let (old, new) = (labels(old), labels(new));
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    keys.into_iter().filter(|k| old.get(*k) != new.get(*k) && !kubelet_may_label(k)).cloned().collect()
}

fn kubelet_may_label(key: &str) -> bool {
    let Some((namespace, _)) = key.split_once('/') else { return true };
    let within = |n: &str| namespace == n || namespace.strip_suffix(n).is_some_and(|p| p.ends_with('.'));
    if within("node-restriction.kubernetes.io") {
        return false;
    }
    if !within("kubernetes.io") && !within("k8s.io") {
        return true;
    }
    KUBELET_LABELS.contains(&key) || KUBELET_LABEL_NAMESPACES.iter().any(|n| within(n))
}

fn lease(w: &Write<'_>) -> ApiResult<()> {
    if w.attrs.namespace != LEASE_NAMESPACE {
        return w.refuse(format!("can only access leases in the \"{LEASE_NAMESPACE}\" system namespace"));
    }
    if w.attrs.object_name(w.object) != w.node {
        return w.refuse("can only access node lease with the same name as the requesting node");
    }
    Ok(())
}

fn csi_node(w: &Write<'_>) -> ApiResult<()> {
    if w.attrs.object_name(w.object) != w.node {
        return w.refuse("can only access CSINode with the same name as the requesting node");
    }
    Ok(())
}

fn slice(w: &Write<'_>) -> ApiResult<()> {
    let (object, verb) = match w.attrs.operation {
        Operation::Create => (w.object(), "create"),
        Operation::Delete => (w.old(), "delete"),
        _ => return Ok(()),
    };
    if text(object, "/spec/nodeName") != w.node {
        return w
            .refuse(format!("can only {verb} ResourceSlice with the same NodeName as the requesting node"));
    }
    Ok(())
}

fn signing_request(w: &Write<'_>) -> ApiResult<()> {
    let csr = w.object();
    if w.attrs.operation != Operation::Create || !KUBELET_SIGNERS.contains(&text(csr, "/spec/signerName")) {
        return Ok(());
    }
    let want = format!("system:node:{}", w.node);
    let pem = STANDARD.decode(text(csr, "/spec/request")).unwrap_or_default();
    match common_name(&pem) {
        Err(e) => w.refuse(format!("unable to parse csr: {e}")),
        Ok(cn) if cn != want => w.refuse(format!("can only create a node CSR with CN={want}")),
        Ok(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests;
