//! Writes pod statuses to the API server: the latest one wins, one request per pod at a time, only what changed
//! goes over the wire (a strategic merge patch of the status subresource, with the uid as precondition).

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api, Client,
    api::{DeleteParams, Patch, PatchParams, Preconditions},
};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use crate::pod::spec;

/// Writer of all pod statuses; clones share it.
#[derive(Clone)]
pub struct StatusWriter {
    client: Option<Client>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// By pod uid: what is to be written.
    pending: HashMap<String, (Arc<Pod>, PodStatus)>,
    /// By pod uid: what the API server has, as far as we wrote it.
    written: HashMap<String, PodStatus>,
    busy: HashSet<String>,
    /// Mirror pods by `namespace/name`: uid and status.
    mirrors: HashMap<String, (String, PodStatus)>,
    /// Last status of static pods, for a mirror that comes later.
    static_status: HashMap<String, (Arc<Pod>, PodStatus)>,
}

impl StatusWriter {
    pub fn new(client: Option<Client>) -> Self {
        Self { client, state: Arc::default() }
    }

    /// Publishes a status.
    pub fn update(&self, pod: &Arc<Pod>, status: PodStatus) {
        if self.client.is_none() {
            return;
        }
        let uid = spec::uid(pod).to_owned();
        let mut s = self.state.lock();
        if spec::is_static(pod) {
            s.static_status.insert(spec::key(pod), (pod.clone(), status.clone()));
        }
        s.pending.insert(uid.clone(), (pod.clone(), status));
        self.kick(&mut s, uid);
    }

    fn kick(&self, s: &mut State, uid: String) {
        if s.busy.insert(uid.clone()) {
            let writer = self.clone();
            tokio::spawn(async move { writer.drain(&uid).await });
        }
    }

    /// The mirror of a static pod has come, changed or gone.
    pub fn set_mirror(&self, key: &str, mirror: Option<&Pod>) {
        let mut s = self.state.lock();
        let Some(mirror) = mirror else {
            s.mirrors.remove(key);
            return;
        };
        let uid = spec::uid(mirror).to_owned();
        if s.mirrors.get(key).is_some_and(|(known, _)| *known == uid) {
            return;
        }
        s.mirrors.insert(key.to_owned(), (uid, mirror.status.clone().unwrap_or_default()));
        if let Some((pod, status)) = s.static_status.get(key).cloned() {
            let uid = spec::uid(&pod).to_owned();
            s.written.remove(&uid);
            s.pending.insert(uid.clone(), (pod, status));
            self.kick(&mut s, uid);
        }
    }

    async fn drain(&self, uid: &str) {
        let mut delay = Duration::from_millis(500);
        loop {
            let (pod, status) = {
                let mut s = self.state.lock();
                match s.pending.remove(uid) {
                    Some(x) => x,
                    None => {
                        s.busy.remove(uid);
                        return;
                    }
                }
            };
            match self.write(&pod, &status).await {
                Ok(()) => delay = Duration::from_millis(500),
                Err(e) => {
                    tracing::warn!(pod = spec::key(&pod), error = %e, "cannot write the pod's status, trying again");
                    self.state.lock().pending.entry(uid.to_owned()).or_insert((pod, status));
                    tokio::time::sleep(delay).await;
                    delay = (delay * 2).min(Duration::from_secs(10));
                }
            }
        }
    }

    async fn write(&self, pod: &Pod, status: &PodStatus) -> Result<(), kube::Error> {
        let Some(client) = &self.client else { return Ok(()) };
        let own_uid = spec::uid(pod);
        let (uid, base) = {
            let s = self.state.lock();
            let written = s.written.get(own_uid).cloned();
            if spec::is_static(pod) {
                let Some((uid, status)) = s.mirrors.get(&spec::key(pod)).cloned() else { return Ok(()) };
                (uid, written.unwrap_or(status))
            } else {
                (own_uid.to_owned(), written.or_else(|| pod.status.clone()).unwrap_or_default())
            }
        };
        let Some(patch) = diff(&base, status) else { return Ok(()) };
        let body = json!({"metadata": {"uid": uid}, "status": patch});
        let api: Api<Pod> = Api::namespaced(client.clone(), spec::namespace(pod));
        match api.patch_status(spec::name(pod), &PatchParams::default(), &Patch::Strategic(body)).await {
            Ok(answer) => {
                if let Some(now) = answer.status {
                    self.state.lock().written.insert(own_uid.to_owned(), now);
                }
                Ok(())
            }
            // Gone, or another pod of that name by now.
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => Ok(()),
            Err(kube::Error::Api(e)) if e.code == 422 || e.code == 400 => {
                tracing::error!(pod = spec::key(pod), error = %e, "the API server refuses the pod's status");
                Ok(())
            }
            Err(e) => Err(e),
        }
    }

    /// Waits until the pod's last status is written, then deletes it for good. True if it is gone.
    pub async fn finish_deletion(&self, pod: &Pod) -> bool {
        let Some(client) = &self.client else { return true };
        let uid = spec::uid(pod);
        for _ in 0..200 {
            if !self.state.lock().busy.contains(uid) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let api: Api<Pod> = Api::namespaced(client.clone(), spec::namespace(pod));
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(uid.into()), ..Default::default() }),
            ..DeleteParams::default()
        };
        match api.delete(spec::name(pod), &params).await {
            Ok(_) => true,
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => true,
            Err(e) => {
                tracing::warn!(pod = spec::key(pod), error = %e, "cannot delete the pod from the API server, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
                false
            }
        }
    }

    /// The pod is gone.
    pub fn forget(&self, uid: &str) {
        let mut s = self.state.lock();
        s.pending.remove(uid);
        s.written.remove(uid);
        s.static_status.retain(|_, (p, _)| spec::uid(p) != uid);
    }
}

/// Lists that the API merges by a key, and which therefore must be replaced explicitly.
const MERGED_LISTS: &[&str] = &["podIPs", "hostIPs", "resourceClaimStatuses"];

/// The patch from one status to another; `None` if they are the same.
pub fn diff(old: &PodStatus, new: &PodStatus) -> Option<Value> {
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) =
        (serde_json::to_value(old), serde_json::to_value(new))
    else {
        return None;
    };
    let mut patch = Map::new();
    for (key, value) in &new {
        if old.get(key) == Some(value) {
            continue;
        }
        if key == "conditions" {
            let changed = changed_conditions(old.get(key), value);
            if !changed.is_empty() {
                patch.insert(key.clone(), Value::Array(changed));
            }
            continue;
        }
        let mut value = value.clone();
        if let Some(before) = old.get(key) {
            take_back(before, &mut value);
        }
        if MERGED_LISTS.contains(&key.as_str())
            && old.contains_key(key)
            && let Value::Array(list) = &mut value
        {
            list.push(json!({"$patch": "replace"}));
        }
        patch.insert(key.clone(), value);
    }
    for key in old.keys().filter(|k| !new.contains_key(*k)) {
        patch.insert(key.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// A merge of maps keeps what is not named: what the new one has no more is named with nothing.
fn take_back(old: &Value, new: &mut Value) {
    let (Value::Object(old), Value::Object(new)) = (old, new) else { return };
    for (key, before) in old {
        match new.get_mut(key) {
            Some(now) => take_back(before, now),
            None => drop(new.insert(key.clone(), Value::Null)),
        }
    }
}

fn changed_conditions(old: Option<&Value>, new: &Value) -> Vec<Value> {
    let empty = Vec::new();
    let old = old.and_then(Value::as_array).unwrap_or(&empty);
    let list = new.as_array().unwrap_or(&empty);
    let mut changed = Vec::new();
    for c in list {
        let before = old.iter().find(|o| o["type"] == c["type"]);
        if before == Some(c) {
            continue;
        }
        let mut c = c.clone();
        // A merge keeps what is not named: take back what no longer holds.
        if let (Some(Value::Object(before)), Value::Object(now)) = (before, &mut c) {
            for key in before.keys() {
                now.entry(key.clone()).or_insert(Value::Null);
            }
        }
        changed.push(c);
    }
    // Conditions of ours that no longer are must be taken out of the merged list by name.
    for gone in old.iter().filter(|o| !list.iter().any(|c| c["type"] == o["type"])) {
        if gone["type"].as_str().is_some_and(|t| super::conditions::OWNED.contains(&t)) {
            changed.push(json!({"$patch": "delete", "type": gone["type"]}));
        }
    }
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(v: Value) -> PodStatus {
        serde_json::from_value(v).unwrap()
    }

    #[test]
    fn only_changes_are_sent() {
        let a = status(json!({"phase": "Pending", "podIPs": [{"ip": "1"}], "reason": "x", "conditions": [
            {"type": "Ready", "status": "False", "reason": "r", "message": "m"}, {"type": "PodScheduled", "status": "True"}]}));
        let b = status(json!({"phase": "Running", "podIPs": [{"ip": "2"}], "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "PodScheduled", "status": "True"}]}));
        assert!(diff(&a, &a).is_none());
        assert_eq!(
            diff(&a, &b).unwrap(),
            json!({"phase": "Running", "reason": null, "podIPs": [{"ip": "2"}, {"$patch": "replace"}],
                "conditions": [{"type": "Ready", "status": "True", "reason": null, "message": null}]})
        );
        let a =
            status(json!({"resources": {"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "1"}}}));
        let b = status(json!({"resources": {"limits": {"cpu": "2"}}}));
        let patch = json!({"resources": {"limits": {"cpu": "2", "memory": null}, "requests": null}});
        assert_eq!(diff(&a, &b), Some(patch));
    }
}
