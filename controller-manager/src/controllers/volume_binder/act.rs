//! The binder: carries out what [`super::claim`] and [`super::volume`] decide, one claim or volume at a time.
//!
//! Every write is an update of a known version, so a decision made on old state fails with a conflict instead of
//! binding wrongly. A binding is four writes; after a crash in between, the next look at either side goes on with it.

use std::sync::Arc;

use anyhow::{Context as _, bail};
use async_trait::async_trait;
use component_base::controller::informer::Store;
use k8s_openapi::api::core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;

use super::claim::{self, Note, Step, View, waits_for_consumer};
use super::edit;
use super::matching::{claim_ref, fits, selector};
use super::names::{
    AVAILABLE, BOUND, EXTERNAL_PROVISIONING, FAILED, IN_TREE_FINALIZER, LOST, MIGRATED_TO, PENDING,
    PROVISIONING_FAILED, RELEASED, VOLUME_FAILED_DELETE, VOLUME_FAILED_RECYCLE, VOLUME_MISMATCH, csi_driver,
    is_in_tree,
};
use super::volume::{self, Deleter};
use crate::util::latest::Latest;
use crate::util::{meta, pods, volumes};

/// Index of volumes by the claim they are reserved for or bound to (`namespace/name`).
pub const BY_CLAIM: &str = "claimRef";
/// Index of free volumes by class.
pub const FREE_BY_CLASS: &str = "freeByClass";
/// Index of claims by the volume they name.
pub const BY_VOLUME: &str = "volumeName";
/// Index of claims that are not bound, by class.
pub const UNBOUND_BY_CLASS: &str = "unboundByClass";

/// A claim or volume to look at.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    Claim(String),
    Volume(String),
}

/// The server, as the binder needs it.
#[async_trait]
pub trait Server: Send + Sync {
    async fn put_volume(&self, volume: &PersistentVolume, status: bool) -> kube::Result<PersistentVolume>;
    async fn put_claim(
        &self,
        claim: &PersistentVolumeClaim,
        status: bool,
    ) -> kube::Result<PersistentVolumeClaim>;
    async fn fetch_claim(&self, key: &str) -> kube::Result<Option<PersistentVolumeClaim>>;
    async fn delete_volume(&self, volume: &PersistentVolume) -> kube::Result<()>;
    async fn remove_folder(&self, path: &std::path::Path) -> std::io::Result<()>;
    fn note(&self, object: &ObjectReference, note: &Note);
}

/// Binds claims and volumes.
pub struct Binder<S> {
    pub server: S,
    pub volumes: Latest<PersistentVolume>,
    pub claims: Latest<PersistentVolumeClaim>,
    pub unbound: Store<PersistentVolumeClaim>,
    pub classes: Store<StorageClass>,
    pub pods: Store<Pod>,
    pub provisioning: bool,
}

/// Indexes that the binder looks things up by.
pub fn add_indexes(pvs: &Store<PersistentVolume>, pvcs: &Store<PersistentVolumeClaim>, pods: &Store<Pod>) {
    pvs.add_index(BY_CLAIM, |v| claim_ref(v).map(key_of_ref).into_iter().collect());
    pvs.add_index(FREE_BY_CLASS, |v| {
        claim_ref(v).is_none().then(|| volumes::volume_class(v).to_owned()).into_iter().collect()
    });
    pvcs.add_index(BY_VOLUME, |c| {
        Some(volumes::volume_name(c)).filter(|n| !n.is_empty()).map(str::to_owned).into_iter().collect()
    });
    pvcs.add_index(UNBOUND_BY_CLASS, |c| {
        let unbound = meta::annotation(&c.metadata, super::names::BIND_COMPLETED).is_none();
        unbound.then(|| volumes::claim_class(c).to_owned()).into_iter().collect()
    });
    pods.add_index(volumes::PODS_BY_CLAIM, volumes::index_pods_by_claim);
}

/// `namespace/name` of a reference to a claim.
pub fn key_of_ref(r: &ObjectReference) -> String {
    format!("{}/{}", r.namespace.as_deref().unwrap_or_default(), r.name.as_deref().unwrap_or_default())
}

fn key_of_claim(claim: &PersistentVolumeClaim) -> String {
    format!("{}/{}", meta::namespace(&claim.metadata), meta::name(&claim.metadata))
}

impl<S> View for Binder<S> {
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
        self.volumes.get(name)
    }

    fn candidates(&self, claim: &PersistentVolumeClaim) -> Vec<Arc<PersistentVolume>> {
        let mut found = self.volumes.by_index(BY_CLAIM, &key_of_claim(claim));
        found.extend(self.volumes.by_index(FREE_BY_CLASS, volumes::claim_class(claim)));
        found
    }

    fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
        self.classes.get(name)
    }

    fn default_class(&self) -> Option<String> {
        let mut defaults = self.classes.list();
        defaults.retain(|c| is_default(c));
        defaults.sort_by(|a, b| {
            let newest = meta::created(&b.metadata).cmp(&meta::created(&a.metadata));
            newest.then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        defaults.first().map(|c| meta::name(&c.metadata).to_owned())
    }

    fn unscheduled_pods(&self, claim: &PersistentVolumeClaim) -> Vec<String> {
        let users = self.pods.by_index(volumes::PODS_BY_CLAIM, &key_of_claim(claim));
        let waiting = users.iter().filter(|p| !pods::is_terminal(p) && pods::node(p).is_empty());
        let mut names: Vec<String> = waiting.map(|p| meta::name(&p.metadata).to_owned()).collect();
        names.sort();
        names
    }
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &StorageClass) -> bool {
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
        .iter()
        .any(|key| meta::annotation(&class.metadata, key) == Some("true"))
}

impl<S: Server> Binder<S> {
    /// Looks at a claim or volume; returns what has to be looked at next.
    ///
    /// # Errors
    /// A write failed, or the object contradicts itself.
    pub async fn sync(&self, key: &Key) -> anyhow::Result<Vec<Key>> {
        match key {
            Key::Claim(key) => self.sync_claim(key).await.with_context(|| format!("claim {key}")),
            Key::Volume(name) => self.sync_volume(name).await.with_context(|| format!("volume {name}")),
        }
    }

    async fn sync_claim(&self, key: &str) -> anyhow::Result<Vec<Key>> {
        let Some(claim) = self.claims.get(key) else { return Ok(Vec::new()) };
        let about = meta::reference(claim.as_ref());
        match claim::plan(&claim, self)? {
            Step::Bind(volume) => self.bind(&claim, &volume).await?,
            Step::AssignClass(class) => {
                tracing::info!(claim = key, class, "the claim gets the default storage class");
                self.write_claim(&edit::claim_of_class(&claim, &class), false).await?;
                return Ok(vec![Key::Claim(key.to_owned())]);
            }
            Step::Provision => self.provision(&claim, &about).await?,
            Step::Wait(note) => {
                if let Some(note) = note {
                    self.server.note(&about, &note);
                }
                self.claim_phase(&claim, PENDING, None).await?;
            }
            Step::Lose(note) => {
                if volumes::claim_phase(&claim) != LOST {
                    self.claim_phase(&claim, LOST, None).await?;
                    self.server.note(&about, &note);
                }
            }
            Step::Refuse(note) => {
                self.server.note(&about, &note);
                bail!("invalid binding: {}", note.message);
            }
        }
        Ok(Vec::new())
    }

    async fn bind(&self, claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> anyhow::Result<()> {
        let mut volume = Arc::new(volume.clone());
        if let Some(bound) = edit::volume_bound(&volume, claim) {
            volume = self.write_volume(&bound, false).await?;
        }
        let volume = self.volume_phase(&volume, BOUND, "").await?;
        let name = meta::name(&volume.metadata);
        let mut claim = Arc::new(claim.clone());
        if let Some(bound) = edit::claim_bound(&claim, name) {
            claim = self.write_claim(&bound, false).await?;
            tracing::info!(claim = key_of_claim(&claim), volume = name, "bound");
        }
        self.claim_phase(&claim, BOUND, Some(&volume)).await
    }

    async fn provision(&self, claim: &PersistentVolumeClaim, about: &ObjectReference) -> anyhow::Result<()> {
        if !self.provisioning {
            return Ok(());
        }
        let name = volumes::claim_class(claim);
        let failed = |why: String| self.server.note(about, &Note::warning(PROVISIONING_FAILED, why));
        let Some(class) = self.classes.get(name) else {
            failed(format!("storageclass.storage.k8s.io {name:?} not found"));
            return Ok(());
        };
        let driver = csi_driver(&class.provisioner).unwrap_or(&class.provisioner);
        if is_in_tree(driver) {
            failed(format!("no volume plugin matched name: {driver}"));
            return Ok(());
        }
        if let Some(asking) = edit::claim_provisioned_by(claim, driver)
            && let Err(e) = self.write_claim(&asking, false).await
        {
            failed(format!("Error saving claim: {}", crate::util::errors::message(&e)));
            return Err(e.into());
        }
        let message = format!(
            "Waiting for a volume to be created either by the external provisioner '{driver}' or manually by the \
             system administrator. If volume creation is delayed, please verify that the provisioner is running \
             and correctly registered."
        );
        self.server.note(about, &Note::normal(EXTERNAL_PROVISIONING, message));
        Ok(())
    }

    async fn sync_volume(&self, name: &str) -> anyhow::Result<Vec<Key>> {
        let Some(volume) = self.volumes.get(name) else { return Ok(Vec::new()) };
        let claim = match claim_ref(&volume) {
            Some(r) => self.claim_of(&volume, r).await?,
            None => None,
        };
        let step = volume::plan(&volume, claim.as_deref());
        if let Some(phase) = volume::phase(&step) {
            let volume = self.volume_phase(&volume, phase, "").await?;
            return Ok(if step == volume::Step::Free { self.wake_for(&volume) } else { Vec::new() });
        }
        match (step, claim) {
            (volume::Step::WakeClaim, Some(claim)) => return Ok(vec![Key::Claim(key_of_claim(&claim))]),
            (volume::Step::Mismatch, Some(claim)) => {
                let other = meta::name(&claim.metadata);
                let on_volume = format!(
                    "Cannot bind PersistentVolume to requested PersistentVolumeClaim {other:?} due to incompatible volumeMode."
                );
                let on_claim = format!(
                    "Cannot bind PersistentVolume {name:?} to requested PersistentVolumeClaim due to incompatible volumeMode."
                );
                let about = meta::reference(volume.as_ref());
                self.server.note(&about, &Note::warning(VOLUME_MISMATCH, on_volume));
                self.server.note(&meta::reference(claim.as_ref()), &Note::warning(VOLUME_MISMATCH, on_claim));
            }
            (volume::Step::Unbind, _) => {
                let free = self.write_volume(&edit::volume_unbound(&volume), false).await?;
                let free = self.volume_phase(&free, AVAILABLE, "").await?;
                return Ok(self.wake_for(&free));
            }
            (volume::Step::Reclaim, _) => self.reclaim(&volume).await?,
            _ => {}
        }
        Ok(Vec::new())
    }

    /// The claim that a volume is bound to. Before a volume is given up, the server itself is asked: a provisioner may
    /// have made the volume for a claim that our watch has not brought yet.
    async fn claim_of(
        &self,
        volume: &PersistentVolume,
        reference: &ObjectReference,
    ) -> kube::Result<Option<Arc<PersistentVolumeClaim>>> {
        let key = key_of_ref(reference);
        let cached = self.claims.get(&key);
        let Some(uid) = reference.uid.as_ref().filter(|uid| !uid.is_empty()) else { return Ok(cached) };
        let is_it = cached.as_ref().is_some_and(|c| c.metadata.uid.as_ref() == Some(uid));
        if is_it || (cached.is_none() && volume::is_released(volume)) {
            return Ok(cached);
        }
        Ok(self.server.fetch_claim(&key).await?.map(Arc::new))
    }

    /// The claims that a volume which is free now may help.
    fn wake_for(&self, volume: &PersistentVolume) -> Vec<Key> {
        if let Some(reference) = claim_ref(volume) {
            return vec![Key::Claim(key_of_ref(reference))];
        }
        let name = meta::name(&volume.metadata);
        let class = volumes::volume_class(volume);
        let delayed = self.classes.get(class).is_some_and(|c| waits_for_consumer(&c));
        let wants = |claim: &PersistentVolumeClaim| match volumes::volume_name(claim) {
            "" => !delayed && selector(claim).is_ok_and(|s| fits(volume, claim, &s)),
            wanted => wanted == name,
        };
        let unbound = self.unbound.by_index(UNBOUND_BY_CLASS, class);
        unbound.iter().filter(|c| wants(c)).map(|c| Key::Claim(key_of_claim(c))).collect()
    }

    async fn reclaim(&self, volume: &Arc<PersistentVolume>) -> anyhow::Result<()> {
        let mut volume = volume.clone();
        if !volume::is_released(&volume) {
            volume = self.volume_phase(&volume, RELEASED, "").await?;
            tracing::info!(
                volume = meta::name(&volume.metadata),
                policy = volume::policy(&volume),
                "released"
            );
        }
        if meta::annotation(&volume.metadata, MIGRATED_TO).is_some_and(|m| !m.is_empty()) {
            return Ok(());
        }
        match volume::policy(&volume) {
            "Retain" => Ok(()),
            "Delete" => self.delete(&volume).await,
            "Recycle" => {
                self.fail(&volume, VOLUME_FAILED_RECYCLE, "No recycler plugin found for the volume!").await
            }
            _ => {
                let why = "Volume has unrecognized PersistentVolumeReclaimPolicy";
                self.fail(&volume, "VolumeUnknownReclaimPolicy", why).await
            }
        }
    }

    async fn delete(&self, volume: &Arc<PersistentVolume>) -> anyhow::Result<()> {
        let path = match volume::deleter(volume) {
            Deleter::External => return Ok(()),
            Deleter::None(why) => return self.fail(volume, VOLUME_FAILED_DELETE, &why).await,
            Deleter::HostPath(path) => path,
        };
        if let Err(e) = self.server.remove_folder(&path).await {
            self.fail(volume, VOLUME_FAILED_DELETE, &e.to_string()).await?;
            return Err(anyhow::Error::from(e).context(format!("deleting {}", path.display())));
        }
        let mut volume = volume.as_ref().clone();
        if let Some(finalizers) = volume.metadata.finalizers.as_mut()
            && finalizers.iter().any(|f| f == IN_TREE_FINALIZER)
        {
            finalizers.retain(|f| f != IN_TREE_FINALIZER);
            volume = self.write_volume(&volume, false).await?.as_ref().clone();
        }
        if volume.metadata.deletion_timestamp.is_none() {
            self.server.delete_volume(&volume).await?;
        }
        Ok(())
    }

    async fn fail(
        &self,
        volume: &Arc<PersistentVolume>,
        reason: &'static str,
        why: &str,
    ) -> anyhow::Result<()> {
        if volumes::volume_phase(volume) != FAILED {
            let failed = self.volume_phase(volume, FAILED, why).await?;
            self.server.note(&meta::reference(failed.as_ref()), &Note::warning(reason, why));
        }
        Ok(())
    }

    async fn write_volume(&self, v: &PersistentVolume, status: bool) -> kube::Result<Arc<PersistentVolume>> {
        Ok(self.volumes.wrote(self.server.put_volume(v, status).await?))
    }

    async fn write_claim(
        &self,
        claim: &PersistentVolumeClaim,
        status: bool,
    ) -> kube::Result<Arc<PersistentVolumeClaim>> {
        Ok(self.claims.wrote(self.server.put_claim(claim, status).await?))
    }

    async fn volume_phase(
        &self,
        volume: &Arc<PersistentVolume>,
        phase: &str,
        message: &str,
    ) -> kube::Result<Arc<PersistentVolume>> {
        match edit::volume_in_phase(volume, phase, message) {
            Some(changed) => self.write_volume(&changed, true).await,
            None => Ok(volume.clone()),
        }
    }

    async fn claim_phase(
        &self,
        claim: &PersistentVolumeClaim,
        phase: &str,
        volume: Option<&PersistentVolume>,
    ) -> anyhow::Result<()> {
        match edit::claim_in_phase(claim, phase, volume).map_err(anyhow::Error::msg)? {
            Some(changed) => self.write_claim(&changed, true).await.map(drop).map_err(Into::into),
            None => Ok(()),
        }
    }
}
