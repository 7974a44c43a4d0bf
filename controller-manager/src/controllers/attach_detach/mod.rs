//! Attach-detach: a VolumeAttachment per CSI volume and node that pods need, for the driver's attacher to act on, and
//! word to the kubelet about what is attached.
//!
//! A volume is detached when its node no longer has it in `status.volumesInUse`, when the node is out of service or
//! gone, or when it was not ready for too long. [`plan`] decides per node; in-tree volume types are their CSI drivers'.

pub mod plan;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::{
    CSIDriver, VolumeAttachment, VolumeAttachmentSource, VolumeAttachmentSpec,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use parking_lot::Mutex;

use self::plan::{Attachment, Volume, Wanted};
use super::endpointslice::BY_NODE;
use super::volume_binder::act::key_of_ref;
use super::volume_binder::matching::claim_ref;
use crate::context::{Context, synced};
use crate::util::volumes::{PODS_BY_CLAIM, index_pods_by_claim, volume_name};
use crate::util::{errors, meta, pods};

const MANAGED: &str = "volumes.kubernetes.io/controller-managed-attach-detach";
const OUT_OF_SERVICE: &str = "node.kubernetes.io/out-of-service";
/// Index of attachments by node, and by volume (`volume:<persistent volume>`).
const BY_PLACE: &str = "nodeOrVolume";

struct Controller {
    client: Client,
    events: EventRecorder,
    pods: Store<Pod>,
    nodes: Store<Node>,
    claims: Store<PersistentVolumeClaim>,
    volumes: Store<PersistentVolume>,
    attachments: Store<VolumeAttachment>,
    drivers: Store<CSIDriver>,
    queue: WorkQueue<String>,
    memory: Mutex<Memory>,
    force: bool,
}

/// What is known of attachments beyond the objects, by name.
#[derive(Default)]
struct Memory {
    unwanted: HashMap<String, Instant>,
    /// Failures that were told, so that each is told once.
    told: HashMap<String, String>,
}

/// Whether the pod may have volumes mounted.
fn holds_volumes(pod: &Pod) -> bool {
    let running = |pod: &Pod| {
        let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
        statuses.into_iter().any(|c| {
            let state = c.state.as_ref();
            state.is_none_or(|s| s.terminated.is_none() && s.waiting.is_none())
        })
    };
    let ended = pods::is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && !running(pod));
    !pods::node(pod).is_empty() && !ended
}

fn attachment_node(a: &VolumeAttachment) -> &str {
    &a.spec.node_name
}

fn place(a: &VolumeAttachment) -> Vec<String> {
    let volume = a.spec.source.persistent_volume_name.as_ref().map(|v| format!("volume:{v}"));
    [Some(attachment_node(a).to_owned()), volume].into_iter().flatten().collect()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let nodes = ctx.informers.of::<Node>();
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    let pvs = ctx.informers.of::<PersistentVolume>();
    let attachments = ctx.informers.of::<VolumeAttachment>();
    let drivers = ctx.informers.of::<CSIDriver>();
    all_pods.store().add_index(BY_NODE, |p| vec![pods::node(p).to_owned()]);
    all_pods.store().add_index(PODS_BY_CLAIM, index_pods_by_claim);
    attachments.store().add_index(BY_PLACE, place);
    let c = Arc::new(Controller {
        client: ctx.client("attachdetach-controller")?,
        events: ctx.events.for_component("attachdetach-controller"),
        pods: all_pods.store(),
        nodes: nodes.store(),
        claims: pvcs.store(),
        volumes: pvs.store(),
        attachments: attachments.store(),
        drivers: drivers.store(),
        queue: WorkQueue::default(),
        memory: Mutex::default(),
        force: !ctx.flags.disable_force_detach_on_timeout,
    });
    let this = c.clone();
    all_pods.on_change(move |d| {
        let pod = d.object();
        let news = d.is_deleted() || d.old().is_none_or(|o| holds_volumes(o) != holds_volumes(pod));
        if news && !pods::node(pod).is_empty() && !index_pods_by_claim(pod).is_empty() {
            this.queue.add(pods::node(pod).to_owned());
        }
    });
    let this = c.clone();
    pvcs.on_change(move |d| {
        let bound_now = d.old().is_none_or(|o| volume_name(o) != volume_name(d.object()));
        if bound_now && !volume_name(d.object()).is_empty() {
            this.wake_users(&key_of(d.object().as_ref()));
        }
    });
    let this = c.clone();
    pvs.on_change(move |d| {
        if let (None, Some(claim)) = (d.old(), claim_ref(d.object())) {
            this.wake_users(&key_of_ref(claim));
        }
    });
    let this = c.clone();
    attachments.on_change(move |d| this.attachment_changed(d));
    let this = c.clone();
    nodes.on_change(move |d| {
        let name = meta::name(&d.object().metadata);
        // Most changes of nodes are heartbeats.
        let news = d.is_deleted() || d.old().is_none_or(|o| facts(Some(o)) != facts(Some(d.object())));
        let concerns = || !this.attachments.by_index(BY_PLACE, name).is_empty();
        if news && (d.old().is_none() || concerns()) {
            this.queue.add(name.to_owned());
        }
    });
    let this = c.clone();
    drivers.on_change(move |_| {
        for node in this.nodes.list() {
            this.queue.add(meta::name(&node.metadata).to_owned());
        }
    });
    let ready = vec![
        synced(&all_pods),
        synced(&nodes),
        synced(&pvcs),
        synced(&pvs),
        synced(&attachments),
        synced(&drivers),
    ];
    let queue = c.queue.clone();
    ctx.work("attach_detach", &queue, 10, ready, move |node| {
        let c = c.clone();
        async move { c.sync(&node).await.with_context(|| format!("volumes of node {node}")) }
    });
    Ok(())
}

fn facts(node: Option<&Node>) -> plan::Node {
    let Some(node) = node else { return plan::Node::default() };
    let status = node.status.as_ref();
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    let mut conditions = status.iter().flat_map(|s| s.conditions.iter().flatten());
    plan::Node {
        exists: true,
        ready: conditions.any(|c| c.type_ == "Ready" && c.status == "True"),
        out_of_service: taints.into_iter().any(|t| t.key == OUT_OF_SERVICE),
        in_use: status.iter().flat_map(|s| s.volumes_in_use.iter().flatten()).cloned().collect(),
        told: status
            .iter()
            .flat_map(|s| s.volumes_attached.iter().flatten())
            .map(|v| v.name.clone())
            .collect(),
    }
}

/// Whether two nodes may have the volume at the same time.
fn is_exclusive(volume: &PersistentVolume) -> bool {
    let modes: Vec<&String> = volume.spec.iter().flat_map(|s| s.access_modes.iter().flatten()).collect();
    !modes.is_empty() && !modes.iter().any(|m| matches!(m.as_str(), "ReadWriteMany" | "ReadOnlyMany"))
}

impl Controller {
    fn wake_users(&self, claim: &str) {
        for pod in self.pods.by_index(PODS_BY_CLAIM, claim) {
            if !pods::node(&pod).is_empty() {
                self.queue.add(pods::node(&pod).to_owned());
            }
        }
    }

    fn attachment_changed(&self, d: &Delta<VolumeAttachment>) {
        let a = d.object();
        self.queue.add(attachment_node(a).to_owned());
        if !d.is_deleted() {
            return;
        }
        let mut memory = self.memory.lock();
        memory.unwanted.remove(meta::name(&a.metadata));
        memory.told.remove(meta::name(&a.metadata));
        drop(memory);
        // Another node may have waited for it.
        let volume = a.spec.source.persistent_volume_name.as_ref().and_then(|v| self.volumes.get(v));
        if let Some(claim) = volume.as_deref().and_then(claim_ref) {
            self.wake_users(&key_of_ref(claim));
        }
    }

    /// The CSI volume behind a persistent volume, if it has to be attached.
    fn attachable(&self, volume: &PersistentVolume) -> Option<Volume> {
        let csi = volume.spec.as_ref()?.csi.as_ref()?;
        let driver = self.drivers.get(&csi.driver);
        if driver.is_some_and(|d| d.spec.attach_required == Some(false)) {
            return None;
        }
        Some(Volume { driver: csi.driver.clone(), handle: csi.volume_handle.clone() })
    }

    /// Volumes that the node's pods use, with these pods.
    fn wanted(&self, node: &str) -> Vec<(Wanted, Vec<Arc<Pod>>)> {
        let mut found: Vec<(Wanted, Vec<Arc<Pod>>)> = Vec::new();
        for pod in self.pods.by_index(BY_NODE, node) {
            if !holds_volumes(&pod) {
                continue;
            }
            for claim in index_pods_by_claim(&pod) {
                let claim = self.claims.get(&claim);
                let bound = claim.as_ref().filter(|c| crate::util::volumes::claim_phase(c) == "Bound");
                let Some(volume) = bound.and_then(|c| self.volumes.get(volume_name(c))) else { continue };
                let Some(which) = self.attachable(&volume) else { continue };
                let name = meta::name(&volume.metadata);
                if let Some((_, users)) = found.iter_mut().find(|(w, _)| w.volume == which) {
                    users.push(pod.clone());
                    continue;
                }
                let places = self.attachments.by_index(BY_PLACE, &format!("volume:{name}"));
                let elsewhere = places
                    .iter()
                    .map(|a| attachment_node(a))
                    .filter(|n| *n != node)
                    .map(str::to_owned)
                    .collect();
                let wanted = Wanted {
                    volume: which,
                    persistent_volume: name.to_owned(),
                    exclusive: is_exclusive(&volume),
                    elsewhere,
                };
                found.push((wanted, vec![pod.clone()]));
            }
        }
        found
    }

    /// The node's attachments that are this controller's, by their name.
    fn attached(&self, node: &str, wanted: &[(Wanted, Vec<Arc<Pod>>)]) -> Vec<Attachment> {
        let mut memory = self.memory.lock();
        let mut out = Vec::new();
        for a in self.attachments.by_index(BY_PLACE, node) {
            let name = meta::name(&a.metadata);
            let volume = a.spec.source.persistent_volume_name.as_ref().and_then(|v| self.volumes.get(v));
            let csi = volume.as_deref().and_then(|v| v.spec.as_ref()?.csi.clone());
            let Some(csi) = csi else { continue };
            let volume = Volume { driver: csi.driver, handle: csi.volume_handle };
            if volume.attachment_name(node) != name {
                continue;
            }
            let unwanted_for = if wanted.iter().any(|(w, _)| w.volume == volume) {
                memory.unwanted.remove(name);
                std::time::Duration::ZERO
            } else {
                memory.unwanted.entry(name.to_owned()).or_insert_with(Instant::now).elapsed()
            };
            out.push(Attachment {
                volume,
                attached: a.status.as_ref().is_some_and(|s| s.attached),
                detaching: a.metadata.deletion_timestamp.is_some(),
                unwanted_for,
            });
        }
        out
    }

    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let node = self.nodes.get(name);
        if node.as_ref().is_some_and(|n| meta::annotation(&n.metadata, MANAGED) != Some("true")) {
            return Ok(());
        }
        let wanted = self.wanted(name);
        let attachments = self.attached(name, &wanted);
        let only: Vec<Wanted> = wanted.iter().map(|(w, _)| w.clone()).collect();
        let todo = plan::plan(&facts(node.as_deref()), &only, &attachments, self.force);
        let users = |w: &Wanted| -> &[Arc<Pod>] {
            wanted.iter().find(|(x, _)| x.volume == w.volume).map_or(&[], |(_, pods)| pods)
        };
        if let Some(names) = &todo.tell {
            // Before anything is detached: from then on the kubelet mounts it for no pod.
            self.tell(name, names).await?;
        }
        for w in &todo.done {
            let message = format!("AttachVolume.Attach succeeded for volume {:?} ", w.persistent_volume);
            for pod in users(w) {
                self.events.normal(&meta::reference(pod.as_ref()), "SuccessfulAttachVolume", message.clone());
            }
        }
        for w in &only {
            self.tell_failure(name, w, users(w));
        }
        for w in &todo.busy {
            self.tell_busy(name, w, users(w));
        }
        for w in &todo.attach {
            self.attach(name, w).await?;
        }
        for volume in &todo.detach {
            self.detach(&volume.attachment_name(name)).await?;
        }
        if let Some(wait) = todo.again {
            self.queue.add_after(name.to_owned(), wait + std::time::Duration::from_millis(100));
        }
        Ok(())
    }

    async fn tell(&self, node: &str, names: &std::collections::BTreeSet<String>) -> anyhow::Result<()> {
        let list: Vec<_> = names.iter().map(|n| serde_json::json!({"name": n, "devicePath": ""})).collect();
        let patch = serde_json::json!({"status": {"volumesAttached": list}});
        let api: Api<Node> = Api::all(self.client.clone());
        match api.patch_status(node, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(drop).context("telling the node what is attached"),
        }
    }

    async fn attach(&self, node: &str, w: &Wanted) -> anyhow::Result<()> {
        let source = VolumeAttachmentSource {
            persistent_volume_name: Some(w.persistent_volume.clone()),
            ..VolumeAttachmentSource::default()
        };
        let attachment = VolumeAttachment {
            metadata: ObjectMeta { name: Some(w.volume.attachment_name(node)), ..ObjectMeta::default() },
            spec: VolumeAttachmentSpec {
                attacher: w.volume.driver.clone(),
                node_name: node.to_owned(),
                source,
            },
            status: None,
        };
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.create(&PostParams::default(), &attachment).await {
            Err(e) if errors::code(&e) == Some(409) => Ok(()),
            other => other.map(drop).with_context(|| format!("attaching volume {}", w.persistent_volume)),
        }
    }

    async fn detach(&self, name: &str) -> anyhow::Result<()> {
        tracing::info!(attachment = name, "detaching");
        let api: Api<VolumeAttachment> = Api::all(self.client.clone());
        match api.delete(name, &DeleteParams::default()).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(drop).with_context(|| format!("deleting volume attachment {name}")),
        }
    }

    /// Notes a failure; false if it was told before.
    fn is_news(&self, attachment: &str, what: &str) -> bool {
        self.memory.lock().told.insert(attachment.to_owned(), what.to_owned()).as_deref() != Some(what)
    }

    fn tell_failure(&self, node: &str, w: &Wanted, users: &[Arc<Pod>]) {
        let name = w.volume.attachment_name(node);
        let attachment = self.attachments.get(&name);
        let error =
            attachment.as_ref().and_then(|a| a.status.as_ref()?.attach_error.as_ref()?.message.clone());
        let Some(error) = error else { return };
        let message = format!("AttachVolume.Attach failed for volume {:?} : {error}", w.persistent_volume);
        if self.is_news(&name, &message) {
            for pod in users {
                self.events.warning(&meta::reference(pod.as_ref()), "FailedAttachVolume", message.clone());
            }
        }
    }

    fn tell_busy(&self, node: &str, w: &Wanted, users: &[Arc<Pod>]) {
        if !self.is_news(&w.volume.attachment_name(node), "busy") {
            return;
        }
        let holders: Vec<Arc<Pod>> = w
            .elsewhere
            .iter()
            .flat_map(|n| self.wanted(n))
            .filter(|(other, _)| other.volume == w.volume)
            .flat_map(|(_, pods)| pods)
            .collect();
        for pod in users {
            // Names of pods in other namespaces are not the user's to see.
            let same = |p: &&Arc<Pod>| p.metadata.namespace == pod.metadata.namespace;
            let mut near: Vec<&str> = holders.iter().filter(same).map(|p| meta::name(&p.metadata)).collect();
            near.sort_unstable();
            let far = holders.len() - near.len();
            let why = match (near.as_slice(), far) {
                ([], 0) => {
                    "Volume is already exclusively attached to one node and can't be attached to another"
                        .to_owned()
                }
                ([], _) => format!("Volume is already used by {far} pod(s) in different namespaces"),
                (_, 0) => format!("Volume is already used by pod(s) {}", near.join(", ")),
                _ => format!(
                    "Volume is already used by pod(s) {} and {far} pod(s) in different namespaces",
                    near.join(", ")
                ),
            };
            let message = format!("Multi-Attach error for volume {:?} {why}", w.persistent_volume);
            self.events.warning(&meta::reference(pod.as_ref()), "FailedAttachVolume", message);
        }
    }
}
