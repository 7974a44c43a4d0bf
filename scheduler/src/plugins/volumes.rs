//! Which volume a claim could get on a node: shared by the VolumeBinding check and by the binding itself.

use crate::cache::{NodeInfo, Storage};
use crate::model::volume::{Claim, Class, Volume};
use crate::model::{PodInfo, Str};

/// Where a claim of a pod stands.
#[derive(Debug)]
pub enum Stand<'a> {
    /// Bound to a volume by both sides.
    Bound(&'a Claim, &'a Str),
    /// To be bound once a node is chosen.
    Delayed(&'a Claim, &'a Class),
    /// To be bound by the controller before scheduling goes on.
    Unbound,
}

/// What must be done for a claim before the pod is bound to its node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// Tie this volume to the claim.
    Bind { volume: Str, claim: (Str, Str), claim_uid: Str },
    /// Ask the provisioner for a volume reachable from the node.
    Provision { claim: (Str, Str) },
}

/// The state of all claims of a pod.
///
/// # Errors
/// A message for the user: a claim is missing, lost, being deleted, or someone else's.
pub fn stands<'a>(s: &'a Storage, pod: &PodInfo) -> Result<Vec<Stand<'a>>, String> {
    pod.claims()
        .map(|(name, ephemeral)| {
            let Some(c) = s.claims.get(&(pod.namespace.clone(), name.clone())) else {
                return Err(if ephemeral {
                    format!("waiting for ephemeral volume controller to create the persistentvolumeclaim \"{name}\"")
                } else {
                    format!("persistentvolumeclaim \"{name}\" not found")
                });
            };
            if c.lost {
                let volume = c.volume.as_deref().unwrap_or("");
                return Err(format!(
                    "persistentvolumeclaim \"{name}\" bound to non-existent persistentvolume \"{volume}\""
                ));
            }
            if c.deleting {
                return Err(format!("persistentvolumeclaim \"{name}\" is being deleted"));
            }
            if ephemeral && c.owner_pod.as_ref() != Some(&pod.uid) {
                return Err(format!(
                    "PVC {}/{name} was not created for pod {} (pod is not owner)",
                    pod.namespace,
                    pod.key()
                ));
            }
            Ok(match (&c.volume, c.class.as_ref().and_then(|n| s.classes.get(n))) {
                (Some(v), _) if c.bind_completed => Stand::Bound(c, v),
                (None, Some(class)) if class.wait => Stand::Delayed(c, class),
                _ => Stand::Unbound,
            })
        })
        .collect()
}

/// The smallest volume that satisfies a claim from a node, and is not promised to another claim.
#[must_use]
pub fn find<'a>(s: &'a Storage, c: &Claim, node: &NodeInfo, taken: &[Str]) -> Option<&'a Volume> {
    let mine = |v: &Volume| {
        v.claim.as_ref().is_some_and(|(ns, name, uid)| {
            *ns == c.namespace && *name == c.name && uid.as_ref().is_none_or(|u| *u == c.uid)
        })
    };
    let free = |v: &Volume| v.claim.is_none() && v.available && !s.promised.contains_key(&v.name);
    s.volumes
        .values()
        .filter(|v| {
            v.class.as_ref() == c.class.as_deref().unwrap_or("")
                && !v.deleting
                && v.block == c.block
                && v.capacity >= c.request
                && c.modes.iter().all(|m| v.modes.contains(m))
                && c.selector.as_ref().is_none_or(|x| x.matches(&v.labels))
                && !taken.contains(&v.name)
                && (mine(v) || free(v))
                && reachable(v, node)
        })
        // One reserved for this claim goes before all others.
        .min_by_key(|v| (!mine(v), v.capacity))
}

/// Whether a volume can be used on a node.
#[must_use]
pub fn reachable(v: &Volume, node: &NodeInfo) -> bool {
    v.affinity.as_ref().is_none_or(|a| a.matches(&node.name, &node.facts().labels))
}

/// No volume, and no way to get one.
const NO_VOLUME: &str = "node(s) didn't find available persistent volumes to bind";
/// The driver says that it cannot make one this large for the node.
const NO_SPACE: &str = "node(s) did not have enough free storage";

/// What to do for the unbound claims of a pod on `node`.
///
/// # Errors
/// A claim can't be satisfied there: why, in the words of the pod's message.
pub fn plan(s: &Storage, delayed: &[(&Claim, &Class)], node: &NodeInfo) -> Result<Vec<Plan>, &'static str> {
    let mut taken: Vec<Str> = Vec::new();
    let mut out = Vec::new();
    for (c, class) in delayed {
        let claim = (c.namespace.clone(), c.name.clone());
        // A claim whose provisioning began for another node waits for that node.
        if let Some(selected) = &c.selected_node {
            if *selected != node.name {
                return Err(NO_VOLUME);
            }
            out.push(Plan::Provision { claim });
            continue;
        }
        if let Some(v) = find(s, c, node, &taken) {
            taken.push(v.name.clone());
            out.push(Plan::Bind { volume: v.name.clone(), claim, claim_uid: c.uid.clone() });
            continue;
        }
        let labels = &node.facts().labels;
        let allowed =
            class.topologies.is_empty() || class.topologies.iter().any(|t| t.matches(&node.name, labels));
        if !class.provisions() || !allowed {
            return Err(NO_VOLUME);
        }
        let tells = s.capacity_drivers.get(&class.provisioner) == Some(&true);
        if tells && !s.capacities.values().any(|x| x.suffices(&class.name, c.request, labels)) {
            return Err(NO_SPACE);
        }
        out.push(Plan::Provision { claim });
    }
    Ok(out)
}
