//! Clients that nobody here wrote: kubectl of two releases, the clients for Python and JavaScript, the operator framework
//! kopf, and kube-rs.

use std::process::Command;

use integration_tests::{TestCluster, binaries, command, eventually};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{ListParams, Patch, PatchParams, PostParams};
use kube::{Api, ResourceExt};

#[test]
fn kubectl_works_unchanged() {
    let c = TestCluster::start();
    let deployment = std::fs::read_to_string(binaries::workspace().join("examples/deployment.yaml")).unwrap();
    for which in ["1.36", "system"] {
        let k = |args: &[&str], stdin: Option<&str>| c.kubectl(which, args, stdin);
        assert!(k(&["apply", "-f", "-"], Some(&deployment)).ok().contains("deployment.apps/web created"));
        assert!(k(&["apply", "-f", "-"], Some(&deployment)).ok().contains("deployment.apps/web unchanged"));
        k(&["rollout", "status", "deployment/web", "--timeout=60s"], None).ok();
        let changed = deployment.replace("replicas: 2", "replicas: 1");
        let diff = k(&["diff", "-f", "-"], Some(&changed));
        assert!(diff.code == 1 && diff.stdout.contains("+  replicas: 1"), "{diff:?}");
        assert!(
            k(&["apply", "--server-side", "--force-conflicts", "-f", "-"], Some(&changed))
                .ok()
                .contains("serverside-applied")
        );
        let wide = k(&["get", "deployment,service,pods", "-o", "wide"], None).ok();
        assert!(wide.contains("busybox:1.35") && wide.contains("NodePort"), "{wide}");
        let described = k(&["describe", "deployment", "web"], None).ok();
        assert!(
            described.contains("RollingUpdateStrategy:") && described.contains("ScalingReplicaSet"),
            "{described}"
        );
        assert!(k(&["describe", "node", "node1"], None).ok().contains("KubeletReady"));
        let explained = k(&["explain", "deployment.spec.strategy"], None).ok();
        assert!(explained.contains("rollingUpdate"), "{explained}");
        assert!(k(&["api-resources"], None).ok().contains("deployments"));
        k(&["label", "deployment", "web", "by=kubectl"], None).ok();
        k(&["patch", "service", "web", "-p", r#"{"metadata":{"annotations":{"a":"b"}}}"#], None).ok();
        assert_eq!(k(&["get", "service", "web", "-o", "jsonpath={.metadata.annotations.a}"], None).ok(), "b");
        k(&["delete", "-f", "-"], Some(&deployment)).ok();
        let missing = k(&["get", "deployment", "web"], None).fails();
        assert!(missing.contains("deployments.apps \"web\" not found"), "{missing}");
        eventually("its pods are gone", 40, || {
            let left = k(&["get", "pods", "-o", "name"], None).ok();
            if left.is_empty() { Ok(()) } else { Err(left) }
        });
    }
}

#[test]
fn the_python_client_creates_watches_and_deletes() {
    let c = TestCluster::start();
    let script = r#"
import sys
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1])
v1 = client.CoreV1Api()
seen = []
start = v1.list_namespaced_config_map("default").metadata.resource_version
body = client.V1ConfigMap(metadata=client.V1ObjectMeta(name="py", labels={"a": "b"}), data={"k": "v"})
made = v1.create_namespaced_config_map("default", body)
assert made.metadata.uid and made.data == {"k": "v"}, made
v1.patch_namespaced_config_map("py", "default", {"data": {"k": "w"}})
assert [x.metadata.name for x in v1.list_namespaced_config_map("default", label_selector="a=b").items] == ["py"]
v1.delete_namespaced_config_map("py", "default")
for e in watch.Watch().stream(v1.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=20, label_selector="a=b"):
    seen.append(e["type"])
    if e["type"] == "DELETED": break
assert seen == ["ADDED", "MODIFIED", "DELETED"], seen
try:
    v1.read_namespaced_config_map("py", "default"); sys.exit("it must be gone")
except client.ApiException as e:
    assert e.status == 404 and '"reason":"NotFound"' in e.body.replace(" ", ""), e.body
print("ok")
"#;
    let path = c.layout().state.join("client.py");
    std::fs::write(&path, script).unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.arg(path).arg(c.layout().kubeconfig("admin"));
    assert_eq!(command::run(command, None).ok(), "ok\n");
}

#[test]
fn the_javascript_client_does_its_usual_work() {
    let c = TestCluster::start();
    let mut node = Command::new("node");
    node.arg(binaries::workspace().join("integration-tests/clients/client.mjs"));
    node.arg(c.layout().kubeconfig("admin")).arg(binaries::tool("js"));
    assert_eq!(command::run(node, None).ok(), "ok\n");
}

#[test]
fn an_operator_of_another_framework_operates() {
    let c = TestCluster::start();
    let mut python = Command::new(binaries::tool("py/bin/python"));
    python.arg(binaries::workspace().join("integration-tests/clients/operate.py"));
    python.arg(c.layout().kubeconfig("admin")).env("PYTHONDONTWRITEBYTECODE", "1");
    assert_eq!(command::run(python, None).ok(), "ok\n");
}

#[test]
fn kube_rs_applies_lists_and_is_told_of_conflicts() {
    let c = TestCluster::start();
    let api: Api<ConfigMap> = Api::namespaced(c.client(), "default");
    c.block_on(async {
        let apply = |manager: &'static str, value: &str| {
            let object = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"k": value}});
            let api = api.clone();
            async move { api.patch("x", &PatchParams::apply(manager), &Patch::Apply(object)).await }
        };
        apply("one", "a").await.unwrap();
        let conflict = apply("two", "b").await.unwrap_err();
        assert!(conflict.to_string().contains("conflict with \"one\": .data.k"), "{conflict}");
        let mut old = api.get("x").await.unwrap();
        apply("one", "c").await.unwrap();
        old.data.get_or_insert_default().insert("k".into(), "stale".into());
        let stale = api.replace("x", &PostParams::default(), &old).await.unwrap_err();
        assert!(stale.to_string().contains("the object has been modified"), "{stale}");
        for i in 0..25 {
            let m: ConfigMap = serde_json::from_value(serde_json::json!({"metadata": {"name": format!("page-{i:02}"), "labels": {"p": "q"}}})).unwrap();
            api.create(&PostParams::default(), &m).await.unwrap();
        }
        let mut params = ListParams::default().labels("p=q").limit(10);
        let mut names = Vec::new();
        loop {
            let page = api.list(&params).await.unwrap();
            names.extend(page.items.iter().map(ResourceExt::name_any));
            match page.metadata.continue_.filter(|t| !t.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => break,
            }
        }
        assert_eq!(names, (0..25).map(|i| format!("page-{i:02}")).collect::<Vec<_>>());
    });
}
