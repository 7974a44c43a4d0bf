//! Attributes classes that claims or volumes refer to.

use anyhow::Context as _;
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use k8s_openapi::api::storage::v1::VolumeAttributesClass;
use kube::Api;

use super::{Need, need, write};
use crate::context::{Context, synced};
use crate::util::meta;

const FINALIZER: &str = "kubernetes.io/vac-protection";
/// Index of claims and of volumes by the attributes classes they refer to.
const BY_CLASS: &str = "volumeAttributesClassName";

fn of_volume(volume: &PersistentVolume) -> Vec<String> {
    let name = volume.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone());
    name.filter(|n| !n.is_empty()).into_iter().collect()
}

/// The class a claim wants, the one it has, and the one it is being moved to.
fn of_claim(claim: &PersistentVolumeClaim) -> Vec<String> {
    let status = claim.status.as_ref();
    let mut names: Vec<String> = [
        claim.spec.as_ref().and_then(|s| s.volume_attributes_class_name.clone()),
        status.and_then(|s| s.current_volume_attributes_class_name.clone()),
        status.and_then(|s| s.modify_volume_status.as_ref()?.target_volume_attributes_class_name.clone()),
    ]
    .into_iter()
    .flatten()
    .filter(|n| !n.is_empty())
    .collect();
    names.sort();
    names.dedup();
    names
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let pvs = ctx.informers.of::<PersistentVolume>();
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    let classes = ctx.informers.of::<VolumeAttributesClass>();
    pvs.store().add_index(BY_CLASS, of_volume);
    pvcs.store().add_index(BY_CLASS, of_claim);
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    classes.on_change(move |d| {
        if !d.is_deleted() && need(&d.object().metadata, FINALIZER) != Need::Nothing {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    // A class that somebody stopped to refer to may be free now.
    let q = queue.clone();
    pvs.on_change(move |d| {
        let kept = if d.is_deleted() { Vec::new() } else { of_volume(d.object()) };
        d.old().iter().flat_map(|v| of_volume(v)).filter(|n| !kept.contains(n)).for_each(|n| q.add(n));
    });
    let q = queue.clone();
    pvcs.on_change(move |d| {
        let kept = if d.is_deleted() { Vec::new() } else { of_claim(d.object()) };
        d.old().iter().flat_map(|c| of_claim(c)).filter(|n| !kept.contains(n)).for_each(|n| q.add(n));
    });
    let api: Api<VolumeAttributesClass> =
        Api::all(ctx.client("volumeattributesclass-protection-controller")?);
    let (volumes, claims, store) = (pvs.store(), pvcs.store(), classes.store());
    let ready = vec![synced(&pvs), synced(&pvcs), synced(&classes)];
    ctx.work("vacprotection", &queue, 1, ready, move |name| {
        let (api, volumes, claims, store) = (api.clone(), volumes.clone(), claims.clone(), store.clone());
        async move {
            let Some(class) = store.get(&name) else { return Ok(()) };
            let in_use = || {
                !volumes.by_index(BY_CLASS, &name).is_empty() || !claims.by_index(BY_CLASS, &name).is_empty()
            };
            let add = match need(&class.metadata, FINALIZER) {
                Need::Add => true,
                Need::Release if !in_use() => false,
                _ => return Ok(()),
            };
            write(&api, &class, FINALIZER, add)
                .await
                .with_context(|| format!("protecting volume attributes class {name}"))
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn all_references_of_a_claim_count_once() {
        let claim: PersistentVolumeClaim = serde_json::from_value(json!({
            "spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "silver",
                "modifyVolumeStatus": {"status": "InProgress", "targetVolumeAttributesClassName": "gold"}},
        }))
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(of_claim(&claim), ["gold", "silver"]);
        assert_eq!(of_claim(&PersistentVolumeClaim::default()), [""; 0]);
    }
}
