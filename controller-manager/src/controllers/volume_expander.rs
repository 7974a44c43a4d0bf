//! Volume expander: says on a claim that wants to grow that the resizer of its CSI driver is waited for.
//!
//! Growing is the driver's business (its external-resizer watches claims itself). What is left to this controller is
//! the hand-off, for drivers that took over an in-tree volume type too.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::{Api, Client};

use crate::context::{Context, synced};
use crate::util::{errors, meta, volumes};

struct Controller {
    client: Client,
    events: EventRecorder,
    claims: Store<PersistentVolumeClaim>,
}

fn granted(claim: &PersistentVolumeClaim) -> proto::quantity::Quantity {
    volumes::storage(claim.status.as_ref().and_then(|s| s.capacity.as_ref()))
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    /// It has what it asks for.
    Nothing,
    /// A driver outside of Kubernetes grows it.
    HandOff,
    /// Its type of volume does not grow.
    NoPlugin,
    /// Claim and volume do not belong together.
    NotBound,
}

fn judge(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Verdict {
    let spec = volume.spec.clone().unwrap_or_default();
    if spec.claim_ref.is_none_or(|r| r.namespace != claim.metadata.namespace || r.uid != claim.metadata.uid) {
        return Verdict::NotBound;
    }
    if volumes::requested(claim) <= granted(claim) {
        return Verdict::Nothing;
    }
    if spec.csi.is_some() { Verdict::HandOff } else { Verdict::NoPlugin }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    pvcs.on_change(move |d| {
        let claim = d.object();
        let asks_for_more = d.old().is_none_or(|o| volumes::requested(o) < volumes::requested(claim))
            && volumes::requested(claim) > granted(claim);
        if !d.is_deleted() && asks_for_more && volumes::claim_phase(claim) == "Bound" {
            q.add(key_of(claim.as_ref()));
        }
    });
    let c = Arc::new(Controller {
        client: ctx.client("expand-controller")?,
        events: ctx.events.for_component("volume_expand"),
        claims: pvcs.store(),
    });
    ctx.work("volume_expand", &queue, 1, vec![synced(&pvcs)], move |key| {
        let c = c.clone();
        async move { c.sync(&key).await.with_context(|| format!("growing claim {key}")) }
    });
    Ok(())
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(claim) = self.claims.get(key) else { return Ok(()) };
        let name = volumes::volume_name(&claim);
        let api: Api<PersistentVolume> = Api::all(self.client.clone());
        let volume = match api.get(name).await {
            Err(e) if errors::not_found(&e) => return Ok(()),
            other => other.with_context(|| format!("failed to get PV {name:?}"))?,
        };
        let message = "waiting for an external controller to expand this PVC";
        let about = meta::reference(claim.as_ref());
        match judge(&claim, &volume) {
            Verdict::Nothing => {}
            Verdict::HandOff => self.events.normal(&about, "ExternalExpanding", message),
            Verdict::NoPlugin => self.events.warning(&about, "ExternalExpanding", message),
            Verdict::NotBound => anyhow::bail!("persistent Volume is not bound to PVC being updated : {key}"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_bound_claims_that_ask_for_more_are_handed_off() {
        let claim = |asks: &str| -> PersistentVolumeClaim {
            serde_json::from_value(json!({"metadata": {"namespace": "n", "uid": "u"},
                "spec": {"resources": {"requests": {"storage": asks}}}, "status": {"capacity": {"storage": "1Gi"}}}))
            .unwrap_or_else(|e| panic!("{e}"))
        };
        let volume = |uid: &str, source: serde_json::Value| -> PersistentVolume {
            let mut spec = source;
            spec["claimRef"] = json!({"namespace": "n", "uid": uid});
            serde_json::from_value(json!({"spec": spec})).unwrap_or_else(|e| panic!("{e}"))
        };
        let csi = json!({"csi": {"driver": "d", "volumeHandle": "h"}});
        assert_eq!(judge(&claim("1024Mi"), &volume("u", csi.clone())), Verdict::Nothing);
        assert_eq!(judge(&claim("2Gi"), &volume("u", csi.clone())), Verdict::HandOff);
        assert_eq!(judge(&claim("2Gi"), &volume("u", json!({"local": {"path": "/d"}}))), Verdict::NoPlugin);
        assert_eq!(judge(&claim("2Gi"), &volume("v", csi)), Verdict::NotBound);
    }
}
