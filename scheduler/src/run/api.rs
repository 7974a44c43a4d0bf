//! What the scheduler writes: bindings, pod conditions, nominations, evictions, events.

use component_base::controller::events::EventRecorder;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::core::request::{Error as RequestError, Request};
use kube::{Client, Resource};
use serde_json::{Value, json};

use crate::dra::extended::Mapping;
use crate::model::{PodInfo, Str};

/// The longest event message the API takes, in bytes.
const MAX_NOTE: usize = 1024;

/// The API server as the scheduler writes to it. Clones share the connection.
#[derive(Clone)]
pub struct Writer {
    pub client: Client,
    recorder: EventRecorder,
}

fn reference(pod: &PodInfo) -> ObjectReference {
    ObjectReference {
        api_version: Some("v1".into()),
        kind: Some("Pod".into()),
        namespace: Some(pod.namespace.to_string()),
        name: Some(pod.name.to_string()),
        uid: Some(pod.uid.to_string()),
        ..ObjectReference::default()
    }
}

impl Writer {
    /// A writer with its event recorder. Must be made inside the runtime.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { recorder: EventRecorder::new(client.clone(), "default-scheduler", None), client }
    }

    /// Sends a request whose answer nobody needs: the watches tell.
    async fn send(&self, request: Result<http::Request<Vec<u8>>, RequestError>) -> kube::Result<()> {
        self.client.request_text(request.map_err(kube::Error::BuildRequest)?).await.map(drop)
    }

    async fn send_status(&self, pod: &PodInfo, status: Value) -> kube::Result<()> {
        // The UID keeps the patch off a successor of the same name.
        let patch = Patch::Strategic(json!({"metadata": {"uid": pod.uid.as_ref()}, "status": status}));
        self.send(pods(pod).patch_subresource("status", &pod.name, &PatchParams::default(), &patch)).await
    }

    fn recorder(&self, profile: &str) -> EventRecorder {
        self.recorder.for_component(profile)
    }

    /// Binds a pod to its node.
    ///
    /// # Errors
    /// What the API server said.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> kube::Result<()> {
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(pod.name.to_string()),
                namespace: Some(pod.namespace.to_string()),
                uid: Some(pod.uid.to_string()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.into()),
                ..ObjectReference::default()
            },
        };
        let binding = serde_json::to_vec(&binding).map_err(kube::Error::SerdeError)?;
        self.send(pods(pod).create_subresource("binding", &pod.name, &PostParams::default(), binding)).await
    }

    /// Tells that the pod has a node.
    pub fn tell_scheduled(&self, pod: &PodInfo, node: &str, profile: &str) {
        let text = format!("Successfully assigned {} to {node}", pod.key());
        self.recorder(profile).normal(&reference(pod), "Scheduled", text);
    }

    /// Tells that the pod's devices have to be got ready first.
    pub fn tell_waiting_for_devices(&self, pod: &PodInfo, node: &str) {
        let text = format!("waiting for binding conditions for device on node {node}");
        let profile = &pod.want().scheduler;
        self.recorder(profile).normal(&reference(pod), "BindingConditionsPending", text);
    }

    /// Tells why the pod has no node: an event, and the `PodScheduled` condition if it does not say so already.
    /// `nominated` is a node to wait for (`Some("")` withdraws one).
    pub async fn tell_failed(
        &self,
        pod: &PodInfo,
        profile: &str,
        reason: &str,
        message: &str,
        nominated: Option<Str>,
    ) {
        self.recorder(profile).warning(&reference(pod), "FailedScheduling", shorten(message));
        let same =
            pod.want().condition.as_ref().is_some_and(|(r, m)| r.as_ref() == reason && m.as_ref() == message);
        let nominated = nominated.filter(|n| pod.want().nominated.as_deref().unwrap_or("") != n.as_ref());
        if same && nominated.is_none() {
            return;
        }
        let mut status = json!({"conditions": [{
            "type": "PodScheduled", "status": "False", "reason": reason, "message": message,
            "lastProbeTime": null, "observedGeneration": pod.generation,
            "lastTransitionTime": now(),
        }]});
        if pod.want().condition.is_some()
            && let Some(c) = status["conditions"][0].as_object_mut()
        {
            // It was False before: the status did not change.
            c.remove("lastTransitionTime");
        }
        if let Some(n) = nominated {
            status["nominatedNodeName"] = if n.is_empty() { json!(null) } else { json!(n.as_ref()) };
        }
        self.patch_status(pod, status, "setting the PodScheduled condition").await;
    }

    /// Says which node a pod is expected on while its volumes are being bound.
    pub async fn nominate(&self, pod: &PodInfo, node: &str) {
        self.patch_status(pod, json!({"nominatedNodeName": node}), "setting nominatedNodeName").await;
    }

    /// Says which claim has the devices for a pod's extended resources (KEP-5004).
    ///
    /// # Errors
    /// A message for the pod: without this its node would not give it the devices.
    pub async fn tell_extended(&self, pod: &PodInfo, claim: &str, of: &[Mapping]) -> Result<(), String> {
        let status =
            json!({"extendedResourceClaimStatus": {"resourceClaimName": claim, "requestMappings": of}});
        let done = self.send_status(pod, status).await;
        done.map_err(|e| format!("update pod {} ExtendedResourceClaimStatus: {e}", pod.key()))
    }

    /// Withdraws a pod's nomination.
    pub async fn clear_nomination(&self, pod: &PodInfo) {
        self.patch_status(pod, json!({"nominatedNodeName": null}), "clearing nominatedNodeName").await;
    }

    async fn patch_status(&self, pod: &PodInfo, status: Value, what: &str) -> bool {
        match self.send_status(pod, status).await {
            Ok(()) => true,
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => {
                tracing::debug!(pod = %pod.key(), error = %s.message, "the pod is gone: {what}");
                false
            }
            Err(error) => {
                tracing::warn!(pod = %pod.key(), %error, "{what} failed");
                true
            }
        }
    }

    /// Evicts `victim` to make room for `pod`. False if the API server refused.
    pub async fn evict(&self, victim: &PodInfo, pod: &PodInfo, node: &str, profile: &str) -> bool {
        let condition = json!({"conditions": [{
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "message": format!("{profile}: preempting to accommodate a higher priority pod"),
            "observedGeneration": victim.generation, "lastTransitionTime": now(),
        }]});
        if !self.patch_status(victim, condition, "marking a pod as preempted").await {
            return true;
        }
        let params = DeleteParams {
            preconditions: Some(Preconditions { uid: Some(victim.uid.to_string()), resource_version: None }),
            ..DeleteParams::default()
        };
        match self.send(pods(victim).delete(&victim.name, &params)).await {
            Ok(()) => {
                tracing::info!(victim = %victim.key(), pod = %pod.key(), node, "preempted");
                let text = format!("Preempted by pod {} on node {node}", pod.uid);
                self.recorder(profile).normal(&reference(victim), "Preempted", text);
                true
            }
            Err(kube::Error::Api(s)) if s.code == 404 || s.code == 409 => true,
            Err(error) => {
                tracing::error!(victim = %victim.key(), %error, "cannot evict a pod");
                false
            }
        }
    }
}

/// Requests to the pods of the namespace of `pod`.
fn pods(pod: &PodInfo) -> Request {
    Request::new(Pod::url_path(&(), Some(&pod.namespace)))
}

fn now() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn shorten(message: &str) -> String {
    if message.len() <= MAX_NOTE {
        return message.to_owned();
    }
    let mut end = MAX_NOTE - 4;
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    format!("{} ...", &message[..end])
}
