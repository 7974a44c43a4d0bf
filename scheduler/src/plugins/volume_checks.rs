//! VolumeRestrictions, VolumeZone and NodeVolumeLimits: whether the pod's volumes can be used on a node.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};

use super::volumes::{self, Stand};
use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource};
use crate::model::{Labels, PodInfo, Str, VolumeUse};

/// A disk that can have one writer, and a claim that can have one pod.
pub struct VolumeRestrictions;

impl Plugin for VolumeRestrictions {
    fn name(&self) -> &'static str {
        "VolumeRestrictions"
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let pod = cx.pod;
        let exclusive: Vec<&Str> = pod
            .claims()
            .filter(|(name, _)| {
                let c = cx.cache.storage.claims.get(&(pod.namespace.clone(), (*name).clone()));
                c.is_some_and(|c| c.modes.iter().any(|m| m.as_ref() == "ReadWriteOncePod"))
            })
            .map(|(name, _)| name)
            .collect();
        let disks: Vec<(&Str, bool)> = pod
            .volumes
            .iter()
            .filter_map(|v| match v {
                VolumeUse::Disk { id, shareable } => Some((id, *shareable)),
                VolumeUse::Claim { .. } => None,
            })
            .collect();
        if exclusive.is_empty() && disks.is_empty() {
            return Ok(Filter::Skip);
        }
        // Whoever holds the claim holds it on all nodes.
        let held = !exclusive.is_empty()
            && cx.cache.nodes().flat_map(|n| &n.pods).any(|p| {
                p.namespace == pod.namespace && p.claims().any(|(name, _)| exclusive.contains(&name))
            });
        Ok(Filter::Check(Box::new(move |n| {
            let clash = n.pods.iter().flat_map(|p| p.volumes.iter()).any(|v| match v {
                VolumeUse::Disk { id, shareable } => {
                    disks.iter().any(|(mine, share)| *mine == id && !(*share && *shareable))
                }
                VolumeUse::Claim { .. } => false,
            });
            if clash {
                return Err(Rejection::unschedulable("VolumeRestrictions", "node(s) had no available disk"));
            }
            if held {
                return Err(Rejection::unschedulable(
                    "VolumeRestrictions",
                    "node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod",
                ));
            }
            Ok(())
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::AssignedPod, Action::DELETE),
                (Resource::Node, Action::ADD),
                (Resource::Claim, Action::ADD.or(Action::UPDATE)),
            ]
        }
    }

    fn hint(&self, _pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.pod.is_none_or(|p| !p.volumes.is_empty())
    }
}

/// Labels by which a volume says where it is.
const TOPOLOGY: &[&str] = &[
    "failure-domain.beta.kubernetes.io/zone",
    "failure-domain.beta.kubernetes.io/region",
    "topology.kubernetes.io/zone",
    "topology.kubernetes.io/region",
];

/// Volumes with zone labels are used in their zone.
pub struct VolumeZone;

impl VolumeZone {
    fn node_value<'n>(labels: &'n Labels, key: &str) -> Option<&'n Str> {
        // The beta names and the final ones mean the same.
        let twin = match key {
            "failure-domain.beta.kubernetes.io/zone" => "topology.kubernetes.io/zone",
            "failure-domain.beta.kubernetes.io/region" => "topology.kubernetes.io/region",
            "topology.kubernetes.io/zone" => "failure-domain.beta.kubernetes.io/zone",
            _ => "failure-domain.beta.kubernetes.io/region",
        };
        labels.get(key).or_else(|| labels.get(twin))
    }
}

impl Plugin for VolumeZone {
    fn name(&self) -> &'static str {
        "VolumeZone"
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let storage = &cx.cache.storage;
        // What is wrong with a claim is VolumeBinding's to say.
        let stands = volumes::stands(storage, cx.pod).unwrap_or_default();
        let mut wanted: Vec<(&'static str, HashSet<&str>)> = Vec::new();
        for s in stands {
            let Stand::Bound(_, name) = s else { continue };
            let Some(v) = storage.volumes.get(name) else { continue };
            for key in TOPOLOGY {
                if let Some(value) = v.labels.get(key) {
                    wanted.push((key, value.split("__").collect()));
                }
            }
        }
        if wanted.is_empty() {
            return Ok(Filter::Skip);
        }
        Ok(Filter::Check(Box::new(move |n| {
            let labels = &n.facts().labels;
            if TOPOLOGY.iter().all(|k| labels.get(k).is_none()) {
                // A cluster without zones.
                return Ok(());
            }
            let fits = |(k, values): &(&str, HashSet<&str>)| {
                Self::node_value(labels, k).is_some_and(|v| values.contains(v.as_ref()))
            };
            if wanted.iter().all(fits) {
                Ok(())
            } else {
                Err(Rejection::unresolvable("VolumeZone", "node(s) had no available volume zone"))
            }
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Node, Action::ADD.or(Action::LABELS)),
                (Resource::Claim, Action::ADD.or(Action::UPDATE)),
                (Resource::Volume, Action::ADD.or(Action::UPDATE)),
                (Resource::StorageClass, Action::ADD),
            ]
        }
    }
}

/// A CSI driver attaches only so many volumes to a node.
pub struct NodeVolumeLimits;

/// Driver and handle of the volumes behind a pod's claims. A claim that is still to be provisioned counts as the
/// volume it will get.
fn handles<'a>(cx: Cycle<'a>, pod: &'a PodInfo) -> impl Iterator<Item = (&'a Str, Cow<'a, str>)> {
    let s = &cx.cache.storage;
    pod.claims().filter_map(move |(name, _)| {
        let claim = s.claims.get(&(pod.namespace.clone(), name.clone()))?;
        match &claim.volume {
            Some(v) => s.volumes.get(v)?.csi.as_ref().map(|(d, h)| (d, Cow::Borrowed(h.as_ref()))),
            None => {
                let class = s.classes.get(claim.class.as_ref()?)?;
                Some((&class.provisioner, Cow::Owned(format!("unbound/{}/{name}", pod.namespace))))
            }
        }
    })
}

impl Plugin for NodeVolumeLimits {
    fn name(&self) -> &'static str {
        "NodeVolumeLimits"
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let mine: HashSet<(&Str, Cow<'_, str>)> = handles(cx, cx.pod).collect();
        if mine.is_empty() {
            return Ok(Filter::Skip);
        }
        Ok(Filter::Check(Box::new(move |n| {
            let Some(limits) = cx.cache.storage.csi_limits.get(&n.name) else { return Ok(()) };
            let attached: HashSet<(&Str, Cow<'_, str>)> =
                n.pods.iter().flat_map(|p| handles(cx, p)).collect();
            let mut total: HashMap<&Str, i64> = HashMap::new();
            for (driver, _) in attached.union(&mine) {
                *total.entry(*driver).or_default() += 1;
            }
            let over = mine.difference(&attached).any(|(driver, _)| {
                let limit = limits.iter().find(|(d, _)| d == *driver).and_then(|(_, l)| *l);
                limit.is_some_and(|l| total.get(driver).copied().unwrap_or(0) > l)
            });
            if over {
                Err(Rejection::unschedulable("NodeVolumeLimits", "node(s) exceed max volume count"))
            } else {
                Ok(())
            }
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::CsiNode, Action::ADD.or(Action::UPDATE)),
                (Resource::AssignedPod, Action::DELETE),
                (Resource::Claim, Action::ADD.or(Action::UPDATE)),
                (Resource::Volume, Action::ADD),
            ]
        }
    }

    fn hint(&self, _pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.pod.is_none_or(|p| p.claims().next().is_some())
    }
}
