//! What a pod's claims are called, and what becomes of a claim whose users are gone.

use std::collections::HashSet;

use k8s_openapi::api::core::v1::{Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference, ResourceClaimTemplate};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};

use crate::util::{meta, pods};

/// On a generated claim: the name the pod's spec has for it.
pub const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Holds an allocated claim until it is given back.
pub const FINALIZER: &str = "resource.kubernetes.io/delete-protection";
/// So many users a claim may have.
const MOST_USERS: usize = 256;

/// The claim behind an entry of a pod's spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// A user made it.
    Given(String),
    /// It was made from a template for this pod.
    Generated(String),
    /// It was found that none is needed.
    NotNeeded,
    /// It is still to be made.
    Missing,
}

impl Named {
    /// The claim's name, if there is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Given(name) | Self::Generated(name) => Some(name),
            Self::NotNeeded | Self::Missing => None,
        }
    }
}

/// Which claim an entry of the pod's spec stands for.
///
/// # Errors
/// The entry is of a kind that this release does not know.
pub fn named(pod: &Pod, entry: &PodResourceClaim) -> Result<Named, String> {
    if let Some(name) = &entry.resource_claim_name {
        return Ok(Named::Given(name.clone()));
    }
    if entry.resource_claim_template_name.is_none() {
        return Err(format!("pod claim {:?}: none of the supported fields are set", entry.name));
    }
    let statuses = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let status = statuses.into_iter().find(|s| s.name == entry.name);
    Ok(match status.map(|s| s.resource_claim_name.clone()) {
        None => Named::Missing,
        Some(None) => Named::NotNeeded,
        Some(Some(name)) => Named::Generated(name),
    })
}

/// The entries of a pod's spec.
pub fn entries(pod: &Pod) -> impl Iterator<Item = &PodResourceClaim> {
    pod.spec.iter().flat_map(|s| s.resource_claims.iter().flatten())
}

/// Names of all claims that a pod uses, the scheduler's for extended resources among them.
pub fn names(pod: &Pod) -> Vec<String> {
    let extended = pod.status.as_ref().and_then(|s| s.extended_resource_claim_status.as_ref());
    let known = entries(pod).filter_map(|e| named(pod, e).ok()?.name().map(str::to_owned));
    known.chain(extended.map(|e| e.resource_claim_name.clone())).collect()
}

/// Whether none of the pod's containers run or ever will.
pub fn is_done(pod: &Pod) -> bool {
    pods::is_terminal(pod) || (pod.metadata.deletion_timestamp.is_some() && pods::node(pod).is_empty())
}

/// Whether the claim was made for the pod.
pub fn is_for_pod(pod: &Pod, claim: &ResourceClaim) -> Result<(), String> {
    if meta::is_controlled_by(&claim.metadata, meta::uid(&pod.metadata)) {
        return Ok(());
    }
    Err(format!(
        "ResourceClaim {}/{} was not created for pod {}/{} (pod is not owner)",
        meta::namespace(&claim.metadata),
        meta::name(&claim.metadata),
        meta::namespace(&pod.metadata),
        meta::name(&pod.metadata)
    ))
}

/// The pod that a claim was made for: name and uid.
pub fn owner(claim: &ResourceClaim) -> Option<&OwnerReference> {
    meta::controller_of(&claim.metadata).filter(|o| o.api_version == "v1" && o.kind == "Pod")
}

fn users(claim: &ResourceClaim) -> &[ResourceClaimConsumerReference] {
    claim.status.as_ref().and_then(|s| s.reserved_for.as_deref()).unwrap_or_default()
}

/// The pods that a claim is reserved for.
pub fn pod_users(claim: &ResourceClaim) -> impl Iterator<Item = &ResourceClaimConsumerReference> {
    users(claim)
        .iter()
        .filter(|u| u.resource == "pods" && u.api_group.as_deref().unwrap_or_default().is_empty())
}

fn is_allocated(claim: &ResourceClaim) -> bool {
    claim.status.as_ref().is_some_and(|s| s.allocation.is_some())
}

/// Reserves an allocated claim for a pod that has a node; `None` if it is, or cannot be.
pub fn reserved(pod: &Pod, claim: &ResourceClaim) -> Option<ResourceClaim> {
    let uid = meta::uid(&pod.metadata);
    if !is_allocated(claim) || users(claim).len() >= MOST_USERS || users(claim).iter().any(|u| u.uid == uid) {
        return None;
    }
    let mut changed = claim.clone();
    let user = ResourceClaimConsumerReference {
        api_group: None,
        resource: "pods".into(),
        name: meta::name(&pod.metadata).to_owned(),
        uid: uid.to_owned(),
    };
    changed.status.get_or_insert_default().reserved_for.get_or_insert_default().push(user);
    Some(changed)
}

/// What has to be written to a claim, in this order.
#[derive(Debug, Default, PartialEq)]
pub struct CleanUp {
    pub status: Option<ResourceClaim>,
    pub release: bool,
    /// Nobody uses it any longer.
    pub unused: bool,
}

/// Takes users that are gone (by uid) off a claim. With the last of them the claim's devices are given back, so that
/// it can be allocated anew for who comes next.
pub fn clean_up(claim: &ResourceClaim, gone: &HashSet<String>) -> CleanUp {
    let left: Vec<_> = users(claim).iter().filter(|u| !gone.contains(&u.uid)).cloned().collect();
    let held = claim.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let freed = left.len() < users(claim).len();
    let unused = left.is_empty();
    let ends = held && unused && (freed || claim.metadata.deletion_timestamp.is_some());
    let mut changed = claim.clone();
    let status = changed.status.get_or_insert_default();
    status.reserved_for = (!left.is_empty()).then_some(left);
    if ends {
        status.allocation = None;
    }
    let write = freed || (ends && is_allocated(claim));
    let gives_back = held && changed.status.as_ref().is_none_or(|s| s.allocation.is_none());
    CleanUp { status: write.then_some(changed), release: gives_back && (freed || ends), unused }
}

/// A claim made from a template, owned by the pod.
pub fn from_template(pod: &Pod, entry: &str, template: &ResourceClaimTemplate) -> ResourceClaim {
    let given = template.spec.metadata.clone().unwrap_or_default();
    let mut annotations = given.annotations.unwrap_or_default();
    annotations.insert(POD_CLAIM_NAME.into(), entry.to_owned());
    let mut owner = meta::controller_ref(pod);
    owner.block_owner_deletion = None;
    let metadata = ObjectMeta {
        generate_name: Some(generate_name(meta::name(&pod.metadata), entry)),
        owner_references: Some(vec![owner]),
        annotations: Some(annotations),
        labels: given.labels,
        ..ObjectMeta::default()
    };
    ResourceClaim { metadata, spec: template.spec.spec.clone(), status: None }
}

/// `<pod>-<entry>-`; where that leaves no room for the random end, both parts give way in proportion.
fn generate_name(pod: &str, entry: &str) -> String {
    const ROOM: usize = 57;
    let whole = format!("{pod}-{entry}-");
    if whole.len() <= ROOM {
        return whole;
    }
    let cut = |part: &str| part.chars().take(part.len() * ROOM / whole.len()).collect::<String>();
    format!("{}-{}", cut(pod), cut(entry))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of<T: serde::de::DeserializeOwned>(value: serde_json::Value) -> T {
        serde_json::from_value(value).unwrap_or_else(|e| panic!("{e}"))
    }

    fn pod() -> Pod {
        of(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "nodeName": "node", "resourceClaims": [
                {"name": "given", "resourceClaimName": "theirs"}, {"name": "made", "resourceClaimTemplateName": "t"},
                {"name": "skipped", "resourceClaimTemplateName": "t"}, {"name": "new", "resourceClaimTemplateName": "t"}]},
            "status": {"resourceClaimStatuses": [{"name": "made", "resourceClaimName": "p-made-x"}, {"name": "skipped"}]}}))
    }

    fn claim(users: &[&str], allocated: bool) -> ResourceClaim {
        let users: Vec<_> = users.iter().map(|u| json!({"resource": "pods", "name": u, "uid": u})).collect();
        let mut c = json!({"metadata": {"name": "c", "namespace": "n", "finalizers": [FINALIZER]}, "spec": {},
            "status": {"reservedFor": users}});
        if allocated {
            c["status"]["allocation"] = json!({});
        }
        of(c)
    }

    #[test]
    fn entries_stand_for_claims() {
        let p = pod();
        let all: Vec<Named> = entries(&p).map(|e| named(&p, e).unwrap_or_else(|e| panic!("{e}"))).collect();
        let want = [
            Named::Given("theirs".into()),
            Named::Generated("p-made-x".into()),
            Named::NotNeeded,
            Named::Missing,
        ];
        assert_eq!(all, want);
        assert_eq!(names(&p), ["theirs", "p-made-x"]);
        assert!(
            named(&p, &PodResourceClaim { name: "future".into(), ..PodResourceClaim::default() }).is_err()
        );
    }

    #[test]
    fn devices_are_given_back_by_the_last_user() {
        let c = claim(&["a", "b"], true);
        assert_eq!(clean_up(&c, &HashSet::new()), CleanUp::default());
        let one = clean_up(&c, &["a".to_owned()].into());
        assert!(!one.unused && !one.release);
        let status = one.status.and_then(|c| c.status).unwrap_or_default();
        assert!(status.allocation.is_some() && status.reserved_for.is_some_and(|r| r.len() == 1));
        let both = clean_up(&c, &["a".to_owned(), "b".to_owned()].into());
        assert!(both.unused && both.release);
        let status = both.status.and_then(|c| c.status).unwrap_or_default();
        assert!(status.allocation.is_none() && status.reserved_for.is_none());
    }

    #[test]
    fn an_unused_claim_keeps_its_devices_until_it_is_deleted() {
        let mut c = claim(&[], true);
        assert_eq!(clean_up(&c, &HashSet::new()), CleanUp { unused: true, ..CleanUp::default() });
        c.metadata.deletion_timestamp = Some(meta::api_time(jiff::Timestamp::UNIX_EPOCH));
        let end = clean_up(&c, &HashSet::new());
        assert!(end.release && end.status.and_then(|c| c.status).is_some_and(|s| s.allocation.is_none()));
    }

    #[test]
    fn reserved_once_and_only_when_allocated() {
        let p = pod();
        assert_eq!(reserved(&p, &claim(&[], false)), None);
        let Some(ours) = reserved(&p, &claim(&["x"], true)) else { panic!("must be reserved") };
        assert_eq!(users(&ours).last().map(|u| u.uid.as_str()), Some("u"));
        assert_eq!(reserved(&p, &ours), None);
        let full: Vec<String> = (0..MOST_USERS).map(|n| n.to_string()).collect();
        let full: Vec<&str> = full.iter().map(String::as_str).collect();
        assert_eq!(reserved(&p, &claim(&full, true)), None);
    }

    #[test]
    fn generated_names_leave_room_for_their_end() {
        assert_eq!(generate_name("pod", "gpu"), "pod-gpu-");
        let long = generate_name(&"p".repeat(80), &"c".repeat(40));
        assert!(long.len() <= 58 && long.contains("p-c"), "{long}");
        let template: ResourceClaimTemplate =
            of(json!({"spec": {"metadata": {"labels": {"a": "b"}}, "spec": {}}}));
        let made = from_template(&pod(), "gpu", &template);
        assert_eq!(meta::annotation(&made.metadata, POD_CLAIM_NAME), Some("gpu"));
        assert_eq!(is_for_pod(&pod(), &made), Ok(()));
        assert!(owner(&made).is_some_and(|o| o.name == "p"));
    }
}
