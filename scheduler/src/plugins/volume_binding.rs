//! VolumeBinding: the pod's claims are bound, or can be bound on the node.

use std::borrow::Cow;

use super::volumes::{self, Delayed, Stand};
use crate::framework::{Action, Cycle, Filter, Plugin, Rejection, Resource};

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
        let delayed = Delayed::all(storage, &stands);
        Ok(Filter::Check(Box::new(move |n| {
            let (mut missing, mut elsewhere) = (false, false);
            for s in &stands {
                match s {
                    Stand::Bound(_, volume) => match storage.volumes.get(*volume) {
                        None => missing = true,
                        Some(v) => elsewhere |= !volumes::reachable(v, n),
                    },
                    Stand::Delayed(..) | Stand::Unbound => {}
                }
            }
            let mut reasons: Vec<Cow<'static, str>> = Vec::new();
            if elsewhere {
                reasons.push("node(s) didn't match PersistentVolume's node affinity".into());
            }
            reasons.extend(volumes::plan(storage, &delayed, n).err().map(Cow::from));
            if missing {
                reasons
                    .push("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)".into());
            }
            if reasons.is_empty() {
                return Ok(());
            }
            Err(Rejection { plugin: NAME, reasons, resolvable: false, failed: false })
        })))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Claim, Action::ADD.or(Action::UPDATE)),
                (Resource::Volume, Action::ADD.or(Action::UPDATE)),
                (Resource::StorageClass, Action::ADD.or(Action::UPDATE)),
                (Resource::CsiNode, Action::ADD.or(Action::UPDATE)),
                (Resource::CsiDriver, Action::ADD.or(Action::UPDATE)),
                (Resource::CsiStorageCapacity, Action::ADD.or(Action::UPDATE)),
                (Resource::Node, Action::ADD.or(Action::LABELS)),
            ]
        }
    }
}
