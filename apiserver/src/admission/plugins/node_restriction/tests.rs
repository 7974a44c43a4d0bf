use super::*;
use crate::admission::plugins::testing::{self, environment};
use crate::request::UserInfo;
use serde_json::json;

fn env() -> Arc<dyn Plugin> {
    let pod = |name: &str, node: &str| {
        (
            lookup::PODS,
            json!({"metadata":{"name":name,"namespace":"ns","uid":"u1"},"spec":{"nodeName":node,
                "volumes":[{"projected":{"sources":[{"serviceAccountToken":{"audience":"vault"}}]}}]}}),
        )
    };
    let node = (lookup::NODES, json!({"metadata":{"name":"n1","uid":"n1-uid"}}));
    build(&environment([pod("mine", "n1"), pod("other", "n2"), node]).0)
}

fn write<'a>(
    resource: Resource,
    sub: &'a str,
    name: &'a str,
    op: Operation,
    old: Option<Value>,
) -> testing::Write<'a> {
    let user = UserInfo {
        name: "system:node:n1".into(),
        groups: vec!["system:nodes".into()],
        ..UserInfo::default()
    };
    let mut w = testing::Write::create(resource, "ns");
    (w.user, w.subresource, w.name, w.operation, w.old) = (user, sub, name, op, old);
    w
}

async fn message(w: testing::Write<'_>, object: Option<Value>) -> String {
    match w.run(&*env(), object).await {
        Ok(_) => "ok".to_owned(),
        Err(e) => e.message,
    }
}

#[tokio::test]
async fn pods() {
    use Operation::{Create, Delete, Update};
    let del = async |name| message(write(lookup::PODS, "", name, Delete, None), None).await;
    assert_eq!(del("mine").await, "ok");
    assert!(
        del("other").await.ends_with("node \"n1\" can only delete pods with spec.nodeName set to itself")
    );
    assert_eq!(del("gone").await, "pods \"gone\" not found");
    let status = async |node: &str, label: &str| {
        let old = json!({"metadata":{"labels":{"a":"b"}},"spec":{"nodeName":node}});
        let new =
            json!({"metadata":{"labels":{"a":label}},"spec":{"nodeName":node},"status":{"phase":"Running"}});
        message(write(lookup::PODS, "status", "mine", Update, Some(old)), Some(new)).await
    };
    assert_eq!(status("n1", "b").await, "ok");
    assert!(status("n1", "c").await.ends_with("cannot update labels through pod status"));
    assert!(status("n2", "b").await.contains("can only update pod status for pods with"));
    let mirror = |patch: Value| {
        let mut p = json!({"metadata":{"name":"m","annotations":{MIRROR:"x"},"ownerReferences":[
            {"apiVersion":"v1","kind":"Node","name":"n1","uid":"n1-uid","controller":true}]},
            "spec":{"nodeName":"n1","volumes":[{"hostPath":{}}]}});
        json_patch::merge(&mut p, &patch);
        Some(p)
    };
    let create = async |patch| message(write(lookup::PODS, "", "", Create, None), mirror(patch)).await;
    assert_eq!(create(json!({})).await, "ok");
    for (patch, want) in [
        (json!({"metadata":{"annotations":null}}), "can only create mirror pods"),
        (json!({"spec":{"nodeName":"n2"}}), "can only create pods with spec.nodeName set to itself"),
        (json!({"metadata":{"ownerReferences":[]}}), "with an owner reference set to itself"),
        (json!({"spec":{"serviceAccountName":"x"}}), "can not create pods that reference serviceaccounts"),
        (json!({"spec":{"volumes":[{"csi":{}}]}}), "reference csidrivers (via CSI volumes)"),
    ] {
        let got = create(patch).await;
        assert!(got.ends_with(want), "{got}");
    }
    let exec = message(write(lookup::PODS, "binding", "mine", Create, None), Some(json!({}))).await;
    assert!(exec.contains("unexpected pod subresource \"binding\""));
}

#[tokio::test]
async fn nodes() {
    use Operation::{Create, Update};
    let labels = |l: Value| json!({"metadata":{"name":"n1","labels":l}});
    let create = async |l| message(write(lookup::NODES, "", "", Create, None), Some(labels(l))).await;
    assert_eq!(
        create(json!({"kubernetes.io/hostname":"n1","team":"a","x.kubelet.kubernetes.io/y":"z"})).await,
        "ok"
    );
    assert!(
        create(json!({"node-role.kubernetes.io/control-plane":"","node-restriction.kubernetes.io/x":""}))
            .await
            .ends_with("not allowed to set the following labels: node-restriction.kubernetes.io/x, node-role.kubernetes.io/control-plane")
    );
    let update = async |old: Value, new: Value| {
        message(write(lookup::NODES, "", "n1", Update, Some(old)), Some(new)).await
    };
    let role = labels(json!({"node-role.kubernetes.io/worker":""}));
    assert_eq!(update(role.clone(), role.clone()).await, "ok");
    assert!(
        update(role, labels(json!({})))
            .await
            .ends_with("is not allowed to modify labels: node-role.kubernetes.io/worker")
    );
    let tainted = json!({"metadata":{"name":"n1"},"spec":{"taints":[{"key":"a"}]}});
    assert!(update(tainted, labels(json!({}))).await.ends_with("is not allowed to modify taints"));
    let other = message(write(lookup::NODES, "status", "n2", Update, Some(json!({}))), Some(json!({}))).await;
    assert!(other.ends_with("node \"n1\" is not allowed to modify node \"n2\""));
}

#[tokio::test]
async fn tokens_and_leases() {
    let token = async |pod: &str, uid: &str, audiences: Value| {
        let r = json!({"spec":{"audiences":audiences,"boundObjectRef":{"apiVersion":"v1","kind":"Pod","name":pod,"uid":uid}}});
        message(write(lookup::SERVICE_ACCOUNTS, "token", "sa", Operation::Create, None), Some(r)).await
    };
    assert_eq!(token("mine", "u1", json!(["vault"])).await, "ok");
    assert!(token("mine", "", json!(["vault"])).await.ends_with("with a pod binding without a uid"));
    assert!(token("mine", "u2", json!(["vault"])).await.contains("does not match the UID in record"));
    assert!(token("other", "u1", json!(["vault"])).await.ends_with("scheduled on a different node"));
    assert!(
        token("mine", "u1", json!(["else"])).await.contains("audience \"else\" not found in pod spec volume")
    );
    let leases = Resource { group: "coordination.k8s.io", version: "v1", resource: "leases", kind: "Lease" };
    let mut w = write(leases, "", "n1", Operation::Update, None);
    w.namespace = LEASE_NAMESPACE;
    assert_eq!(message(w, Some(json!({}))).await, "ok");
    let mut w = write(leases, "", "", Operation::Create, None);
    w.namespace = LEASE_NAMESPACE;
    assert!(message(w, Some(json!({"metadata":{"name":"n2"}}))).await.ends_with("as the requesting node"));
}

#[tokio::test]
async fn others_pass() {
    let mut w = write(lookup::NODES, "", "n2", Operation::Update, Some(json!({})));
    w.user.groups.clear();
    assert_eq!(message(w, Some(json!({}))).await, "ok");
}
