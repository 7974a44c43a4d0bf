//! The whole way of a claim, with a driver that only writes down what it is asked.

use std::{path::PathBuf, sync::Arc, time::Duration};

use hyper_util::rt::{TokioExecutor, TokioIo};
use k8s_openapi::api::{core::v1::Pod, resource::v1::ResourceClaim};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Dra, claim_names,
    wire::{Device, PrepareResponse, Prepared, Request, UnprepareResponse, Unprepared},
};

/// What the driver was asked, and what it answers.
#[derive(Default)]
struct Driver {
    log: Mutex<Vec<String>>,
    /// Of the next calls.
    error: Mutex<String>,
}

impl Driver {
    fn note(&self, method: &str, r: &Request) -> String {
        let names: Vec<&str> = r.claims.iter().map(|c| c.name.as_str()).collect();
        self.log.lock().push(format!("{method} {}", names.join(",")));
        self.error.lock().clone()
    }

    fn prepare(&self, r: &Request) -> PrepareResponse {
        let error = self.note("prepare", r);
        let device = |c: &super::Claim, i: i32| Device {
            request_names: vec![format!("r{i}")],
            pool_name: "pool".into(),
            device_name: format!("dev{i}"),
            cdi_device_ids: vec![format!("vendor.example.com/gpu={}-{i}", c.name)],
            share_id: None,
        };
        let of = |c: &super::Claim| {
            let devices = vec![device(c, 1), device(c, 2)];
            (c.uid.clone(), Prepared { devices, error: error.clone() })
        };
        PrepareResponse { claims: r.claims.iter().map(of).collect() }
    }

    fn unprepare(&self, r: &Request) -> UnprepareResponse {
        let error = self.note("unprepare", r);
        let of = |c: &super::Claim| (c.uid.clone(), Unprepared { error: error.clone() });
        UnprepareResponse { claims: r.claims.iter().map(of).collect() }
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock())
    }
}

async fn answer<A: prost::Message + Default + 'static>(
    r: http::Request<hyper::body::Incoming>,
    driver: Arc<Driver>,
    how: fn(&Driver, &Request) -> A,
) -> http::Response<tonic::body::Body> {
    let service = tower::service_fn(move |r: tonic::Request<Request>| {
        let a = how(&driver, r.get_ref());
        async { Ok::<_, tonic::Status>(tonic::Response::new(a)) }
    });
    tonic::server::Grpc::new(tonic_prost::ProstCodec::<A, Request>::default()).unary(service, r).await
}

/// Starts the driver; it ends with the handle.
fn start(path: PathBuf, driver: Arc<Driver>) -> tokio::task::JoinHandle<()> {
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let driver = driver.clone();
            let service = hyper::service::service_fn(move |r: http::Request<hyper::body::Incoming>| {
                let driver = driver.clone();
                async move {
                    let path = r.uri().path().to_owned();
                    assert!(path.starts_with("/k8s.io.kubelet.pkg.apis.dra.v1.DRAPlugin/"), "{path}");
                    Ok::<_, std::convert::Infallible>(if path.ends_with("/NodePrepareResources") {
                        answer(r, driver, Driver::prepare).await
                    } else {
                        answer(r, driver, Driver::unprepare).await
                    })
                }
            });
            connections.spawn(async move {
                let served = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = served.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

struct Node {
    dir: tempfile::TempDir,
    dra: Dra,
    driver: Arc<Driver>,
    socket: PathBuf,
    serving: tokio::task::JoinHandle<()>,
}

impl Node {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("driver.sock");
        let driver = Arc::new(Driver::default());
        let serving = start(socket.clone(), driver.clone());
        let dra = Dra::new(dir.path(), None, "n").unwrap();
        let node = Self { dir, dra, driver, socket, serving };
        node.register();
        node
    }

    fn register(&self) {
        self.dra.plugins.add("gpu", &self.socket, &["v1.DRAPlugin".into()]).unwrap();
    }

    /// A new kubelet over the same disk; the driver registers again if it `is_back`.
    fn restart(&mut self, is_back: bool) {
        self.dra = Dra::new(self.dir.path(), None, "n").unwrap();
        if is_back {
            self.register();
        }
    }

    async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let fetch = |name: String| async move { Ok(claim(&name)) };
        self.dra.prepare_with(pod, claim_names(pod)?, fetch).await
    }
}

/// An allocated claim that the pods `a` and `b` may use.
fn claim(name: &str) -> ResourceClaim {
    object(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": format!("uid-{name}")},
        "spec": {},
        "status": {
            "allocation": {"devices": {"results": [
                {"request": "r1", "driver": "gpu", "pool": "pool", "device": "dev1"},
            ]}},
            "reservedFor": [
                {"resource": "pods", "name": "a", "uid": "a"},
                {"resource": "pods", "name": "b", "uid": "b"},
            ],
        },
    }))
}

fn object<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).unwrap()
}

/// A pod whose containers use: all of the claim, one request of it, nothing.
fn pod(name: &str, claim: &str) -> Pod {
    let uses = |c: Value| json!({"claims": [c]});
    object(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name},
        "spec": {
            "resourceClaims": [{"name": "gpu", "resourceClaimName": claim}],
            "containers": [
                {"name": "all", "resources": uses(json!({"name": "gpu"}))},
                {"name": "one", "resources": uses(json!({"name": "gpu", "request": "r2"}))},
                {"name": "none"},
            ],
        },
    }))
}

fn devices(n: &Node, p: &Pod) -> Vec<Result<Vec<String>, String>> {
    p.spec.as_ref().unwrap().containers.iter().map(|c| n.dra.cdi_devices(p, c)).collect()
}

#[tokio::test]
async fn claims_are_prepared_once_and_unprepared_by_the_last_pod() {
    let n = Node::new();
    let (a, b) = (pod("a", "x"), pod("b", "x"));
    assert!(devices(&n, &a)[0].is_err(), "not prepared yet");
    n.prepare(&a).await.unwrap();
    n.prepare(&b).await.unwrap();
    n.prepare(&a).await.unwrap();
    assert_eq!(n.driver.asked(), ["prepare x"]);
    let id = |i: i32| format!("vendor.example.com/gpu=x-{i}");
    assert_eq!(devices(&n, &b), [Ok(vec![id(1), id(2)]), Ok(vec![id(2)]), Ok(vec![])]);
    n.dra.unprepare("a").await.unwrap();
    assert_eq!(n.driver.asked(), [""; 0], "the other pod still uses it");
    n.dra.unprepare("b").await.unwrap();
    n.dra.unprepare("b").await.unwrap();
    assert_eq!(n.driver.asked(), ["unprepare x"]);
    assert!(n.dra.pods().is_empty());
}

#[tokio::test]
async fn a_restart_forgets_nothing() {
    let mut n = Node::new();
    let a = pod("a", "x");
    n.prepare(&a).await.unwrap();
    n.restart(false);
    assert_eq!(n.dra.pods().into_iter().collect::<Vec<_>>(), ["a"]);
    assert_eq!(devices(&n, &a)[1], Ok(vec!["vendor.example.com/gpu=x-2".into()]));
    assert_eq!(
        n.dra.unprepare("a").await,
        Err("unprepare dynamic resources: DRA driver gpu is not registered".into())
    );
    n.restart(true);
    n.driver.asked();
    // Prepared by another kubelet: asked again, and no device is there twice.
    n.prepare(&a).await.unwrap();
    assert_eq!(n.driver.asked(), ["prepare x"]);
    assert_eq!(devices(&n, &a)[0].as_ref().map(Vec::len), Ok(2));
    n.dra.unprepare("a").await.unwrap();
    n.restart(true);
    assert!(n.dra.pods().is_empty());
}

#[tokio::test]
async fn what_failed_is_tried_again_and_stays_noted() {
    let n = Node::new();
    let a = pod("a", "x");
    *n.driver.error.lock() = "no power".into();
    let failed = "NodePrepareResources failed for ResourceClaim x: no power";
    assert_eq!(n.prepare(&a).await, Err(failed.into()));
    assert_eq!(n.dra.pods().len(), 1, "the driver may have done half of it");
    let failed = "unprepare dynamic resources: NodeUnprepareResources failed for ResourceClaim x: no power";
    assert_eq!(n.dra.unprepare("a").await, Err(failed.into()));
    n.driver.error.lock().clear();
    n.dra.unprepare("a").await.unwrap();
    assert_eq!(n.driver.asked(), ["prepare x", "unprepare x", "unprepare x"]);
}

#[tokio::test]
async fn claims_of_others_and_absent_drivers_are_told_before_anything_is_noted() {
    let n = Node::new();
    let stranger = pod("c", "x");
    assert_eq!(
        n.prepare(&stranger).await,
        Err("pod c (c) is not allowed to use ResourceClaim x (uid-x)".into())
    );
    n.dra.plugins.remove("gpu", &n.socket);
    assert_eq!(n.prepare(&pod("a", "x")).await, Err("DRA driver gpu is not registered".into()));
    assert!(n.dra.pods().is_empty());
    let mut waiting = pod("a", "x");
    waiting.spec.as_mut().unwrap().resource_claims =
        object(json!([{"name": "gpu", "resourceClaimTemplateName": "t"}]));
    assert_eq!(n.prepare(&waiting).await, Err("pod \"ns/a\": ResourceClaim not created yet".into()));
}

#[tokio::test]
async fn drivers_are_chosen_by_version_and_connection() {
    let n = Node::new();
    let add = |versions: &[&str]| {
        let versions: Vec<String> = versions.iter().map(|v| (*v).to_owned()).collect();
        n.dra.plugins.add("gpu", &n.dir.path().join("other.sock"), &versions)
    };
    assert!(add(&[]).is_err_and(|e| e.contains("empty list")));
    assert!(add(&["v1alpha3.DRAPlugin"]).is_err_and(|e| e.contains("none of services")));
    let again = n.dra.plugins.add("gpu", &n.socket, &["v1.DRAPlugin".into()]);
    assert!(again.is_err_and(|e| e.contains("already registered")));
    // The latest that nobody answers at does not take the place of one that is there.
    add(&["v1beta1.DRAPlugin"]).unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    n.prepare(&pod("a", "x")).await.unwrap();
    assert_eq!(n.driver.asked(), ["prepare x"]);
    n.serving.abort();
}
