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

/// A claim that is to be bound once a node is chosen, with the volumes that would do for it somewhere.
#[derive(Debug)]
pub struct Delayed<'a> {
    pub claim: &'a Claim,
    pub class: &'a Class,
    /// The best first: one reserved for this claim goes before all others, then the smallest.
    candidates: Vec<&'a Volume>,
}

impl<'a> Delayed<'a> {
    /// Looks through all volumes once, so that it is not done for every node.
    #[must_use]
    pub fn new(s: &'a Storage, c: &'a Claim, class: &'a Class) -> Self {
        let mine = |v: &Volume| {
            v.claim.as_ref().is_some_and(|(ns, name, uid)| {
                *ns == c.namespace && *name == c.name && uid.as_ref().is_none_or(|u| *u == c.uid)
            })
        };
        let free = |v: &Volume| v.claim.is_none() && v.available && !s.promised.contains_key(&v.name);
        let does = |v: &&Volume| {
            v.class.as_ref() == c.class.as_deref().unwrap_or("")
                && !v.deleting
                && v.block == c.block
                && v.capacity >= c.request
                && c.modes.iter().all(|m| v.modes.contains(m))
                && c.selector.as_ref().is_none_or(|x| x.matches(&v.labels))
                && (mine(v) || free(v))
        };
        let mut candidates: Vec<&Volume> = s.volumes.values().filter(does).collect();
        candidates.sort_by_key(|v| (!mine(v), v.capacity));
        Self { claim: c, class, candidates }
    }

    /// The claims of [`stands`] that are to be bound.
    #[must_use]
    pub fn all(s: &'a Storage, stands: &[Stand<'a>]) -> Vec<Self> {
        let delayed = stands.iter().filter_map(|x| match x {
            Stand::Delayed(c, class) => Some((*c, *class)),
            Stand::Bound(..) | Stand::Unbound => None,
        });
        delayed.map(|(c, class)| Self::new(s, c, class)).collect()
    }
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
pub fn plan(s: &Storage, delayed: &[Delayed<'_>], node: &NodeInfo) -> Result<Vec<Plan>, &'static str> {
    let mut taken: Vec<Str> = Vec::new();
    let mut out = Vec::new();
    for Delayed { claim: c, class, candidates } in delayed {
        let claim = (c.namespace.clone(), c.name.clone());
        // A claim whose provisioning began for another node waits for that node.
        if let Some(selected) = &c.selected_node {
            if *selected != node.name {
                return Err(NO_VOLUME);
            }
            out.push(Plan::Provision { claim });
            continue;
        }
        let fitting = candidates.iter().find(|v| !taken.contains(&v.name) && reachable(v, node));
        if let Some(v) = fitting {
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
