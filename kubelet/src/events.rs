//! Events about pods and the node, in the core group as upstream's kubelet writes them. Repeats within a while
//! raise the count of the first. Writing never holds anything up: when the queue is full, events are dropped.

use std::collections::HashMap;

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference, Pod},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client,
    api::{Patch, PatchParams, PostParams},
};
use tokio::sync::mpsc;

use crate::{
    pod::spec,
    util::{fnv32a, rfc3339},
};

const QUEUE: usize = 512;
const REMEMBERED: usize = 512;
/// After this many seconds a repeat is a new event.
const REPEAT_WINDOW: i64 = 600;

#[derive(Debug)]
struct Record {
    about: ObjectReference,
    kind: &'static str,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Records events; clones share the queue.
#[derive(Clone)]
pub struct Recorder {
    queue: Option<mpsc::Sender<Record>>,
    node: String,
}

pub const NORMAL: &str = "Normal";
pub const WARNING: &str = "Warning";

impl Recorder {
    /// Starts the writer. Without a client, events only go to the log.
    pub fn start(client: Option<Client>, node: &str) -> Self {
        let queue = client.map(|client| {
            let (tx, rx) = mpsc::channel(QUEUE);
            tokio::spawn(write(client, node.to_owned(), rx));
            tx
        });
        Self { queue, node: node.to_owned() }
    }

    fn send(&self, about: ObjectReference, kind: &'static str, reason: &str, message: String) {
        tracing::debug!(object = about.name.as_deref().unwrap_or_default(), kind, reason, message, "event");
        if let Some(queue) = &self.queue {
            let record = Record { about, kind, reason: reason.to_owned(), message, at: Timestamp::now() };
            if queue.try_send(record).is_err() {
                tracing::debug!("event queue is full, dropping an event");
            }
        }
    }

    /// An event about a pod.
    pub fn pod(&self, pod: &Pod, kind: &'static str, reason: &str, message: impl Into<String>) {
        self.send(reference(pod, None), kind, reason, message.into());
    }

    /// An event about one container of a pod.
    pub fn container(
        &self,
        pod: &Pod,
        container: &str,
        kind: &'static str,
        reason: &str,
        message: impl Into<String>,
    ) {
        self.send(reference(pod, Some(container)), kind, reason, message.into());
    }

    /// An event about this node.
    pub fn node(&self, kind: &'static str, reason: &str, message: impl Into<String>) {
        let about = ObjectReference {
            kind: Some("Node".into()),
            name: Some(self.node.clone()),
            uid: Some(self.node.clone()),
            ..ObjectReference::default()
        };
        self.send(about, kind, reason, message.into());
    }
}

fn reference(pod: &Pod, container: Option<&str>) -> ObjectReference {
    // The API server's copy of a static pod has its own uid, told by the hash annotation's owner.
    let field_path = container.map(|name| {
        let s = spec::spec(pod);
        let list = if s.init_containers.iter().flatten().any(|c| c.name == name) {
            "initContainers"
        } else if s.ephemeral_containers.iter().flatten().any(|c| c.name == name) {
            "ephemeralContainers"
        } else {
            "containers"
        };
        format!("spec.{list}{{{name}}}")
    });
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        name: pod.metadata.name.clone(),
        namespace: Some(spec::namespace(pod).into()),
        uid: pod.metadata.uid.clone(),
        resource_version: pod.metadata.resource_version.clone(),
        field_path,
    }
}

struct Known {
    name: String,
    count: i32,
    last: Timestamp,
}

async fn write(client: Client, node: String, mut queue: mpsc::Receiver<Record>) {
    let mut known: HashMap<u32, Known> = HashMap::new();
    while let Some(record) = queue.recv().await {
        let namespace = record.about.namespace.clone().unwrap_or_else(|| "default".into());
        let api: Api<Event> = Api::namespaced(client.clone(), &namespace);
        let identity = format!(
            "{:?}{:?}{:?}{}{}{}",
            record.about.uid,
            record.about.name,
            record.about.field_path,
            record.kind,
            record.reason,
            record.message
        );
        let key = fnv32a(identity.as_bytes());
        if let Some(k) = known.get_mut(&key)
            && record.at.duration_since(k.last).as_secs() < REPEAT_WINDOW
        {
            k.count += 1;
            k.last = record.at;
            let patch = serde_json::json!({"count": k.count, "lastTimestamp": rfc3339(record.at)});
            match api.patch(&k.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Ok(_) => continue,
                Err(kube::Error::Api(e)) if e.code == 404 => {}
                Err(e) => {
                    tracing::debug!(error = %e, "cannot update an event");
                    continue;
                }
            }
        }
        let name = format!(
            "{}.{:x}",
            record.about.name.as_deref().unwrap_or_default(),
            record.at.as_nanosecond() as u64
        );
        let event = Event {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace),
                ..ObjectMeta::default()
            },
            involved_object: record.about,
            reason: Some(record.reason),
            message: Some(record.message),
            type_: Some(record.kind.into()),
            count: Some(1),
            first_timestamp: Some(spec::time(record.at)),
            last_timestamp: Some(spec::time(record.at)),
            source: Some(EventSource { component: Some("kubelet".into()), host: Some(node.clone()) }),
            reporting_component: Some("kubelet".into()),
            reporting_instance: Some(node.clone()),
            ..Event::default()
        };
        match api.create(&PostParams::default(), &event).await {
            Ok(_) => {
                if known.len() >= REMEMBERED {
                    known.clear();
                }
                known.insert(key, Known { name, count: 1, last: record.at });
            }
            Err(e) => tracing::debug!(error = %e, "cannot write an event"),
        }
    }
}
