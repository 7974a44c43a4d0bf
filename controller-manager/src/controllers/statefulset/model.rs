//! What a stateful set says about its pods and claims.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec};
use k8s_openapi::api::core::v1::{
    PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume,
};

use crate::util::revisions::POD_HASH;
use crate::util::{meta, pod_control, values};

/// Label: the pod's own name.
pub const POD_NAME: &str = "statefulset.kubernetes.io/pod-name";
/// Label: the pod's ordinal.
pub const POD_INDEX: &str = "apps.kubernetes.io/pod-index";

/// The set, read once.
pub struct Wanted<'a> {
    pub set: &'a StatefulSet,
    pub spec: StatefulSetSpec,
}

impl<'a> Wanted<'a> {
    pub fn new(set: &'a StatefulSet) -> Self {
        Self { set, spec: set.spec.clone().unwrap_or_default() }
    }

    pub fn name(&self) -> &str {
        meta::name(&self.set.metadata)
    }

    pub fn replicas(&self) -> i32 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    /// The first ordinal.
    pub fn start(&self) -> i32 {
        self.spec.ordinals.as_ref().and_then(|o| o.start).unwrap_or(0)
    }

    pub fn min_ready(&self) -> i32 {
        self.spec.min_ready_seconds.unwrap_or(0)
    }

    /// Whether pods are made and deleted without waiting for each other.
    pub fn parallel(&self) -> bool {
        self.spec.pod_management_policy.as_deref() == Some("Parallel")
    }

    pub fn on_delete(&self) -> bool {
        self.spec.update_strategy.as_ref().and_then(|u| u.type_.as_deref()) == Some("OnDelete")
    }

    /// Pods before this place keep the current revision in a rolling update.
    pub fn partition(&self) -> Option<i32> {
        let rolling = self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?;
        Some(rolling.partition.unwrap_or(0).max(0))
    }

    /// How many pods a rolling update may take down, if the set says so.
    pub fn max_unavailable(&self) -> Option<i32> {
        let value = self.spec.update_strategy.as_ref()?.rolling_update.as_ref()?.max_unavailable.as_ref()?;
        Some(values::scaled(value, self.replicas(), false).unwrap_or(1).max(1))
    }

    /// Whether a pod of this ordinal belongs here at the present size.
    pub fn has_place(&self, ordinal: i32) -> bool {
        (self.start()..self.start().saturating_add(self.replicas())).contains(&ordinal)
    }

    /// The ordinal that a pod's name says; `None` if it is no name of this set.
    pub fn ordinal(&self, pod: &Pod) -> Option<i32> {
        let (parent, number) = meta::name(&pod.metadata).rsplit_once('-')?;
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        (digits && parent == self.name()).then(|| number.parse().ok())?
    }

    /// Whether the claims of deleted (first) and scaled-down (second) sets go, too.
    pub fn deletes_claims(&self) -> (bool, bool) {
        let policy = self.spec.persistent_volume_claim_retention_policy.as_ref();
        let is_delete = |p: Option<&String>| p.is_some_and(|p| p == "Delete");
        (
            is_delete(policy.and_then(|p| p.when_deleted.as_ref())),
            is_delete(policy.and_then(|p| p.when_scaled.as_ref())),
        )
    }

    /// Name of a claim of an ordinal.
    pub fn claim_name(&self, template: &PersistentVolumeClaim, ordinal: i32) -> String {
        format!("{}-{}-{ordinal}", meta::name(&template.metadata), self.name())
    }

    /// The claims of an ordinal, as they are to be made.
    pub fn claims(&self, ordinal: i32) -> impl Iterator<Item = PersistentVolumeClaim> {
        self.spec.volume_claim_templates.iter().flatten().map(move |template| {
            let mut claim = template.clone();
            claim.metadata.name = Some(self.claim_name(template, ordinal));
            claim.metadata.namespace = self.set.metadata.namespace.clone();
            let labels = self.spec.selector.match_labels.iter().flatten();
            let labels = labels.map(|(k, v)| (k.clone(), v.clone()));
            claim.metadata.labels.get_or_insert_default().extend(labels);
            claim.status = None;
            claim
        })
    }

    /// A new pod of an ordinal.
    pub fn pod(&self, ordinal: i32, template: &PodTemplateSpec, revision: &str) -> Pod {
        let name = format!("{}-{ordinal}", self.name());
        let mut pod = pod_control::from_template(template, self.name(), meta::controller_ref(self.set));
        pod.metadata.generate_name = None;
        pod.metadata.name = Some(name.clone());
        pod.metadata.namespace = self.set.metadata.namespace.clone();
        let labels = pod.metadata.labels.get_or_insert_default();
        labels.extend(identity(&name, ordinal));
        labels.insert(POD_HASH.into(), revision.into());
        let spec = pod.spec.get_or_insert_default();
        spec.hostname = Some(name);
        spec.subdomain = self.spec.service_name.clone().filter(|s| !s.is_empty());
        let mut volumes: Vec<Volume> = Vec::new();
        for template in self.spec.volume_claim_templates.iter().flatten() {
            let source = PersistentVolumeClaimVolumeSource {
                claim_name: self.claim_name(template, ordinal),
                read_only: None,
            };
            volumes.push(Volume {
                name: meta::name(&template.metadata).to_owned(),
                persistent_volume_claim: Some(source),
                ..Volume::default()
            });
        }
        let own = |v: &Volume| volumes.iter().any(|mine| mine.name == v.name);
        let others: Vec<Volume> =
            spec.volumes.take().unwrap_or_default().into_iter().filter(|v| !own(v)).collect();
        volumes.extend(others);
        spec.volumes = Some(volumes).filter(|v| !v.is_empty());
        pod
    }
}

/// The labels that tell which pod of the set it is.
pub fn identity(name: &str, ordinal: i32) -> [(String, String); 2] {
    [(POD_NAME.into(), name.into()), (POD_INDEX.into(), ordinal.to_string())]
}

/// The revision a pod was made of.
pub fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(POD_HASH)).map_or("", String::as_str)
}

/// A pod that is there, or the place for one.
#[derive(Clone, Debug)]
pub enum Replica {
    There(Arc<Pod>),
    Missing(Box<Pod>),
}

impl Replica {
    pub fn pod(&self) -> &Pod {
        match self {
            Self::There(pod) => pod,
            Self::Missing(pod) => pod,
        }
    }
}
