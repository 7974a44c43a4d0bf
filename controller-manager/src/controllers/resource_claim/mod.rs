//! Resource claims: makes a pod's claims from their templates, reserves allocated claims for pods that got their node
//! past the scheduler, and frees claims whose users are gone (KEP-4381). [`plan`] decides.

pub mod plan;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimTemplate};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use parking_lot::Mutex;

use self::plan::{FINALIZER, Named, POD_CLAIM_NAME, entries, is_done, is_for_pod, named};
use crate::context::{Context, synced};
use crate::util::{errors, meta, pods};

/// Index of pods by the claims they use, and by templates (`template:namespace/name`).
const PODS_BY_USE: &str = "podResourceClaim";
/// Index of claims by the pod they were made for.
const BY_OWNER: &str = "claimPodOwner";
const FIELD_MANAGER: &str = "ResourceClaimController";

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Pod(String),
    Claim(String),
}

struct Controller {
    client: Client,
    events: EventRecorder,
    pods: Store<Pod>,
    claims: Store<ResourceClaim>,
    templates: Store<ResourceClaimTemplate>,
    /// Claims made whose creation the watch has not brought yet, by pod uid and entry: a second try must find them.
    made: Mutex<HashMap<(String, String), String>>,
}

fn uses(pod: &Pod) -> Vec<String> {
    let namespace = meta::namespace(&pod.metadata);
    let templates = entries(pod).filter_map(|e| e.resource_claim_template_name.as_ref());
    let templates = templates.map(|t| format!("template:{namespace}/{t}"));
    plan::names(pod).iter().map(|c| format!("{namespace}/{c}")).chain(templates).collect()
}

fn has_claims(pod: &Pod) -> bool {
    entries(pod).next().is_some()
        || pod.status.as_ref().is_some_and(|s| s.extended_resource_claim_status.is_some())
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let claims = ctx.informers.of::<ResourceClaim>();
    let templates = ctx.informers.of::<ResourceClaimTemplate>();
    all_pods.store().add_index(PODS_BY_USE, uses);
    claims.store().add_index(BY_OWNER, |c| plan::owner(c).map(|o| o.uid.clone()).into_iter().collect());
    let c = Arc::new(Controller {
        client: ctx.client("resource-claim-controller")?,
        events: ctx.events.for_component("resource_claim"),
        pods: all_pods.store(),
        claims: claims.store(),
        templates: templates.store(),
        made: Mutex::default(),
    });
    let queue: WorkQueue<Key> = WorkQueue::default();
    let (this, q) = (c.clone(), queue.clone());
    all_pods.on_change(move |d| this.pod_changed(d).into_iter().for_each(|k| q.add(k)));
    let (this, q) = (c.clone(), queue.clone());
    claims.on_change(move |d| this.claim_changed(d).into_iter().for_each(|k| q.add(k)));
    let (this, q) = (c.clone(), queue.clone());
    templates.on_change(move |d| {
        if !d.is_deleted() {
            let waiting = format!("template:{}", key_of(d.object().as_ref()));
            let users = this.pods.by_index(PODS_BY_USE, &waiting);
            users.iter().for_each(|p| q.add(Key::Pod(key_of(p.as_ref()))));
        }
    });
    let ready = vec![synced(&all_pods), synced(&claims), synced(&templates)];
    let workers = ctx.flags.concurrent_resourceclaim_syncs;
    ctx.work("resource_claim", &queue, workers, ready, move |key| {
        let c = c.clone();
        async move {
            match key {
                Key::Pod(key) => c.sync_pod(&key).await,
                Key::Claim(key) => c.sync_claim(&key).await.with_context(|| format!("resource claim {key}")),
            }
        }
    });
    Ok(())
}

impl Controller {
    fn pod_changed(&self, d: &Delta<Pod>) -> Vec<Key> {
        let pod = d.object();
        if !has_claims(pod) {
            return Vec::new();
        }
        if d.is_deleted() {
            let uid = meta::uid(&pod.metadata);
            self.made.lock().retain(|(owner, _), _| owner != uid);
        }
        let mut keys = Vec::new();
        if d.is_deleted() || is_done(pod) {
            let namespace = meta::namespace(&pod.metadata);
            keys.extend(plan::names(pod).into_iter().map(|c| Key::Claim(format!("{namespace}/{c}"))));
        }
        if !d.is_deleted() && pod.metadata.deletion_timestamp.is_none() && self.has_work(pod) {
            keys.push(Key::Pod(key_of(pod.as_ref())));
        }
        keys
    }

    /// Whether a look at the pod would find anything to do.
    fn has_work(&self, pod: &Pod) -> bool {
        let namespace = meta::namespace(&pod.metadata);
        entries(pod).any(|entry| match named(pod, entry) {
            Err(_) | Ok(Named::Missing) => true,
            Ok(Named::NotNeeded) => false,
            Ok(Named::Given(name)) => {
                let claim = self.claims.find(namespace, &name);
                !pods::node(pod).is_empty() && claim.is_some_and(|c| plan::reserved(pod, &c).is_some())
            }
            Ok(Named::Generated(name)) => match self.claims.find(namespace, &name) {
                None => true,
                Some(c) => !pods::node(pod).is_empty() && plan::reserved(pod, &c).is_some(),
            },
        })
    }

    fn claim_changed(&self, d: &Delta<ResourceClaim>) -> Vec<Key> {
        let claim = d.object();
        let key = key_of(claim.as_ref());
        let name = meta::name(&claim.metadata);
        self.made.lock().retain(|_, made| made != name);
        let mut keys: Vec<Key> = self
            .pods
            .by_index(PODS_BY_USE, &key)
            .iter()
            .filter(|p| p.metadata.deletion_timestamp.is_none() && self.has_work(p))
            .map(|p| Key::Pod(key_of(p.as_ref())))
            .collect();
        if !d.is_deleted() {
            keys.push(Key::Claim(key));
        }
        keys
    }

    async fn sync_pod(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        if pod.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let mut made: HashMap<&str, String> = HashMap::new();
        for entry in entries(&pod) {
            match self.claim_for(&pod, entry).await {
                Ok(Some(name)) => drop(made.insert(&entry.name, name)),
                Ok(None) => {}
                Err(why) => {
                    let message = format!("PodResourceClaim {}: {why}", entry.name);
                    let about = meta::reference(pod.as_ref());
                    self.events.warning(&about, "FailedResourceClaimCreation", message.clone());
                    bail!("pod {key}, {message}");
                }
            }
        }
        if !made.is_empty() {
            self.tell_pod(&pod, &made)
                .await
                .with_context(|| format!("update pod {key} ResourceClaimStatuses"))?;
        }
        if !pods::node(&pod).is_empty() {
            self.reserve(&pod).await.with_context(|| format!("reserving claims for pod {key}"))?;
        }
        Ok(())
    }

    /// The claim that the pod has to be told of; `None` if it knows, or needs none.
    async fn claim_for(&self, pod: &Pod, entry: &PodResourceClaim) -> Result<Option<String>, String> {
        let namespace = meta::namespace(&pod.metadata);
        match named(pod, entry)? {
            Named::Given(_) | Named::NotNeeded => return Ok(None),
            Named::Generated(name) => {
                if self.claims.find(namespace, &name).is_some_and(|c| is_for_pod(pod, &c).is_ok()) {
                    return Ok(None);
                }
            }
            Named::Missing => {}
        }
        let uid = meta::uid(&pod.metadata);
        let owned = self.claims.by_index(BY_OWNER, uid);
        let found = owned.iter().find(|c| meta::annotation(&c.metadata, POD_CLAIM_NAME) == Some(&entry.name));
        if let Some(found) = found {
            return Ok(Some(meta::name(&found.metadata).to_owned()));
        }
        let slot = (uid.to_owned(), entry.name.clone());
        if let Some(name) = self.made.lock().get(&slot) {
            return Ok(Some(name.clone()));
        }
        let Some(template) = &entry.resource_claim_template_name else { return Ok(None) };
        let Some(template) = self.templates.find(namespace, template) else {
            return Err(format!(
                "resource claim template {template:?}: resourceclaimtemplate.resource.k8s.io {template:?} not found"
            ));
        };
        let claim = plan::from_template(pod, &entry.name, &template);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(claim) => {
                let name = meta::name(&claim.metadata).to_owned();
                if self.claims.find(namespace, &name).is_none() {
                    self.made.lock().insert(slot, name.clone());
                }
                Ok(Some(name))
            }
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(None),
            Err(e) => Err(format!("create ResourceClaim : {}", errors::message(&e))),
        }
    }

    async fn tell_pod(&self, pod: &Pod, made: &HashMap<&str, String>) -> kube::Result<()> {
        let (namespace, name) = (meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        let known = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
        let kept = known.filter(|s| !made.contains_key(s.name.as_str())).map(|s| serde_json::json!(s));
        let new = made.iter().map(|(n, c)| serde_json::json!({"name": n, "resourceClaimName": c}));
        let statuses: Vec<_> = kept.chain(new).collect();
        let apply = serde_json::json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": namespace, "uid": pod.metadata.uid},
            "status": {"resourceClaimStatuses": statuses},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params = PatchParams::apply(FIELD_MANAGER).force();
        match api.patch_status(name, &params, &Patch::Apply(apply)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Pods that were bound without the scheduler use what is allocated already.
    async fn reserve(&self, pod: &Pod) -> anyhow::Result<()> {
        let namespace = meta::namespace(&pod.metadata);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace);
        for entry in entries(pod) {
            let which = named(pod, entry).map_err(anyhow::Error::msg)?;
            let Some(claim) = which.name().and_then(|n| self.claims.find(namespace, n)) else { continue };
            if matches!(which, Named::Generated(_)) {
                is_for_pod(pod, &claim).map_err(anyhow::Error::msg)?;
            }
            if let Some(reserved) = plan::reserved(pod, &claim) {
                let name = meta::name(&claim.metadata);
                api.replace_status(name, &PostParams::default(), &reserved)
                    .await
                    .with_context(|| format!("reserve claim {namespace}/{name}"))?;
            }
        }
        Ok(())
    }

    async fn sync_claim(&self, key: &str) -> anyhow::Result<()> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let (namespace, name) = split_key(key);
        let api: Api<ResourceClaim> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        let gone = self.gone_users(namespace.unwrap_or_default(), &claim).await?;
        let todo = plan::clean_up(&claim, &gone);
        let mut current = claim.as_ref().clone();
        if let Some(status) = &todo.status {
            current = match api.replace_status(name, &PostParams::default(), status).await {
                Err(e) if errors::not_found(&e) => return Ok(()),
                other => other.context("taking users off that are gone")?,
            };
        }
        if todo.release {
            if let Some(finalizers) = current.metadata.finalizers.as_mut() {
                finalizers.retain(|f| f != FINALIZER);
            }
            match api.replace(name, &PostParams::default(), &current).await {
                Err(e) if errors::not_found(&e) => return Ok(()),
                other => drop(other.context("removing the finalizer")?),
            }
        }
        if todo.unused && claim.metadata.deletion_timestamp.is_none() && self.owner_is_done(&claim) {
            let same = Preconditions { uid: claim.metadata.uid.clone(), resource_version: None };
            match api.delete(name, &DeleteParams::default().preconditions(same)).await {
                Err(e) if errors::not_found(&e) => {}
                other => drop(other.context("delete unused generated claim")?),
            }
        }
        Ok(())
    }

    /// Users of a claim that run no longer. A pod that is not in our store may be too new for it: the server knows.
    async fn gone_users(&self, namespace: &str, claim: &ResourceClaim) -> anyhow::Result<HashSet<String>> {
        let mut gone = HashSet::new();
        for user in plan::pod_users(claim) {
            let is_gone = match self.pods.find(namespace, &user.name) {
                Some(pod) => meta::uid(&pod.metadata) != user.uid || is_done(&pod),
                None => {
                    let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
                    let fresh = api.get_opt(&user.name).await.context("looking up a user of the claim")?;
                    fresh.is_none_or(|p| meta::uid(&p.metadata) != user.uid)
                }
            };
            if is_gone {
                gone.insert(user.uid.clone());
            }
        }
        Ok(gone)
    }

    /// Whether the claim was made for a pod that will not run again; if the pod is gone, garbage collection does it.
    fn owner_is_done(&self, claim: &ResourceClaim) -> bool {
        let Some(owner) = plan::owner(claim) else { return false };
        let pod = self.pods.find(meta::namespace(&claim.metadata), &owner.name);
        pod.is_some_and(|p| meta::uid(&p.metadata) != owner.uid || is_done(&p))
    }
}
