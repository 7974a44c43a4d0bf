//! The API server under load: h2load over TLS, with a service account's token and RBAC in force, everything on this
//! machine. Pods name a scheduler that does not exist and the other daemons are stopped, so that nothing but the
//! requests is measured.

mod load;
mod watchers;

use std::time::Duration;

use anyhow::Context;
use integration_tests::usage::{forget_peak, peak, processor_time, resident};
use integration_tests::{Config, TestCluster};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use kube::Client;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use self::load::Load;
use crate::figures::line;

const NAMESPACE: &str = "bench";
/// Pods of the first, small, collection.
const SMALL: usize = 8_000;
/// Pods of the large one, together with those of the small one.
const LARGE: usize = 100_000;
/// How long the server is left alone before its memory is read.
const REST: Duration = Duration::from_secs(10);
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// Prints the figures of the API server.
pub fn run() -> anyhow::Result<()> {
    let c = TestCluster::with(Config::default());
    let client = c.client();
    let token = c.block_on(identity(&client))?;
    for daemon in ["kube-scheduler", "kube-controller-manager", "kubelet-node1", "kube-proxy-node1"] {
        c.signal(daemon, Signal::SIGTERM);
    }
    let api = Server { pid: c.pid("kube-apiserver"), load: Load::new(c.layout(), &token)? };
    line("api.memory.before", resident(api.pid)?, "MB");
    api.create("create", &pod(1_000), SMALL)?;
    line("api.memory.8000_pods", at_rest(api.pid)?, "MB");
    api.get(&c.block_on(load::first_pod(&client, NAMESPACE))?)?;
    api.list("list", 20)?;
    c.block_on(watchers::run(c.layout(), &client, NAMESPACE, &token))?;
    api.create("create_3k", &pod(3_000), LARGE - SMALL)?;
    line("api.memory.100000_pods", at_rest(api.pid)?, "MB");
    api.list("list_100000", 4)
}

/// Resident memory once the server has given back what the load needed.
fn at_rest(pid: u32) -> anyhow::Result<f64> {
    std::thread::sleep(REST);
    resident(pid)
}

struct Server {
    pid: u32,
    load: Load,
}

impl Server {
    /// `count` creates of a pod with a generated name, 64 in flight.
    fn create(&self, name: &str, body: &Value, count: usize) -> anyhow::Result<()> {
        let before = processor_time(self.pid)?;
        let r = self.load.post(&format!("/api/v1/namespaces/{NAMESPACE}/pods"), body, count, 64)?;
        line(&format!("api.{name}.rate"), r.per_second(), "1/s");
        line(&format!("api.{name}.p99"), r.p99, "ms");
        line(&format!("api.{name}.cpu"), (processor_time(self.pid)? - before) / count as f64, "ms");
        Ok(())
    }

    fn get(&self, pod: &str) -> anyhow::Result<()> {
        const COUNT: usize = 100_000;
        let before = processor_time(self.pid)?;
        let r = self.load.get(
            &format!("/api/v1/namespaces/{NAMESPACE}/pods/{pod}"),
            "application/json",
            COUNT,
            64,
        )?;
        line("api.get.rate", r.per_second(), "1/s");
        line("api.get.p99", r.p99, "ms");
        line("api.get.cpu", (processor_time(self.pid)? - before) / COUNT as f64, "ms");
        Ok(())
    }

    /// Lists of all pods, one after the other.
    fn list(&self, name: &str, count: usize) -> anyhow::Result<()> {
        for (encoding, accept) in [("protobuf", PROTOBUF), ("json", "application/json")] {
            let path = format!("/api/v1/namespaces/{NAMESPACE}/pods");
            forget_peak(self.pid)?;
            let resident_before = resident(self.pid)?;
            let before = processor_time(self.pid)?;
            let r = self.load.get(&path, accept, count, 1)?;
            line(&format!("api.{name}.{encoding}.rate"), r.bytes / r.seconds / 1e6, "MB/s");
            line(&format!("api.{name}.{encoding}.time"), r.seconds * 1e3 / count as f64, "ms");
            line(
                &format!("api.{name}.{encoding}.cpu"),
                (processor_time(self.pid)? - before) / count as f64,
                "ms",
            );
            line(&format!("api.{name}.{encoding}.memory"), peak(self.pid)? - resident_before, "MB");
        }
        Ok(())
    }
}

/// Makes the namespace and a service account that may do with pods there what the measurements do; its token.
async fn identity(client: &Client) -> anyhow::Result<String> {
    use k8s_openapi::api::core::v1::{Namespace, ServiceAccount};
    use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
    use kube::api::{Api, PostParams};

    let p = PostParams::default();
    Api::<Namespace>::all(client.clone())
        .create(&p, &serde_json::from_value(json!({"metadata": {"name": NAMESPACE}}))?)
        .await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), NAMESPACE);
    accounts.create(&p, &serde_json::from_value(json!({"metadata": {"name": "load"}}))?).await?;
    // Pods run as the default account, which the controller manager makes a moment later.
    for _ in 0..100 {
        if accounts.get_opt("default").await?.is_some() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let role = json!({"metadata": {"name": "load"}, "rules": [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "get", "list", "watch", "patch"]}]});
    Api::<Role>::namespaced(client.clone(), NAMESPACE).create(&p, &serde_json::from_value(role)?).await?;
    let binding = json!({"metadata": {"name": "load"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "load"},
        "subjects": [{"kind": "ServiceAccount", "name": "load", "namespace": NAMESPACE}]});
    Api::<RoleBinding>::namespaced(client.clone(), NAMESPACE)
        .create(&p, &serde_json::from_value(binding)?)
        .await?;
    let request = TokenRequest { spec: Some(TokenRequestSpec::default()), ..Default::default() };
    let token = accounts.create_token_request("load", &p, &request).await?;
    token.status.and_then(|s| s.token).context("the token request was answered without a token")
}

/// A pod whose JSON is about `bytes` long.
fn pod(bytes: usize) -> Value {
    let mut pod = json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"generateName": "load-", "labels": {"app": "load", "tier": "backend"}, "annotations": {}},
        "spec": {
            "schedulerName": "none", "automountServiceAccountToken": false,
            "containers": [{
                "name": "server", "image": "registry.example/team/server:v1", "args": ["--port=8080"],
                "ports": [{"containerPort": 8080}],
                "env": [{"name": "MODE", "value": "production"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}, "limits": {"memory": "128Mi"}},
                "readinessProbe": {"httpGet": {"path": "/ready", "port": 8080}},
            }],
        },
    });
    let rest = bytes.saturating_sub(pod.to_string().len());
    pod["metadata"]["annotations"]["example.org/note"] = "x".repeat(rest).into();
    pod
}
