//! Mirror pods: the API server's copies of static pods, so that they can be seen there. Their status is the
//! static pod's; deleting one only brings it back.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::OwnerReference};
use kube::{
    Api,
    api::{DeleteParams, PostParams, Preconditions},
};
use parking_lot::Mutex;

use super::spec;
use crate::context::Context;

/// Mirrors by `namespace/name`.
pub struct Mirrors {
    ctx: Arc<Context>,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    present: HashMap<String, Pod>,
    wanted: HashMap<String, Pod>,
    busy: HashSet<String>,
}

impl Mirrors {
    pub fn new(ctx: Arc<Context>) -> Self {
        Self { ctx, state: Arc::default() }
    }

    /// All mirrors that the API server has.
    pub fn replace(&self, list: Vec<Pod>) {
        let keys: Vec<String> = {
            let mut s = self.state.lock();
            s.present = list.into_iter().map(|p| (spec::key(&p), p)).collect();
            s.present.keys().chain(s.wanted.keys()).cloned().collect()
        };
        for key in keys {
            self.reconcile(key);
        }
    }

    pub fn apply(&self, pod: Pod) {
        let key = spec::key(&pod);
        self.ctx.status.set_mirror(&key, Some(&pod));
        self.state.lock().present.insert(key.clone(), pod);
        self.reconcile(key);
    }

    pub fn remove(&self, pod: &Pod) {
        let key = spec::key(pod);
        self.ctx.status.set_mirror(&key, None);
        self.state.lock().present.remove(&key);
        self.reconcile(key);
    }

    /// A static pod exists.
    pub fn want(&self, pod: &Pod) {
        let key = spec::key(pod);
        self.state.lock().wanted.insert(key.clone(), pod.clone());
        self.reconcile(key);
    }

    /// The static pods that exist now.
    pub fn keep_only(&self, pods: &[Pod]) {
        let keep: HashSet<String> = pods.iter().map(spec::key).collect();
        let gone: Vec<String> = {
            let mut s = self.state.lock();
            let gone = s.wanted.keys().filter(|k| !keep.contains(*k)).cloned().collect();
            s.wanted.retain(|k, _| keep.contains(k));
            gone
        };
        for key in gone {
            self.reconcile(key);
        }
    }

    /// A pod's worker has ended; its mirror, if it was static, may go.
    pub fn pod_ended(&self, pod: &Pod) {
        if spec::is_static(pod) {
            self.reconcile(spec::key(pod));
        }
    }

    /// Brings one mirror in line, in the background; one at a time per pod.
    fn reconcile(&self, key: String) {
        if self.ctx.client.is_none() || !self.state.lock().busy.insert(key.clone()) {
            return;
        }
        let (ctx, state) = (self.ctx.clone(), self.state.clone());
        tokio::spawn(async move {
            while let Err(e) = bring_in_line(&ctx, &state, &key).await {
                tracing::debug!(pod = key, error = %e, "cannot bring a mirror pod in line, trying again");
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
            state.lock().busy.remove(&key);
        });
    }
}

fn hash(pod: &Pod) -> Option<&str> {
    spec::annotation(pod, spec::CONFIG_HASH)
}

async fn bring_in_line(ctx: &Context, state: &Mutex<State>, key: &str) -> anyhow::Result<()> {
    let Some(client) = &ctx.client else { return Ok(()) };
    let (wanted, present) = {
        let s = state.lock();
        (s.wanted.get(key).cloned(), s.present.get(key).cloned())
    };
    let namespace = key.split('/').next().unwrap_or("default");
    let api: Api<Pod> = Api::namespaced(client.clone(), namespace);
    if let Some(old) = &present {
        let fits = wanted.as_ref().is_some_and(|w| spec::annotation(old, spec::CONFIG_MIRROR) == hash(w));
        if fits && old.metadata.deletion_timestamp.is_none() {
            ctx.status.set_mirror(key, Some(old));
            return Ok(());
        }
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: old.metadata.uid.clone(), ..Default::default() }),
            ..DeleteParams::default()
        };
        match api.delete(spec::name(old), &params).await {
            Ok(_) => {}
            Err(kube::Error::Api(e)) if e.code == 404 || e.code == 409 => {}
            Err(e) => return Err(e.into()),
        }
        state.lock().present.remove(key);
    }
    let Some(wanted) = wanted else { return Ok(()) };
    let mirror = mirror_of(&wanted, ctx);
    match api.create(&PostParams::default(), &mirror).await {
        Ok(made) => {
            ctx.status.set_mirror(key, Some(&made));
            state.lock().present.insert(key.to_owned(), made);
            Ok(())
        }
        Err(kube::Error::Api(e)) if e.code == 409 => Ok(()),
        Err(e) => Err(e.into()),
    }
}

fn mirror_of(pod: &Pod, ctx: &Context) -> Pod {
    let mut mirror = pod.clone();
    let value = hash(pod).unwrap_or_default().to_owned();
    let meta = &mut mirror.metadata;
    meta.uid = None;
    meta.generation = None;
    meta.resource_version = None;
    meta.annotations.get_or_insert_with(BTreeMap::new).insert(spec::CONFIG_MIRROR.into(), value);
    if let Some(node) = ctx.node.read().as_ref() {
        meta.owner_references = Some(vec![OwnerReference {
            api_version: "v1".into(),
            kind: "Node".into(),
            name: ctx.node_name.clone(),
            uid: node.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: None,
        }]);
    }
    // A service account would mount a token that static pods never get.
    if let Some(s) = &mut mirror.spec {
        s.service_account_name = None;
    }
    mirror
}
