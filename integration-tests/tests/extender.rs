//! An HTTP extender that filters nodes and has the last word on whom to evict.
// Its helpers are test code as well.
#![allow(clippy::unwrap_used)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use integration_tests::bare::Bare;
use integration_tests::binaries;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the extender was asked, by verb.
type Asked = Arc<Mutex<Vec<(String, Value)>>>;

/// Never node `c`; evictions on `b` only, and of the pod that it was offered there.
fn answer(verb: &str, body: &Value) -> Value {
    match verb {
        "filter" => {
            let names = body["NodeNames"].as_array().unwrap();
            let left: Vec<&Value> = names.iter().filter(|n| **n != "c").collect();
            json!({"NodeNames": left, "FailedNodes": {"c": "the extender does not like it"}})
        }
        "preempt" => {
            let offered = &body["NodeNameToMetaVictims"];
            json!({"NodeNameToMetaVictims": {"b": offered["b"]}})
        }
        other => panic!("{other} was not configured"),
    }
}

async fn extender() -> (String, Asked) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = Asked::default();
    let seen = asked.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = seen.clone();
            let service = service_fn(move |r: Request<Incoming>| {
                let seen = seen.clone();
                async move {
                    let verb = r.uri().path().trim_matches('/').to_owned();
                    let body = r.into_body().collect().await?.to_bytes();
                    let body: Value = serde_json::from_slice(&body).unwrap();
                    let text = answer(&verb, &body).to_string();
                    seen.lock().unwrap().push((verb, body));
                    Ok::<_, hyper::Error>(Response::new(Full::new(bytes::Bytes::from(text))))
                }
            });
            let http = hyper::server::conn::http1::Builder::new();
            tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
        }
    });
    (url, asked)
}

async fn make_node(client: &Client, name: &str) {
    let nodes: Api<Node> = Api::all(client.clone());
    let sizes = json!({"cpu": "1", "memory": "1Gi", "pods": "10"});
    let node = json!({"metadata": {"name": name}, "status": {"capacity": sizes, "allocatable": sizes,
        "conditions": [{"type": "Ready", "status": "True"}]}});
    nodes.create(&PostParams::default(), &serde_json::from_value(node).unwrap()).await.unwrap();
    // Admission taints new nodes as not ready; the controller that untaints them does not run.
    let untainted = Patch::Merge(json!({"spec": {"taints": null}}));
    nodes.patch(name, &PatchParams::default(), &untainted).await.unwrap();
}

fn pod(name: &str, class: &str) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name}, "spec": {
        "priorityClassName": class, "terminationGracePeriodSeconds": 0, "automountServiceAccountToken": false,
        "containers": [{"name": "c", "image": "x", "resources": {"requests": {"cpu": "1"}}}]}}))
    .unwrap()
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..300 {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("not within 30 s: {what}")
}

async fn node_of(pods: &Api<Pod>, name: &str) -> String {
    until(&format!("pod {name} is bound"), async || pods.get(name).await.unwrap().spec.unwrap().node_name)
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_filters_nodes_and_chooses_victims() {
    let bare = Bare::start().await.unwrap();
    let client = bare.client().await.unwrap();
    let (url, asked) = extender().await;
    let kubeconfig = bare.kubeconfig("kube-scheduler");
    let config = bare.cluster.layout.config("extended.yaml");
    let text = json!({
        "apiVersion": "kubescheduler.config.k8s.io/v1", "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig}, "leaderElection": {"leaderElect": false},
        "extenders": [{"urlPrefix": url, "filterVerb": "filter", "preemptVerb": "preempt", "nodeCacheCapable": true}],
    });
    std::fs::write(&config, text.to_string()).unwrap();
    let port = bare.cluster.layout.scheduler_port();
    let flags = [
        format!("--config={}", config.display()),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={port}"),
    ];
    bare.start_other("kube-scheduler", &binaries::folder().join("kube-scheduler"), &flags).unwrap();
    for (name, value) in [("low", 1), ("middle", 2), ("high", 3)] {
        let classes: Api<PriorityClass> = Api::all(client.clone());
        let class = serde_json::from_value(json!({"metadata": {"name": name}, "value": value})).unwrap();
        classes.create(&PostParams::default(), &class).await.unwrap();
    }
    let pods: Api<Pod> = Api::default_namespaced(client.clone());
    let create = async |name: &str, class: &str| pods.create(&PostParams::default(), &pod(name, class)).await;

    make_node(&client, "a").await;
    create("cheap", "low").await.unwrap();
    assert_eq!(node_of(&pods, "cheap").await, "a");
    make_node(&client, "b").await;
    create("dear", "middle").await.unwrap();
    assert_eq!(node_of(&pods, "dear").await, "b");

    // On its own the scheduler would evict the pod of the lower priority, on `a`.
    create("urgent", "high").await.unwrap();
    assert_eq!(node_of(&pods, "urgent").await, "b");
    assert!(pods.get_opt("dear").await.unwrap().is_none(), "the victim has gone");
    assert!(pods.get("cheap").await.unwrap().metadata.deletion_timestamp.is_none());
    let preemptions = || {
        let asked = asked.lock().unwrap();
        asked.iter().filter(|(verb, _)| verb == "preempt").map(|(_, body)| body.clone()).collect::<Vec<_>>()
    };
    let first = &preemptions()[0];
    assert_eq!(first["Pod"]["metadata"]["name"], "urgent");
    let offered = first["NodeNameToMetaVictims"].as_object().unwrap();
    assert_eq!(offered.keys().collect::<Vec<_>>(), ["a", "b"]);

    // Room on a node that the extender refuses is none; the reason is its own.
    make_node(&client, "c").await;
    create("left", "low").await.unwrap();
    let message = until("the pod is refused", async || {
        let conditions = pods.get("left").await.unwrap().status?.conditions?;
        conditions.into_iter().find(|c| c.type_ == "PodScheduled")?.message
    })
    .await;
    assert!(message.contains("1 the extender does not like it"), "{message}");
}
