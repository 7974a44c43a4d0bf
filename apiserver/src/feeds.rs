//! Keeps what filters hold in memory up to date: the RBAC policy, the graph of what belongs to which node, and the
//! configuration of priority and fairness, each from a list and then a watch of the store.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;

use crate::authz::graph::Graph;
use crate::authz::rbac::Kind;
use crate::authz::{Authorizer, rbac};
use crate::flowcontrol;
use crate::lookup;
use crate::metrics::parts;
use crate::registry::Registry;
use crate::registry::storage::Storage;
use crate::status::ApiResult;
use crate::store::{Event, RangeRequest, Revision, StoreError, WatchBatch, prefix_end};

const RBAC_GROUP: &str = "rbac.authorization.k8s.io";

/// Fields of a pod that tell whether it has a node, and which pod it is.
const UNBOUND: &[&str] = &["metadata.name", "metadata.namespace", "spec.nodeName"];

/// Fields of a pod that tell what it uses: not what is said of it, and who said so.
const USED: &[&str] = &[
    "metadata.name",
    "metadata.namespace",
    "metadata.annotations",
    "spec",
    "status.resourceClaimStatuses",
    "status.extendedResourceClaimStatus",
];

/// What an object's change goes to.
#[derive(Clone)]
enum Sink {
    Rbac(Arc<rbac::Rbac>, Kind),
    Graph(Arc<Graph>),
    Flow(Arc<flowcontrol::feed::Objects>),
}

impl Sink {
    /// Returns whether the sink now holds something of the object.
    fn upsert(&self, storage: &Storage, key: &str, bytes: &[u8], revision: Revision) -> bool {
        let is_pod = matches!(self, Self::Graph(_)) && storage.resource == "pods";
        let read = match is_pod {
            true => pod(storage, key, bytes),
            false => storage.decode_bytes(key, bytes, revision),
        };
        match read {
            Ok(v) => {
                match self {
                    Self::Rbac(r, kind) => r.upsert(*kind, &v),
                    Self::Graph(g) => Self::put_in_graph(g, storage.resource, &v),
                    Self::Flow(f) => f.upsert(storage.resource, &v),
                }
                !is_pod || is_bound(&v)
            }
            Err(e) => {
                tracing::error!(key, error = %e, "an object is left out of authorization");
                true
            }
        }
    }

    /// Whether a change of an object that the sink knows is none of what it holds of it. Most changes of pods are of what
    /// is said of them.
    fn has(&self, storage: &Storage, change: &Event) -> bool {
        let Some(prev) = change.prev.as_ref() else { return false };
        matches!(self, Self::Graph(_))
            && storage.resource == "pods"
            && storage.form.alike(prev, &change.kv.value, USED)
    }

    fn put_in_graph(graph: &Graph, resource: &str, v: &serde_json::Value) {
        let started = Instant::now();
        graph.upsert(resource, v);
        parts::graph(graph_action(resource, true), started.elapsed());
    }

    fn remove(&self, storage: &Storage, key: &str) {
        let rel = key.strip_prefix(&storage.prefix).unwrap_or_default();
        let (namespace, name) = match rel.split_once('/') {
            Some(x) if storage.namespaced => x,
            _ => ("", rel),
        };
        match self {
            Self::Rbac(r, kind) => r.remove(*kind, namespace, name),
            Self::Graph(g) => {
                let started = Instant::now();
                g.remove(storage.resource, namespace, name);
                parts::graph(graph_action(storage.resource, false), started.elapsed());
            }
            Self::Flow(f) => f.remove(storage.resource, name),
        }
    }
}

/// What the graph reads of a pod. What a pod without a node uses is nobody's business: most of it need not be read.
fn pod(storage: &Storage, key: &str, bytes: &[u8]) -> ApiResult<serde_json::Value> {
    let v = storage.pick(key, bytes, UNBOUND)?;
    if is_bound(&v) { storage.pick(key, bytes, USED) } else { Ok(v) }
}

fn is_bound(pod: &serde_json::Value) -> bool {
    !lookup::text(pod, "/spec/nodeName").is_empty()
}

/// Upstream's name for a change of the graph.
fn graph_action(resource: &str, put: bool) -> &'static str {
    match (resource, put) {
        ("pods", true) => "AddPod",
        ("pods", false) => "DeletePod",
        ("persistentvolumes", true) => "AddPV",
        ("persistentvolumes", false) => "DeletePV",
        ("volumeattachments", true) => "AddVolumeAttachment",
        ("volumeattachments", false) => "DeleteVolumeAttachment",
        ("resourceslices", true) => "AddResourceSlice",
        ("resourceslices", false) => "DeleteResourceSlice",
        ("podcertificaterequests", true) => "AddPodCertificateRequest",
        (_, true) => "Add",
        ("podcertificaterequests", false) => "DeletePodCertificateRequest",
        (_, false) => "Delete",
    }
}

/// Loads everything once and goes on in the background. Returns when all is loaded.
pub async fn start(
    registry: &Registry,
    authorizer: &Authorizer,
    flow: &Arc<flowcontrol::feed::Objects>,
    stop: &CancellationToken,
) -> ApiResult<()> {
    let table = registry.table();
    let mut feeds: Vec<(Arc<Storage>, Sink)> = Vec::new();
    for name in ["roles", "clusterroles", "rolebindings", "clusterrolebindings"] {
        if let (Some(r), Some(kind)) = (table.any_version(RBAC_GROUP, name), Kind::from_resource(name))
            && let Some(s) = &r.storage
        {
            feeds.push((Arc::clone(s), Sink::Rbac(Arc::clone(authorizer.rbac()), kind)));
        }
    }
    for (group, name) in Graph::watches() {
        if let Some(s) = table.any_version(group, name).and_then(|r| r.storage.as_ref()) {
            feeds.push((Arc::clone(s), Sink::Graph(Arc::clone(authorizer.graph()))));
        }
    }
    for name in ["prioritylevelconfigurations", "flowschemas"] {
        if let Some(s) = table.any_version(lookup::FLOW_SCHEMAS.group, name).and_then(|r| r.storage.as_ref())
        {
            feeds.push((Arc::clone(s), Sink::Flow(Arc::clone(flow))));
        }
    }
    for (storage, sink) in feeds {
        let mut known = HashSet::new();
        let revision = load(&storage, &sink, &mut known).await?;
        tokio::spawn(follow(storage, sink, known, revision, stop.clone()));
    }
    Ok(())
}

/// Feeds the whole range; keys that are no longer there are taken out.
async fn load(storage: &Storage, sink: &Sink, known: &mut HashSet<String>) -> ApiResult<Revision> {
    let request = RangeRequest {
        start: storage.prefix.clone(),
        end: prefix_end(&storage.prefix),
        revision: 0,
        limit: 0,
    };
    let range = storage.store.range(request).await.map_err(|e| crate::registry::storage::store_error(&e))?;
    let held = range.items.into_iter().filter(|kv| sink.upsert(storage, &kv.key, &kv.value, kv.mod_revision));
    let there: HashSet<String> = held.map(|kv| kv.key).collect();
    for key in known.difference(&there) {
        sink.remove(storage, key);
    }
    *known = there;
    Ok(range.revision)
}

/// `known`: the keys that the sink has, so that none outlives its object when events were missed.
async fn follow(
    storage: Arc<Storage>,
    sink: Sink,
    mut known: HashSet<String>,
    mut revision: Revision,
    stop: CancellationToken,
) {
    let end = prefix_end(&storage.prefix);
    loop {
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            r = watch(&storage, &sink, &end, &mut known, &mut revision) => r,
        };
        if let Err(StoreError::Compacted { .. }) = ended {
            // Too far behind to catch up by events.
            match load(&storage, &sink, &mut known).await {
                Ok(r) => revision = r,
                Err(e) => tracing::warn!(prefix = %storage.prefix, error = %e, "authorization cannot reload"),
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn watch(
    storage: &Storage,
    sink: &Sink,
    end: &str,
    known: &mut HashSet<String>,
    revision: &mut Revision,
) -> Result<(), StoreError> {
    let mut stream = storage.store.watch(&storage.prefix, end, *revision).await?;
    while let Some(batch) = stream.recv().await {
        match batch? {
            WatchBatch::Progress(r) => *revision = (*revision).max(r),
            WatchBatch::Events(events) => {
                for e in events {
                    *revision = (*revision).max(e.kv.mod_revision);
                    if e.deleted {
                        sink.remove(storage, &e.kv.key);
                        known.remove(&e.kv.key);
                    } else if known.contains(&e.kv.key) && sink.has(storage, &e) {
                        continue;
                    } else if sink.upsert(storage, &e.kv.key, &e.kv.value, e.kv.mod_revision) {
                        known.insert(e.kv.key);
                    } else {
                        known.remove(&e.kv.key);
                    }
                }
            }
        }
    }
    Ok(())
}
