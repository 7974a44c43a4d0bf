//! Who owns the claims of a set's pods: by the retention policy nobody, the set, or a pod that is scaled away. The
//! garbage collector then does the rest.

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;

use super::model::Wanted;
use crate::util::meta;

/// What to do with a claim's owners.
#[derive(Clone, Debug, PartialEq)]
pub enum Owners {
    /// They are right, or not ours to touch.
    Keep,
    /// Write these.
    Set(Vec<OwnerReference>),
}

/// Whether the reference names the object; it may be an earlier one of that name.
fn names<K: Resource<DynamicType = ()>>(r: &OwnerReference, meta: &ObjectMeta) -> bool {
    r.kind == K::kind(&()) && r.api_version == K::api_version(&()) && Some(&r.name) == meta.name.as_ref()
}

fn stale<K: Resource<DynamicType = ()>>(claim: &PersistentVolumeClaim, meta: &ObjectMeta) -> bool {
    let refs = claim.metadata.owner_references.iter().flatten();
    refs.into_iter().any(|r| names::<K>(r, meta) && Some(&r.uid) != meta.uid.as_ref())
}

/// Whether the claim still belongs to an earlier pod of that name, and so is about to be deleted: the new pod has to
/// wait.
pub fn of_earlier_pod(claim: &PersistentVolumeClaim, pod: &ObjectMeta) -> bool {
    stale::<Pod>(claim, pod)
}

/// Whether somebody else manages the claim although the policy wants to.
pub fn conflicting(wanted: &Wanted<'_>, claim: &PersistentVolumeClaim, pod: &Pod) -> bool {
    if wanted.deletes_claims() == (false, false) {
        return false;
    }
    let (set, pod) = (&wanted.set.metadata, &pod.metadata);
    claim.metadata.owner_references.iter().flatten().any(|r| {
        if names::<StatefulSet>(r, set) {
            return Some(&r.uid) != set.uid.as_ref();
        }
        if names::<Pod>(r, pod) {
            return Some(&r.uid) != pod.uid.as_ref();
        }
        r.controller == Some(true)
    })
}

/// The owners a claim of `pod` should have.
pub fn owners(wanted: &Wanted<'_>, claim: &PersistentVolumeClaim, pod: &Pod) -> Owners {
    if stale::<StatefulSet>(claim, &wanted.set.metadata) || stale::<Pod>(claim, &pod.metadata) {
        return Owners::Keep;
    }
    let now = claim.metadata.owner_references.clone().unwrap_or_default();
    let ours =
        |r: &OwnerReference| names::<StatefulSet>(r, &wanted.set.metadata) || names::<Pod>(r, &pod.metadata);
    let mut right: Vec<OwnerReference> = now.iter().filter(|r| !ours(r)).cloned().collect();
    if !conflicting(wanted, claim, pod) {
        let (on_delete, on_scale) = wanted.deletes_claims();
        let placed = wanted.ordinal(pod).is_some_and(|o| wanted.has_place(o));
        if on_scale && !placed {
            right.push(meta::controller_ref(pod));
        } else if on_delete {
            right.push(meta::controller_ref(wanted.set));
        }
    }
    let key = |refs: &[OwnerReference]| {
        let mut all: Vec<_> = refs.iter().map(|r| (r.uid.clone(), r.controller == Some(true))).collect();
        all.sort();
        all
    };
    if key(&now) == key(&right) { Owners::Keep } else { Owners::Set(right) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{StatefulSetPersistentVolumeClaimRetentionPolicy, StatefulSetSpec};

    fn set(deleted: &str, scaled: &str) -> StatefulSet {
        let policy = StatefulSetPersistentVolumeClaimRetentionPolicy {
            when_deleted: Some(deleted.into()),
            when_scaled: Some(scaled.into()),
        };
        let spec = StatefulSetSpec {
            replicas: Some(2),
            persistent_volume_claim_retention_policy: Some(policy),
            ..StatefulSetSpec::default()
        };
        let mut set = StatefulSet { spec: Some(spec), ..StatefulSet::default() };
        set.metadata.name = Some("web".into());
        set.metadata.uid = Some("set".into());
        set
    }

    fn pod(ordinal: i32) -> Pod {
        let mut pod = Pod::default();
        pod.metadata.name = Some(format!("web-{ordinal}"));
        pod.metadata.uid = Some("pod".into());
        pod
    }

    fn result(set: &StatefulSet, ordinal: i32, now: Vec<OwnerReference>) -> Option<Vec<String>> {
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.owner_references = Some(now);
        match owners(&Wanted::new(set), &claim, &pod(ordinal)) {
            Owners::Keep => None,
            Owners::Set(refs) => Some(refs.into_iter().map(|r| r.uid).collect()),
        }
    }

    #[test]
    fn policies() {
        let list = |uids: &[&str]| Some(uids.iter().map(|u| (*u).to_owned()).collect::<Vec<_>>());
        let keep = set("Retain", "Retain");
        let (own, by_pod) = (meta::controller_ref(&keep), meta::controller_ref(&pod(1)));
        assert_eq!(result(&keep, 1, vec![]), None);
        assert_eq!(result(&keep, 1, vec![own.clone()]), list(&[]));
        assert_eq!(result(&set("Delete", "Retain"), 1, vec![]), list(&["set"]));
        assert_eq!(result(&set("Delete", "Retain"), 1, vec![own.clone()]), None);
        assert_eq!(result(&set("Retain", "Delete"), 1, vec![]), None);
        assert_eq!(result(&set("Retain", "Delete"), 2, vec![]), list(&["pod"]));
        assert_eq!(result(&set("Delete", "Delete"), 1, vec![by_pod.clone()]), list(&["set"]));
        let by_other_pod = meta::controller_ref(&pod(2));
        assert_eq!(result(&set("Delete", "Delete"), 2, vec![own.clone()]), list(&["pod"]));
        assert_eq!(result(&set("Delete", "Delete"), 2, vec![by_other_pod]), None);
        let not_controller = OwnerReference { controller: None, ..own.clone() };
        assert_eq!(result(&set("Delete", "Retain"), 1, vec![not_controller]), list(&["set"]));
    }

    #[test]
    fn others_are_left_alone() {
        let policy = set("Delete", "Delete");
        let stranger = OwnerReference {
            kind: "Database".into(),
            uid: "db".into(),
            controller: Some(true),
            ..OwnerReference::default()
        };
        assert_eq!(result(&policy, 1, vec![stranger.clone()]), None);
        let both = vec![stranger, meta::controller_ref(&policy)];
        assert_eq!(result(&policy, 1, both), Some(vec!["db".to_owned()]), "two managers are one too many");
        let mut before = meta::controller_ref(&pod(1));
        before.uid = "earlier".into();
        assert_eq!(result(&policy, 1, vec![before.clone()]), None);
        let mut claim = PersistentVolumeClaim::default();
        claim.metadata.owner_references = Some(vec![before]);
        assert!(of_earlier_pod(&claim, &pod(1).metadata));
    }
}
