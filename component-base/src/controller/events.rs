//! Event recorder: what a daemon did or could not do, told on the object it concerns.
//!
//! Recording never waits: events go into a bounded queue and one task writes them, after [`super::correlate`] has
//! counted repeats. When the queue is full the event is dropped, for events are advice, not state.

use std::time::Instant;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use kube::api::{Api, Patch, PatchParams, PostParams};
use tokio::sync::mpsc;

use super::correlate::{Correlator, Notice, Subject, Verdict};

const QUEUE: usize = 1000;

/// Whether an event is good or bad news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    /// Information only.
    Normal,
    /// Something may need attention.
    Warning,
}

impl EventType {
    /// As the API spells it.
    pub fn as_str(self) -> &'static str {
        match self {
            EventType::Normal => "Normal",
            EventType::Warning => "Warning",
        }
    }
}

struct Raised {
    component: String,
    host: Option<String>,
    object: ObjectReference,
    type_: EventType,
    reason: String,
    message: String,
    at: Timestamp,
}

/// Writes events for one component. Cheap to clone.
#[derive(Clone)]
pub struct EventRecorder {
    component: String,
    host: Option<String>,
    queue: mpsc::Sender<Raised>,
}

impl EventRecorder {
    /// A recorder for `component`; `host` is the node's name for daemons that run on every node. Starts the task that
    /// writes, which ends when the last clone of the recorder is gone.
    pub fn new(client: kube::Client, component: impl Into<String>, host: Option<String>) -> Self {
        let (queue, rx) = mpsc::channel(QUEUE);
        tokio::spawn(write_events(client, rx));
        Self { component: component.into(), host, queue }
    }

    /// A recorder that speaks for another component through the same queue.
    pub fn for_component(&self, component: impl Into<String>) -> Self {
        Self { component: component.into(), ..self.clone() }
    }

    /// Records an event on `object`; never waits.
    pub fn event(
        &self,
        object: &ObjectReference,
        type_: EventType,
        reason: impl Into<String>,
        message: impl Into<String>,
    ) {
        let (reason, message) = (reason.into(), message.into());
        tracing::debug!(
            object = object.name.as_deref().unwrap_or_default(),
            kind = object.kind.as_deref().unwrap_or_default(),
            reason,
            message,
            "event"
        );
        let raised = Raised {
            component: self.component.clone(),
            host: self.host.clone(),
            object: object.clone(),
            type_,
            reason,
            message,
            at: Timestamp::now(),
        };
        if self.queue.try_send(raised).is_err() {
            tracing::debug!("event queue is full, event dropped");
        }
    }

    /// Records a [`EventType::Normal`] event.
    pub fn normal(&self, object: &ObjectReference, reason: impl Into<String>, message: impl Into<String>) {
        self.event(object, EventType::Normal, reason, message);
    }

    /// Records a [`EventType::Warning`] event.
    pub fn warning(&self, object: &ObjectReference, reason: impl Into<String>, message: impl Into<String>) {
        self.event(object, EventType::Warning, reason, message);
    }
}

fn notice(raised: &Raised) -> Notice {
    let o = &raised.object;
    let part = |s: &Option<String>| s.clone().unwrap_or_default();
    Notice {
        subject: Subject {
            component: raised.component.clone(),
            object: [part(&o.kind), part(&o.namespace), part(&o.name), part(&o.uid), part(&o.field_path)]
                .join("/"),
        },
        type_: raised.type_.as_str().to_owned(),
        reason: raised.reason.clone(),
        message: raised.message.clone(),
    }
}

fn new_event(raised: &Raised, message: String) -> Event {
    let namespace =
        raised.object.namespace.clone().filter(|n| !n.is_empty()).unwrap_or_else(|| "default".into());
    let name =
        format!("{}.{:x}", raised.object.name.as_deref().unwrap_or_default(), raised.at.as_nanosecond());
    Event {
        metadata: ObjectMeta { name: Some(name), namespace: Some(namespace), ..ObjectMeta::default() },
        involved_object: raised.object.clone(),
        reason: Some(raised.reason.clone()),
        message: Some(message),
        type_: Some(raised.type_.as_str().to_owned()),
        source: Some(EventSource { component: Some(raised.component.clone()), host: raised.host.clone() }),
        reporting_component: Some(raised.component.clone()),
        reporting_instance: raised.host.clone(),
        first_timestamp: Some(Time(raised.at)),
        last_timestamp: Some(Time(raised.at)),
        count: Some(1),
        ..Event::default()
    }
}

async fn write_events(client: kube::Client, mut queue: mpsc::Receiver<Raised>) {
    let mut correlator = Correlator::default();
    while let Some(raised) = queue.recv().await {
        let namespace = raised.object.namespace.as_deref().filter(|n| !n.is_empty()).unwrap_or("default");
        let api: Api<Event> = Api::namespaced(client.clone(), namespace);
        let result = match correlator.judge(&notice(&raised), Instant::now()) {
            Verdict::Drop => Ok(()),
            Verdict::Create { message, key } => create(&api, &raised, message, key, &mut correlator).await,
            Verdict::Bump { name, count, message, key } => {
                let patch =
                    serde_json::json!({"count": count, "lastTimestamp": Time(raised.at), "message": message});
                match api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                    Err(kube::Error::Api(s)) if s.code == 404 => {
                        correlator.forget(&key);
                        create(&api, &raised, message, key, &mut correlator).await
                    }
                    other => other.map(|_| ()),
                }
            }
        };
        if let Err(error) = result {
            // A namespace that is going away accepts no new objects: normal.
            tracing::debug!(%error, reason = raised.reason, "event not written");
        }
    }
}

async fn create(
    api: &Api<Event>,
    raised: &Raised,
    message: String,
    key: Notice,
    correlator: &mut Correlator,
) -> kube::Result<()> {
    let event = new_event(raised, message);
    let name = event.metadata.name.clone().unwrap_or_default();
    api.create(&PostParams::default(), &event).await?;
    correlator.written(key, name, 1, Instant::now());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_scoped_objects_tell_in_default() {
        let raised = Raised {
            component: "kubelet".into(),
            host: Some("node1".into()),
            object: ObjectReference {
                kind: Some("Node".into()),
                name: Some("node1".into()),
                ..Default::default()
            },
            type_: EventType::Warning,
            reason: "NodeNotReady".into(),
            message: "m".into(),
            at: Timestamp::UNIX_EPOCH,
        };
        let event = new_event(&raised, "m".into());
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
        assert_eq!(event.metadata.name.as_deref(), Some("node1.0"));
        assert_eq!(event.reporting_component.as_deref(), Some("kubelet"));
        assert_eq!(event.source.and_then(|s| s.host).as_deref(), Some("node1"));
    }
}
