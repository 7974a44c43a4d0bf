//! Ephemeral volumes: a claim per ephemeral volume of a pod, owned by the pod so that it goes with it (KEP-1698).

use std::sync::Arc;

use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::{Context, synced};
use crate::util::volumes::{PODS_BY_CLAIM, ephemeral_claim_name, index_pods_by_claim, is_for_pod, volumes};
use crate::util::{errors, meta};

struct Controller {
    client: Client,
    events: EventRecorder,
    pods: Store<Pod>,
    claims: Store<PersistentVolumeClaim>,
}

fn concerns_us(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none() && volumes(pod).any(|v| v.ephemeral.is_some())
}

/// The claim that a pod's volume needs and that does not exist.
///
/// # Errors
/// A claim of that name exists and is not the pod's.
fn missing(
    pod: &Pod,
    volume: &Volume,
    existing: Option<&PersistentVolumeClaim>,
) -> Result<Option<PersistentVolumeClaim>, String> {
    let Some(source) = &volume.ephemeral else { return Ok(None) };
    if let Some(claim) = existing {
        return is_for_pod(pod, claim).map(|()| None);
    }
    let template = source.volume_claim_template.clone().unwrap_or_default();
    let given = template.metadata.unwrap_or_default();
    let metadata = ObjectMeta {
        name: Some(ephemeral_claim_name(pod, volume)),
        owner_references: Some(vec![meta::controller_ref(pod)]),
        annotations: given.annotations,
        labels: given.labels,
        ..ObjectMeta::default()
    };
    Ok(Some(PersistentVolumeClaim { metadata, spec: Some(template.spec), status: None }))
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let pvcs = ctx.informers.of::<PersistentVolumeClaim>();
    all_pods.store().add_index(PODS_BY_CLAIM, index_pods_by_claim);
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    all_pods.on_change(move |d| {
        // Volumes of a pod never change.
        if d.old().is_none() && concerns_us(d.object()) {
            q.add(key_of(d.object().as_ref()));
        }
    });
    let (q, pods) = (queue.clone(), all_pods.store());
    pvcs.on_change(move |d| {
        if d.is_deleted() {
            let users = pods.by_index(PODS_BY_CLAIM, &key_of(d.object().as_ref()));
            users.iter().filter(|p| concerns_us(p)).for_each(|p| q.add(key_of(p.as_ref())));
        }
    });
    let c = Arc::new(Controller {
        client: ctx.client("ephemeral-volume-controller")?,
        events: ctx.events.for_component("ephemeral_volume"),
        pods: all_pods.store(),
        claims: pvcs.store(),
    });
    let workers = ctx.flags.concurrent_ephemeralvolume_syncs;
    ctx.work("ephemeral_volume", &queue, workers, vec![synced(&all_pods), synced(&pvcs)], move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key).filter(|p| concerns_us(p)) else { return Ok(()) };
        let namespace = split_key(key).0.unwrap_or_default();
        for volume in volumes(&pod) {
            if let Err(why) = self.handle(namespace, &pod, volume).await {
                let what = format!("ephemeral volume {}: {why}", volume.name);
                self.events.warning(&meta::reference(pod.as_ref()), "FailedBinding", what.clone());
                anyhow::bail!("pod {key}, {what}");
            }
        }
        Ok(())
    }

    async fn handle(&self, namespace: &str, pod: &Pod, volume: &Volume) -> Result<(), String> {
        let existing = self.claims.find(namespace, &ephemeral_claim_name(pod, volume));
        let Some(claim) = missing(pod, volume, existing.as_deref())? else { return Ok(()) };
        let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), namespace);
        match api.create(&PostParams::default(), &claim).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(()),
            Err(e) => Err(format!("create PVC {}: {}", meta::name(&claim.metadata), errors::message(&e))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn made_from_the_template_and_never_taken_over() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "n", "uid": "u"},
            "spec": {"containers": [], "volumes": [{"name": "scratch", "ephemeral": {"volumeClaimTemplate": {
                "metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}},
                "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "fast",
                    "resources": {"requests": {"storage": "1Gi"}}}}}}, {"name": "other", "emptyDir": {}}]},
        }))
        .unwrap_or_else(|e| panic!("{e}"));
        let all: Vec<&Volume> = volumes(&pod).collect();
        let made = missing(&pod, all[0], None).unwrap_or_default().unwrap_or_default();
        assert_eq!(made.metadata.name.as_deref(), Some("web-scratch"));
        assert_eq!(made.metadata.labels, Some([("a".to_owned(), "b".to_owned())].into()));
        assert!(meta::is_controlled_by(&made.metadata, "u"));
        assert_eq!(made.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()), Some("fast"));
        assert_eq!(missing(&pod, all[1], None), Ok(None));

        let mut there = made;
        there.metadata.namespace = Some("n".into());
        assert_eq!(missing(&pod, all[0], Some(&there)), Ok(None));
        there.metadata.owner_references = None;
        let why = missing(&pod, all[0], Some(&there)).err().unwrap_or_default();
        assert_eq!(why, "PVC n/web-scratch was not created for pod n/web (pod is not owner)");
    }
}
