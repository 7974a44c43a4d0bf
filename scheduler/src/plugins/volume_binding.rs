//! VolumeBinding: the pod's claims are bound, or can be bound on the node.

use super::volumes::{self, Stand};
use crate::framework::{Action, Cycle, Filter, Plugin, Rejection, Resource};
use crate::model::volume::{Claim, Class};

const NAME: &str = "VolumeBinding";

/// The plugin.
pub struct VolumeBinding;

impl Plugin for VolumeBinding {
    fn name(&self) -> &'static str {
        NAME
    }

    fn may_score(&self, _cx: Cycle<'_>) -> bool {
        false
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let storage = &cx.cache.storage;
        let stands = volumes::stands(storage, cx.pod).map_err(|m| Rejection::unresolvable(NAME, m))?;
        if stands.is_empty() {
            return Ok(Filter::Skip);
        }
        if stands.iter().any(|s| matches!(s, Stand::Unbound)) {
            return Err(Rejection::unresolvable(NAME, "pod has unbound immediate PersistentVolumeClaims"));
        }
        Ok(Filter::Check(Box::new(move |n| {
            let mut delayed: Vec<(&Claim, &Class)> = Vec::new();
            for s in &stands {
                match s {
                    Stand::Bound(_, volume) => match storage.volumes.get(*volume) {
                        None => {
                            return Err(Rejection::unresolvable(
                                NAME,
                                "node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)",
                            ));
                        }
                        Some(v) if !volumes::reachable(v, n) => {
                            return Err(Rejection::unresolvable(
                                NAME,
                                "node(s) didn't match PersistentVolume's node affinity",
                            ));
                        }
                        Some(_) => {}
                    },
                    Stand::Delayed(c, class) => delayed.push((c, class)),
                    Stand::Unbound => {}
                }
            }
            if volumes::plan(storage, &delayed, n).is_none() {
                return Err(Rejection::unresolvable(
                    NAME,
                    "node(s) didn't find available persistent volumes to bind",
                ));
            }
            Ok(())
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Claim, Action::ADD.or(Action::UPDATE)),
                (Resource::Volume, Action::ADD.or(Action::UPDATE)),
                (Resource::StorageClass, Action::ADD.or(Action::UPDATE)),
                (Resource::CsiNode, Action::ADD.or(Action::UPDATE)),
                (Resource::Node, Action::ADD.or(Action::LABELS)),
            ]
        }
    }
}
