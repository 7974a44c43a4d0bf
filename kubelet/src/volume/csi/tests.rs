//! The whole way of a volume, with a driver that only writes down what it is asked.

use std::{path::PathBuf, sync::Arc};

use hyper_util::rt::{TokioExecutor, TokioIo};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{
    Csi, disk,
    registry::Driver,
    wire::{Empty, Publish, Socket, Stage, Undo, capability::STAGE_UNSTAGE_VOLUME},
};
use crate::{
    pod::{env::ObjectSet, fields::NodeFacts},
    volume::{PodDirs, persistent::Claimed, setup::Setup},
};

type Log = Arc<Mutex<Vec<String>>>;

/// Answers one kind of call, after noting it.
async fn answer<Q: prost::Message + Default + 'static>(
    request: http::Request<hyper::body::Incoming>,
    log: Log,
    show: fn(&Q) -> String,
) -> http::Response<tonic::body::Body> {
    let service = tower::service_fn(move |r: tonic::Request<Q>| {
        log.lock().push(show(r.get_ref()));
        async { Ok::<_, tonic::Status>(tonic::Response::new(Empty {})) }
    });
    let codec = tonic_prost::ProstCodec::<Empty, Q>::default();
    tonic::server::Grpc::new(codec).unary(service, request).await
}

/// Starts the driver at `path`. Mount points are its business: it makes and removes them.
fn driver(path: PathBuf) -> Log {
    let log = Log::default();
    let listener = tokio::net::UnixListener::bind(path).unwrap();
    let calls = log.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let calls = calls.clone();
            let service = hyper::service::service_fn(move |r: http::Request<hyper::body::Incoming>| {
                let log = calls.clone();
                async move {
                    let method = r.uri().path().rsplit('/').next().unwrap().to_owned();
                    let done = match method.as_str() {
                        "NodeStageVolume" => {
                            answer(r, log, |q: &Stage| {
                                assert!(std::path::Path::new(&q.staging_target_path).is_dir());
                                format!("stage {} {:?}", q.volume_id, q.publish_context.get("device"))
                            })
                            .await
                        }
                        "NodePublishVolume" => {
                            answer(r, log, |q: &Publish| {
                                assert!(q.staging_target_path.ends_with("globalmount"));
                                std::fs::create_dir_all(&q.target_path).unwrap();
                                format!("publish {} {}", q.volume_id, q.readonly)
                            })
                            .await
                        }
                        "NodeUnpublishVolume" => {
                            answer(r, log, |q: &Undo| format!("unpublish {}", q.volume_id)).await
                        }
                        "NodeUnstageVolume" => {
                            answer(r, log, |q: &Undo| format!("unstage {}", q.volume_id)).await
                        }
                        other => panic!("{other}"),
                    };
                    Ok::<_, std::convert::Infallible>(done)
                }
            });
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(stream), service));
        }
    });
    log
}

/// An API server that knows one driver and one attachment.
fn api(attach: bool) -> kube::Client {
    let service = tower::service_fn(move |r: http::Request<kube::client::Body>| {
        let answer = match r.uri().path() {
            p if p.contains("/csidrivers/") => json!({"apiVersion": "storage.k8s.io/v1", "kind": "CSIDriver",
                "metadata": {"name": "d"}, "spec": {"attachRequired": attach}}),
            p if p.contains("/volumeattachments/csi-") => {
                json!({"apiVersion": "storage.k8s.io/v1", "kind": "VolumeAttachment",
                "metadata": {"name": "x"}, "spec": {"attacher": "d", "nodeName": "node", "source": {}},
                "status": {"attached": true, "attachmentMetadata": {"device": "/dev/vdb"}}})
            }
            other => panic!("{other}"),
        };
        let body = kube::client::Body::from(answer.to_string().into_bytes());
        async move { Ok::<_, std::convert::Infallible>(http::Response::new(body)) }
    });
    kube::Client::new(service, "default")
}

struct World {
    root: PathBuf,
    csi: Csi,
    client: kube::Client,
    log: Log,
}

impl World {
    fn new(name: &str, attach: bool) -> Self {
        let root = std::env::temp_dir().join(format!("kubelet-csi-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        std::fs::create_dir_all(&root).unwrap();
        let log = driver(root.join("csi.sock"));
        let mut world = Self { csi: Csi::new(&root, "node"), client: api(attach), root, log };
        world.restart();
        world
    }

    /// A new kubelet; the driver registers again.
    fn restart(&mut self) {
        self.csi = Csi::new(&self.root, "node");
        let socket = Socket::new(self.root.join("csi.sock"));
        self.csi.registry.add(Driver { name: "d".into(), socket, capabilities: vec![STAGE_UNSTAGE_VOLUME] });
    }

    async fn mount(&self, uid: &str) -> Result<PathBuf, String> {
        let of = |v: Value| serde_json::from_value(v).unwrap();
        let claimed = Claimed {
            claim: Default::default(),
            volume: serde_json::from_value(
                json!({"metadata": {"name": "pv"}, "spec": {"accessModes": ["ReadWriteOnce"],
                "csi": {"driver": "d", "volumeHandle": "h"}}}),
            )
            .unwrap(),
            read_only: false,
        };
        let pod: Pod =
            of(json!({"metadata": {"name": "p", "namespace": "n", "uid": uid}, "spec": {"containers": []}}));
        let setup = Setup {
            dirs: &PodDirs::new(&self.root, uid),
            client: Some(&self.client),
            objects: &ObjectSet::default(),
            facts: &NodeFacts {
                node_name: "node".into(),
                host_ips: vec![],
                pod_ips: vec![],
                allocatable_cpu: 0,
                allocatable_memory: 0,
            },
            now: Timestamp::UNIX_EPOCH,
            csi: &self.csi,
        };
        let source = claimed.volume.spec.as_ref().unwrap().csi.as_ref().unwrap();
        self.csi.mount_claimed(&setup, &pod, &claimed, source).await.map(|m| m.path)
    }

    async fn tear_down(&self, uid: &str) -> Result<(), String> {
        self.csi.tear_down(&PodDirs::new(&self.root, uid)).await
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock())
    }
}

impl Drop for World {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.root);
    }
}

#[tokio::test]
async fn staged_once_for_all_pods_and_given_back_by_the_last_even_after_a_restart() {
    let mut w = World::new("way", false);
    let path = w.mount("one").await.unwrap();
    assert!(path.ends_with("pods/one/volumes/kubernetes.io~csi/pv/mount") && path.is_dir());
    assert_eq!(w.calls(), ["stage h None", "publish h false"]);
    w.mount("one").await.unwrap();
    assert_eq!(w.calls(), [""; 0], "it is there");
    w.mount("two").await.unwrap();
    assert_eq!(w.calls().last().map(String::as_str), Some("publish h false"));

    w.restart();
    w.tear_down("one").await.unwrap();
    assert_eq!(w.calls(), ["unpublish h"], "the other pod still has it");
    assert!(!path.exists());
    w.tear_down("one").await.unwrap();
    assert_eq!(w.calls(), [""; 0]);
    w.tear_down("two").await.unwrap();
    assert_eq!(w.calls(), ["unpublish h", "unstage h"]);
    assert_eq!(disk::all(&w.root), []);
}

#[tokio::test]
async fn without_its_driver_nothing_is_removed() {
    let mut w = World::new("gone", false);
    let path = w.mount("one").await.unwrap();
    std::fs::write(path.join("data"), b"x").unwrap();
    w.csi = Csi::new(&w.root, "node");
    let why = w.tear_down("one").await.unwrap_err();
    assert!(why.contains("driver name d not found in the list of registered CSI drivers"), "{why}");
    assert!(path.join("data").exists());
    // A volume that nobody unmounted is not emptied either.
    w.restart();
    assert!(w.tear_down("one").await.is_err());
    assert!(path.join("data").exists());
}

#[tokio::test]
async fn what_a_dead_kubelet_left_staged_is_released() {
    let mut w = World::new("left", false);
    w.mount("one").await.unwrap();
    std::fs::remove_dir_all(w.root.join("pods")).unwrap();
    w.restart();
    w.calls();
    w.csi.release_unused("d").await;
    assert_eq!(w.calls(), ["unstage h"]);
    w.csi.release_unused("d").await;
    assert_eq!(w.calls(), [""; 0]);
}

#[tokio::test]
async fn attached_volumes_are_reported_before_they_are_used_and_until_they_are_unstaged() {
    let mut w = World::new("attach", true);
    let name = "kubernetes.io/csi/d^h".to_owned();
    let controller = async {
        w.csi.in_use_changed.notified().await;
        assert_eq!(w.csi.in_use(), std::slice::from_ref(&name));
        assert_eq!(w.calls(), [""; 0], "nothing before it is attached");
        let node: Node = serde_json::from_value(json!({"status": {"volumesInUse": [name],
            "volumesAttached": [{"name": name, "devicePath": ""}]}}))
        .unwrap();
        w.csi.node_changed(&node);
    };
    let (mounted, ()) = tokio::join!(w.mount("one"), controller);
    mounted.unwrap();
    assert_eq!(w.calls()[0], "stage h Some(\"/dev/vdb\")");
    w.restart();
    assert_eq!(w.csi.in_use(), [name], "known again after a restart");
    w.tear_down("one").await.unwrap();
    assert_eq!(w.csi.in_use(), [""; 0]);
}
