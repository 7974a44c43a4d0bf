//! The collector's dealings with the server: looks objects up, deletes them, edits references and finalizers.

use std::collections::HashSet;

use anyhow::{Context as _, bail};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Api, DeleteParams, PartialObjectMeta, Patch, PatchParams, Preconditions};
use kube::core::DynamicObject;
use serde_json::{Value, json};

use super::Collector;
use super::decide::{Decision, OwnerState, Propagation, decide};
use super::graph::{FOREGROUND, Node, ORPHAN, Place};
use crate::util::errors;

/// Owners known to be gone: uid, and namespace where they were looked for. Uids never come back, so entries stay true.
#[derive(Default)]
pub struct Absent {
    set: HashSet<(String, String)>,
}

impl Absent {
    const MAX: usize = 500;

    fn contains(&self, uid: &str, namespace: &str) -> bool {
        self.set.contains(&(uid.to_owned(), namespace.to_owned()))
    }

    fn insert(&mut self, uid: &str, namespace: &str) {
        if self.set.len() >= Self::MAX {
            self.set.clear();
        }
        self.set.insert((uid.to_owned(), namespace.to_owned()));
    }
}

type Meta = PartialObjectMeta<DynamicObject>;

impl Collector {
    fn api(&self, place: &Place) -> anyhow::Result<Api<DynamicObject>> {
        let kind = self.kinds.get(place.kind).context("the kind is not served any more")?;
        Ok(kind.api(self.client.clone(), place.namespace.as_deref()))
    }

    /// The object as it is now, if it is still the same one.
    async fn live(&self, uid: &str, place: &Place) -> anyhow::Result<Option<Meta>> {
        let found = self.api(place)?.get_metadata_opt(&place.name).await.with_context(|| describe(place))?;
        Ok(found.filter(|o| o.metadata.uid.as_deref() == Some(uid)))
    }

    /// Decides about one object and does it.
    pub(super) async fn look_at(&self, uid: &str) -> anyhow::Result<()> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        if node.foreground {
            return self.finish_foreground(uid, &node).await;
        }
        if node.being_deleted || node.owners.is_empty() {
            return Ok(());
        }
        let kinds = |o: &super::graph::Owner| {
            self.kinds.resolve(&o.api_version, &o.kind).map(|(id, kind)| (id, kind.namespaced))
        };
        if self.graph.lock().surely_owned(&node, kinds) {
            return Ok(());
        }
        let Some(object) = self.live(uid, &node.place).await? else { return Ok(()) };
        let mut owners = Vec::new();
        for owner in object.metadata.owner_references.iter().flatten() {
            match self.owner_state(owner, &node.place).await? {
                Some(state) => owners.push((owner.uid.clone(), state)),
                // A cluster-scoped object can't have an owner inside a namespace; the reference is an error of its
                // writer and nothing to act on.
                None => return Ok(()),
            }
        }
        let (dependents, dependent_waits) = {
            let graph = self.graph.lock();
            let mut any = false;
            let mut waits = false;
            for d in graph.dependents(uid) {
                any = true;
                waits |= graph.get(d).is_some_and(|n| n.foreground);
            }
            (any, waits)
        };
        match decide(&object.metadata, &owners, dependents, dependent_waits) {
            Decision::Keep => Ok(()),
            Decision::DropOwners(gone) => self.drop_owners(&node.place, &object.metadata, &gone).await,
            Decision::Delete { propagation, unblock } => {
                if unblock {
                    self.unblock(&node.place, &object.metadata).await?;
                    // The patch changed the version: the next look deletes.
                    self.check.add(uid.into());
                    return Ok(());
                }
                self.delete(&node.place, &object.metadata, propagation).await
            }
        }
    }

    /// `None`: the reference makes no sense.
    async fn owner_state(&self, owner: &OwnerReference, place: &Place) -> anyhow::Result<Option<OwnerState>> {
        let namespace = place.namespace.as_deref().unwrap_or_default();
        let known_gone = {
            let absent = self.absent.lock();
            absent.contains(&owner.uid, "") || absent.contains(&owner.uid, namespace)
        };
        if known_gone {
            return Ok(Some(OwnerState::Gone));
        }
        let Some((_, kind)) = self.kinds.resolve(&owner.api_version, &owner.kind) else {
            self.rediscover();
            bail!(
                "{} names an owner of kind {} {}, which the server does not have",
                describe(place),
                owner.api_version,
                owner.kind
            );
        };
        if kind.namespaced && place.namespace.is_none() {
            let message = format!(
                "ownerRef [{}/{}, namespace: , name: {}, uid: {}] does not exist in namespace \"\"",
                owner.api_version, owner.kind, owner.name, owner.uid
            );
            self.events.warning(&self.reference(place), "OwnerRefInvalidNamespace", message);
            return Ok(None);
        }
        let api = kind.api(self.client.clone(), place.namespace.as_deref());
        let found = api
            .get_metadata_opt(&owner.name)
            .await
            .with_context(|| format!("looking up the owner of {}", describe(place)))?;
        Ok(Some(match found {
            Some(o) if o.metadata.uid.as_deref() == Some(&owner.uid) => {
                let waits = o.metadata.deletion_timestamp.is_some() && has(&o.metadata, FOREGROUND);
                if waits { OwnerState::Waiting } else { OwnerState::Solid }
            }
            _ => {
                self.absent.lock().insert(&owner.uid, if kind.namespaced { namespace } else { "" });
                OwnerState::Gone
            }
        }))
    }

    fn reference(&self, place: &Place) -> ObjectReference {
        let kind = self.kinds.get(place.kind);
        ObjectReference {
            api_version: kind.as_ref().map(|k| k.resource.api_version.clone()),
            kind: kind.as_ref().map(|k| k.resource.kind.clone()),
            namespace: place.namespace.as_deref().map(str::to_owned),
            name: Some(place.name.to_string()),
            ..ObjectReference::default()
        }
    }

    /// An object in foreground deletion goes when nothing that blocks it is left.
    async fn finish_foreground(&self, uid: &str, node: &Node) -> anyhow::Result<()> {
        let blocking = self.graph.lock().blocking_dependents(uid);
        if blocking.is_empty() {
            let Some(object) = self.live(uid, &node.place).await? else { return Ok(()) };
            return self.remove_finalizer(&node.place, &object.metadata, FOREGROUND).await;
        }
        for dependent in blocking {
            let waits = self.graph.lock().get(&dependent).is_some_and(|n| n.foreground);
            if !waits {
                self.check.add(dependent);
            }
        }
        Ok(())
    }

    /// Takes the owner's reference from all its dependents, then lets the owner go.
    pub(super) async fn orphan_dependents(&self, uid: &str) -> anyhow::Result<()> {
        let Some(node) = self.graph.lock().get(uid).cloned() else { return Ok(()) };
        let dependents: Vec<_> = {
            let graph = self.graph.lock();
            graph.dependents(uid).filter_map(|d| graph.get(d).map(|n| (d.clone(), n.place.clone()))).collect()
        };
        let gone = [uid.to_owned()];
        for (dependent, place) in dependents {
            if let Some(object) = self.live(&dependent, &place).await? {
                self.drop_owners(&place, &object.metadata, &gone).await?;
            }
        }
        let Some(object) = self.live(uid, &node.place).await? else { return Ok(()) };
        self.remove_finalizer(&node.place, &object.metadata, ORPHAN).await
    }

    async fn delete(
        &self,
        place: &Place,
        object: &ObjectMeta,
        propagation: Propagation,
    ) -> anyhow::Result<()> {
        let preconditions =
            Preconditions { uid: object.uid.clone(), resource_version: object.resource_version.clone() };
        let params = match propagation {
            Propagation::Background => DeleteParams::background(),
            Propagation::Foreground => DeleteParams::foreground(),
            Propagation::Orphan => DeleteParams::orphan(),
        };
        let params = params.preconditions(preconditions);
        match self.api(place)?.delete(&place.name, &params).await {
            Ok(_) => {
                tracing::debug!(object = describe(place), ?propagation, "deleted, its owners are gone");
                Ok(())
            }
            Err(e) if errors::not_found(&e) => Ok(()),
            Err(e) => Err(anyhow::Error::from(e).context(format!("deleting {}", describe(place)))),
        }
    }

    async fn drop_owners(&self, place: &Place, object: &ObjectMeta, gone: &[String]) -> anyhow::Result<()> {
        let all = object.owner_references.iter().flatten();
        let left: Vec<&OwnerReference> = all.filter(|o| !gone.contains(&o.uid)).collect();
        if left.len() == object.owner_references.as_ref().map_or(0, Vec::len) {
            return Ok(());
        }
        let left = if left.is_empty() { Value::Null } else { json!(left) };
        self.edit(place, object, "ownerReferences", left).await
    }

    async fn unblock(&self, place: &Place, object: &ObjectMeta) -> anyhow::Result<()> {
        let unblocked = object.owner_references.iter().flatten().cloned().map(|mut o| {
            o.block_owner_deletion = Some(false);
            o
        });
        self.edit(place, object, "ownerReferences", json!(unblocked.collect::<Vec<_>>())).await
    }

    async fn remove_finalizer(&self, place: &Place, object: &ObjectMeta, name: &str) -> anyhow::Result<()> {
        if !has(object, name) {
            return Ok(());
        }
        let left: Vec<&String> = object.finalizers.iter().flatten().filter(|f| *f != name).collect();
        self.edit(place, object, "finalizers", json!(left)).await
    }

    /// A merge patch works for custom resources too; the version in it makes sure that nobody's change is lost.
    async fn edit(
        &self,
        place: &Place,
        object: &ObjectMeta,
        field: &str,
        value: Value,
    ) -> anyhow::Result<()> {
        let patch = json!({"metadata": {
            "uid": object.uid, "resourceVersion": object.resource_version, field: value,
        }});
        match self
            .api(place)?
            .patch_metadata(&place.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => Ok(()),
            Err(e) if errors::not_found(&e) => Ok(()),
            Err(e) => Err(anyhow::Error::from(e).context(format!("changing {field} of {}", describe(place)))),
        }
    }
}

fn has(meta: &ObjectMeta, finalizer: &str) -> bool {
    meta.finalizers.as_ref().is_some_and(|f| f.iter().any(|f| f == finalizer))
}

fn describe(place: &Place) -> String {
    match place.namespace.as_deref() {
        Some(ns) => format!("{ns}/{}", place.name),
        None => place.name.to_string(),
    }
}
