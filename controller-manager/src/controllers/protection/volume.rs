//! Volumes bound to claims.

use anyhow::Context as _;
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::PersistentVolume;
use kube::Api;

use super::{Need, need, write};
use crate::context::{Context, synced};
use crate::util::{meta, volumes};

const FINALIZER: &str = "kubernetes.io/pv-protection";

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let pvs = ctx.informers.of::<PersistentVolume>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    pvs.on_change(move |d| {
        if !d.is_deleted() && need(&d.object().metadata, FINALIZER) != Need::Nothing {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let api: Api<PersistentVolume> = Api::all(ctx.client("pv-protection-controller")?);
    let store = pvs.store();
    ctx.work("pvprotection", &queue, 1, vec![synced(&pvs)], move |name| {
        let (api, store) = (api.clone(), store.clone());
        async move {
            let Some(volume) = store.get(&name) else { return Ok(()) };
            let add = match need(&volume.metadata, FINALIZER) {
                Need::Add => true,
                Need::Release if volumes::volume_phase(&volume) != "Bound" => false,
                _ => return Ok(()),
            };
            write(&api, &volume, FINALIZER, add).await.with_context(|| format!("protecting volume {name}"))
        }
    });
    Ok(())
}
