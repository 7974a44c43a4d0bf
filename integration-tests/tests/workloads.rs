//! Deployments, replica sets, garbage collection, namespaces and scheduling, end to end.

use integration_tests::{Config, TestCluster, eventually};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 3
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: web, image: "busybox:1.35", command: [sh, -c, "trap exit TERM; while :; do sleep 1 & wait $!; done"], env: [{name: V, value: "1"}]}
"#;

#[test]
fn a_deployment_rolls_out_back_and_away() {
    let c = TestCluster::start();
    c.create(WEB);
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    let first = c.field("deployment/web", "{.metadata.uid}");
    assert_eq!(c.field("deployment/web", "{.status.readyReplicas}"), "3");

    c.ctl(&["set", "env", "deployment/web", "V=2"]).ok();
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    let history = c.ctl(&["rollout", "history", "deployment", "web"]).ok();
    assert!(history.contains("\n1 ") && history.contains("\n2 "), "{history}");
    let same = c.kubectl("1.36", &["rollout", "history", "deployment", "web"], None).ok();
    assert!(same.contains("\n1 ") && same.contains("\n2 "), "{same}");

    c.ctl(&["rollout", "undo", "deployment", "web"]).ok();
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    assert_eq!(c.field("deployment/web", "{.spec.template.spec.containers[0].env[0].value}"), "1");

    c.ctl(&["rollout", "pause", "deployment", "web"]).ok();
    c.ctl(&["set", "env", "deployment/web", "V=3"]).ok();
    c.wait_field(
        "deployment/web",
        r#"{.status.conditions[?(@.type=="Progressing")].reason}"#,
        "DeploymentPaused",
        10,
    );
    c.ctl(&["rollout", "resume", "deployment", "web"]).ok();
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();

    c.ctl(&["scale", "deployment", "web", "--replicas=1"]).ok();
    c.wait_field("deployment/web", "{.status.replicas}", "1", 20);
    assert_eq!(c.field("deployment/web", "{.metadata.uid}"), first);

    // Replica sets and pods follow their owner.
    c.ctl(&["delete", "deployment", "web"]).ok();
    eventually("replica sets and pods are collected", 40, || {
        let left = c.ctl(&["get", "rs,pods", "-o", "name"]).ok();
        if left.is_empty() { Ok(()) } else { Err(left) }
    });
}

#[test]
fn a_namespace_takes_its_content_along() {
    let c = TestCluster::start();
    c.ctl(&["create", "namespace", "play"]).ok();
    eventually("the namespace's service account and CA", 20, || {
        let out = c.ctl(&["-n", "play", "get", "sa/default", "cm/kube-root-ca.crt", "-o", "name"]);
        if out.code == 0 { Ok(()) } else { Err(out.stderr) }
    });
    c.ctl_with_input(&["-n", "play", "create", "-f", "-"], Some(WEB)).ok();
    c.ctl(&["-n", "play", "rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    c.ctl(&["delete", "namespace", "play", "--timeout=60s"]).ok();
    assert!(c.ctl(&["get", "namespace", "play"]).fails().contains("NotFound"));
    assert_eq!(
        c.ctl(&["get", "pods", "-A", "-o", "name", "--field-selector=metadata.namespace=play"]).ok(),
        ""
    );
}

#[test]
fn pods_go_where_they_may_and_say_why_not() {
    let c = TestCluster::with(Config { nodes: 2, ..Config::default() });
    c.ctl(&["label", "node", "node2", "disk=fast"]).ok();
    let pod = |name: &str, spec: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{{name: c, image: 'busybox:1.35', command: [sleep, '3600']}}]\n{spec}\n"
        )
    };
    c.create(&pod("picky", "  nodeSelector: {disk: fast}"));
    c.wait_ready("picky", 30);
    assert_eq!(c.field("pod/picky", "{.spec.nodeName}"), "node2");

    c.create(&pod("nowhere", "  nodeSelector: {disk: slow}"));
    c.wait_field(
        "pod/nowhere",
        r#"{.status.conditions[?(@.type=="PodScheduled")].reason}"#,
        "Unschedulable",
        10,
    );
    let said = c.field("pod/nowhere", r#"{.status.conditions[?(@.type=="PodScheduled")].message}"#);
    assert!(
        said.starts_with("0/2 nodes are available: 2 node(s) didn't match Pod's node affinity/selector."),
        "{said}"
    );
    assert!(c.ctl(&["describe", "pod", "nowhere"]).ok().contains("FailedScheduling"));
    // A change that helps wakes it.
    c.ctl(&["label", "node", "node1", "disk=slow"]).ok();
    c.wait_ready("nowhere", 20);
    assert_eq!(c.field("pod/nowhere", "{.spec.nodeName}"), "node1");

    // Pods of two nodes reach each other.
    let ip = c.field("pod/nowhere", "{.status.podIP}");
    c.ctl(&["exec", "picky", "--", "ping", "-c", "1", "-W", "2", &ip]).ok();
}
