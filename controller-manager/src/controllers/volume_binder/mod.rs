//! Persistent volume binder: brings claims and volumes together, and says what becomes of a volume whose claim is gone.
//!
//! [`claim`] and [`volume`] decide what happens next to one object, [`matching`] which volume a claim gets, [`edit`]
//! what an object looks like after a step; [`act`] does the writing. There is one worker: two claims that are looked at
//! at the same time could choose the same volume, and one of them would only fail.
//!
//! A reserved volume is taken before a free one whatever their access modes are; upstream would prefer a free one with
//! fewer modes.

pub mod act;
pub mod claim;
pub mod edit;
pub mod matching;
pub mod names;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub mod volume;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use component_base::controller::events::{EventRecorder, EventType};
use component_base::controller::informer::{Delta, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};

use self::act::{BY_CLAIM, BY_VOLUME, Binder, Key, Server, UNBOUND_BY_CLASS, is_default, key_of_ref};
use self::claim::Note;
use self::matching::claim_ref;
use self::names::BIND_COMPLETED;
use crate::context::{Context, synced};
use crate::util::latest::Latest;
use crate::util::{errors, meta, pods, volumes};

struct Http {
    client: Client,
    events: EventRecorder,
}

#[async_trait]
impl Server for Http {
    async fn put_volume(&self, volume: &PersistentVolume, status: bool) -> kube::Result<PersistentVolume> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let name = meta::name(&volume.metadata);
        if status {
            api.replace_status(name, &PostParams::default(), volume).await
        } else {
            api.replace(name, &PostParams::default(), volume).await
        }
    }

    async fn put_claim(
        &self,
        claim: &PersistentVolumeClaim,
        status: bool,
    ) -> kube::Result<PersistentVolumeClaim> {
        let namespace = meta::namespace(&claim.metadata);
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        let name = meta::name(&claim.metadata);
        if status {
            api.replace_status(name, &PostParams::default(), claim).await
        } else {
            api.replace(name, &PostParams::default(), claim).await
        }
    }

    async fn fetch_claim(&self, key: &str) -> kube::Result<Option<PersistentVolumeClaim>> {
        let (namespace, name) = split_key(key);
        let api: Api<PersistentVolumeClaim> =
            Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        api.get_opt(name).await
    }

    async fn delete_volume(&self, volume: &PersistentVolume) -> kube::Result<()> {
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let same = Preconditions { uid: volume.metadata.uid.clone(), resource_version: None };
        match api.delete(meta::name(&volume.metadata), &DeleteParams::default().preconditions(same)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(drop),
        }
    }

    async fn remove_folder(&self, path: &Path) -> std::io::Result<()> {
        match tokio::fs::remove_dir_all(path).await {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn note(&self, object: &ObjectReference, note: &Note) {
        let kind = if note.warning { EventType::Warning } else { EventType::Normal };
        self.events.event(object, kind, note.reason, note.message.clone());
    }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let pvs = ctx.informers.of::<PersistentVolume>();
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    let classes = ctx.informers.of::<StorageClass>();
    let all_pods = ctx.informers.of::<Pod>();
    act::add_indexes(&pvs.store(), &pvcs.store(), &all_pods.store());
    let server = Http {
        client: ctx.client("persistent-volume-binder")?,
        events: ctx.events.for_component("persistentvolume-controller"),
    };
    let binder = Arc::new(Binder {
        server,
        volumes: Latest::new(pvs.store()),
        claims: Latest::new(pvcs.store()),
        unbound: pvcs.store(),
        classes: classes.store(),
        pods: all_pods.store(),
        provisioning: ctx.flags.enable_dynamic_provisioning,
    });
    let queue: WorkQueue<Key> = WorkQueue::default();

    let (b, q) = (binder.clone(), queue.clone());
    pvcs.on_change(move |d| claim_changed(&b, d).into_iter().for_each(|k| q.add(k)));
    let (b, q) = (binder.clone(), queue.clone());
    pvs.on_change(move |d| volume_changed(&b, d).into_iter().for_each(|k| q.add(k)));
    let (b, q) = (binder.clone(), queue.clone());
    classes.on_change(move |d| {
        if !d.is_deleted() {
            let class = d.object();
            let mut keys = unbound_of(&b, meta::name(&class.metadata));
            if is_default(class) {
                keys.extend(unbound_of(&b, ""));
            }
            keys.into_iter().for_each(|k| q.add(k));
        }
    });
    let (b, q) = (binder.clone(), queue.clone());
    all_pods.on_change(move |d| {
        // Only what is said on claims that wait changes by it.
        if d.old().is_none() && pods::node(d.object()).is_empty() {
            let keys = volumes::index_pods_by_claim(d.object()).into_iter();
            let unbound = |key: &String| {
                b.unbound.get(key).is_some_and(|c| meta::annotation(&c.metadata, BIND_COMPLETED).is_none())
            };
            keys.filter(unbound).for_each(|k| q.add(Key::Claim(k)));
        }
    });

    let ready = vec![synced(&pvs), synced(&pvcs), synced(&classes), synced(&all_pods)];
    let q = queue.clone();
    ctx.work("volumes", &queue, 1, ready, move |key| {
        let (binder, queue) = (binder.clone(), q.clone());
        async move {
            binder.sync(&key).await?.into_iter().for_each(|k| queue.add(k));
            Ok(())
        }
    });
    Ok(())
}

fn unbound_of<S>(b: &Binder<S>, class: &str) -> Vec<Key> {
    b.unbound.by_index(UNBOUND_BY_CLASS, class).iter().map(|c| Key::Claim(key_of(c.as_ref()))).collect()
}

/// What a change of a claim concerns: itself, and every volume that refers to it.
fn claim_changed<S>(b: &Binder<S>, d: &Delta<PersistentVolumeClaim>) -> Vec<Key> {
    let claim = d.object();
    let key = key_of(claim.as_ref());
    let named = |c: &PersistentVolumeClaim| volumes::volume_name(c).to_owned();
    let mut names: Vec<String> =
        b.volumes.by_index(BY_CLAIM, &key).iter().map(|v| meta::name(&v.metadata).to_owned()).collect();
    names.extend([d.old().map(|c| named(c)), Some(named(claim))].into_iter().flatten());
    names.retain(|n| !n.is_empty());
    let mut keys: Vec<Key> = names.into_iter().map(Key::Volume).collect();
    if d.is_deleted() {
        b.claims.forget(&key);
    } else {
        keys.push(Key::Claim(key));
    }
    keys
}

/// What a change of a volume concerns: itself, the claim it refers to, and the claims that name it.
fn volume_changed<S>(b: &Binder<S>, d: &Delta<PersistentVolume>) -> Vec<Key> {
    let volume = d.object();
    let name = meta::name(&volume.metadata);
    let mut keys: Vec<Key> = claim_ref(volume).map(|r| Key::Claim(key_of_ref(r))).into_iter().collect();
    keys.extend(b.unbound.by_index(BY_VOLUME, name).iter().map(|c| Key::Claim(key_of(c.as_ref()))));
    if d.is_deleted() {
        b.volumes.forget(name);
    } else {
        keys.push(Key::Volume(name.to_owned()));
    }
    keys
}
