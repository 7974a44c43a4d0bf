//! ResourceClaims once a node is chosen: allocation and reservation are written, devices waited for; and taken back if
//! the pod does not get there.

use std::time::Duration;

use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::json;

use crate::dra::binding;
use crate::dra::claims::{allocation, reserved_for, shown};
use crate::model::PodInfo;
use crate::plugins::dynamic_resources::ClaimPlan;

/// Keeps a claim from going away as long as it has devices.
const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// Attempts to write a claim that others write, too, and the pause between them.
const ATTEMPTS: usize = 5;
const PAUSE: Duration = Duration::from_millis(10);

fn api_of(client: &Client, c: &api::ResourceClaim) -> Api<api::ResourceClaim> {
    Api::namespaced(client.clone(), c.metadata.namespace.as_deref().unwrap_or(""))
}

fn name_of(c: &api::ResourceClaim) -> &str {
    c.metadata.name.as_deref().unwrap_or("")
}

/// Why a claim was not written.
enum Refused {
    /// Somebody else was faster: what they wrote may go along with this.
    Conflict(String),
    Final(String),
}

impl Refused {
    fn new(doing: &str, c: &api::ResourceClaim, e: &kube::Error) -> Self {
        let text = format!("{doing} claim {}: {e}", shown(c));
        match e {
            kube::Error::Api(s) if s.code == 409 && s.reason == "Conflict" => Self::Conflict(text),
            _ => Self::Final(text),
        }
    }
}

/// Creates the claim for a pod's extended resources (KEP-5004).
///
/// # Errors
/// A message for the pod: the API server refused.
pub async fn create(client: &Client, claim: &api::ResourceClaim) -> Result<api::ResourceClaim, String> {
    let mut c = claim.clone();
    c.metadata.name = None;
    c.metadata.uid = None;
    let created = api_of(client, &c).create(&PostParams::default(), &c).await;
    created.map_err(|e| format!("create claim for extended resources {}: {e}", shown(claim)))
}

/// Deletes a claim for extended resources, devices and all, so that the pod can be placed anew.
pub async fn delete(client: &Client, c: &api::ResourceClaim) {
    let api = api_of(client, c);
    let only = Preconditions { uid: c.metadata.uid.clone(), resource_version: None };
    let this = DeleteParams { preconditions: Some(only), ..DeleteParams::default() };
    let mut done = api.delete(name_of(c), &this).await.map(|_| ());
    if done.is_ok() {
        // The finalizer is for devices that a pod may use; this one never got there.
        let patch =
            json!({"metadata": {"uid": c.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        done = match api.patch(name_of(c), &PatchParams::default(), &Patch::Strategic(patch)).await {
            Err(kube::Error::Api(s)) if s.code == 404 => Ok(()),
            other => other.map(|_| ()),
        };
    }
    match done {
        Ok(()) => tracing::info!(claim = shown(c), "deleted a claim for extended resources"),
        Err(error) => tracing::warn!(claim = shown(c), %error, "cannot delete a claim"),
    }
}

/// Writes what a claim gets, and that the pod may use it. The claim as it is then.
///
/// # Errors
/// A message for the pod: the API server refused, or the claim is not what it was.
pub async fn bind(
    client: &Client,
    pod: &PodInfo,
    mut claim: api::ResourceClaim,
    plan: &ClaimPlan,
) -> Result<api::ResourceClaim, String> {
    if reserved_for(&claim, &pod.uid) {
        return Ok(claim);
    }
    let api = api_of(client, &claim);
    let mut attempt = 1;
    loop {
        match write(&api, claim.clone(), pod, plan).await {
            Ok(c) => return Ok(c),
            Err(Refused::Conflict(_)) if attempt < ATTEMPTS => {}
            Err(Refused::Conflict(text) | Refused::Final(text)) => return Err(text),
        }
        attempt += 1;
        tokio::time::sleep(PAUSE).await;
        claim = api
            .get(name_of(&claim))
            .await
            .map_err(|e| format!("get updated claim {} after conflict: {e}", shown(&claim)))?;
    }
}

async fn write(
    api: &Api<api::ResourceClaim>,
    mut c: api::ResourceClaim,
    pod: &PodInfo,
    plan: &ClaimPlan,
) -> Result<api::ResourceClaim, Refused> {
    let elsewhere =
        |c: &_, what: &str| Refused::Final(format!("claim {} got {what} in the meantime", shown(c)));
    if c.metadata.deletion_timestamp.is_some() {
        return Err(elsewhere(&c, "deleted"));
    }
    if plan.allocation.is_some() {
        if allocation(&c).is_some() {
            return Err(elsewhere(&c, "allocated elsewhere"));
        }
        let finalizers = c.metadata.finalizers.get_or_insert_default();
        if !finalizers.iter().any(|f| f == FINALIZER) {
            finalizers.push(FINALIZER.into());
            c = api
                .replace(name_of(&c), &PostParams::default(), &c)
                .await
                .map_err(|e| Refused::new("add finalizer to", &c, &e))?;
        }
    }
    let status = c.status.get_or_insert_default();
    if plan.allocation.is_some() {
        status.allocation.clone_from(&plan.allocation);
    }
    status.reserved_for.get_or_insert_default().push(api::ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: pod.name.to_string(),
        uid: pod.uid.to_string(),
    });
    match &mut status.allocation {
        Some(a) => {
            let now = jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default();
            a.allocation_timestamp.get_or_insert(Time(now));
        }
        None => return Err(elsewhere(&c, "deallocated elsewhere")),
    }
    let doing =
        if plan.allocation.is_some() { "add allocation and reservation to" } else { "add reservation to" };
    api.replace_status(name_of(&c), &PostParams::default(), &c).await.map_err(|e| Refused::new(doing, &c, &e))
}

/// Why devices are not ready: a message for the pod.
pub enum NotReady {
    /// A device says so.
    Failed(String),
    /// The time was up.
    Late(String),
    /// Nobody knows.
    Unknown(String),
}

impl NotReady {
    /// As metrics call it.
    #[must_use]
    pub fn status(&self) -> &'static str {
        match self {
            Self::Failed(_) => "failure",
            Self::Late(_) => "timeout",
            Self::Unknown(_) => "error",
        }
    }

    /// The message.
    #[must_use]
    pub fn into_text(self) -> String {
        match self {
            Self::Failed(text) | Self::Late(text) | Self::Unknown(text) => text,
        }
    }
}

/// Waits until the devices of a claim are ready, for as long as `timeout`.
///
/// # Errors
/// A device will not become ready, or did not in time.
pub async fn wait(client: &Client, c: &api::ResourceClaim, timeout: Duration) -> Result<(), NotReady> {
    let decided = |c: Option<&api::ResourceClaim>| c.is_none_or(|c| binding::ready(c) != Ok(false));
    let found = tokio::time::timeout(timeout, await_condition(api_of(client, c), name_of(c), decided)).await;
    match found {
        Err(_) => Err(NotReady::Late(format!("device binding timeout: claim={}", name_of(c)))),
        Ok(Err(e)) => Err(NotReady::Unknown(format!("watching claim {}: {e}", shown(c)))),
        Ok(Ok(None)) => Err(NotReady::Unknown(format!("could not find ResourceClaim {:?}", shown(c)))),
        Ok(Ok(Some(c))) => binding::ready(&c).map(|_| ()).map_err(NotReady::Failed),
    }
}

/// Takes back the reservation of a claim for a pod that is not bound.
pub async fn unreserve(client: &Client, pod: &PodInfo, c: &api::ResourceClaim) {
    // An entry is taken out by its UID, whatever else has changed.
    let patch = json!({
        "metadata": {"uid": c.metadata.uid},
        "status": {"reservedFor": [{"$patch": "delete", "uid": pod.uid.as_ref()}]},
    });
    let patch = Patch::Strategic(patch);
    if let Err(error) = api_of(client, c).patch_status(name_of(c), &PatchParams::default(), &patch).await {
        tracing::warn!(claim = shown(c), pod = %pod.key(), %error, "cannot take the reservation back");
    }
}

/// Gives up what a claim has, so that it can get something else.
pub async fn deallocate(client: &Client, c: &api::ResourceClaim) {
    let mut c = c.clone();
    if let Some(status) = &mut c.status {
        status.allocation = None;
        status.reserved_for = None;
        status.devices = None;
    }
    match api_of(client, &c).replace_status(name_of(&c), &PostParams::default(), &c).await {
        Ok(_) => tracing::info!(claim = shown(&c), "deallocated"),
        Err(error) => tracing::warn!(claim = shown(&c), %error, "cannot deallocate a claim"),
    }
}
