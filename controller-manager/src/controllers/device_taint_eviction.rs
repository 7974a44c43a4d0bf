//! Device taint eviction: pods leave devices whose `NoExecute` taints their claims do not tolerate, or not any longer
//! (KEP-5055). Taints come from the drivers' resource slices; taint rules are off by default upstream, and not here.
//!
//! Deadlines come from the objects, so a restart neither forgets nor prolongs them.

use std::sync::Arc;
use std::time::Duration;

use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of};
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::resource::v1::{
    Device, DeviceRequestAllocationResult, DeviceTaint, DeviceToleration, ResourceClaim, ResourceSlice,
};
use kube::Client;

use super::resource_claim::plan::{self, Named};
use crate::context::{Context, synced};
use crate::util::taints::NO_EXECUTE;
use crate::util::{eviction, meta, pods};

/// Index of slices by pool (`driver/pool`).
const BY_POOL: &str = "pool";
/// Index of claims by the pools that their devices are from.
const CLAIMS_BY_POOL: &str = "claimsByPool";
/// Index of pods by the claims they use.
const PODS_BY_CLAIM: &str = "podsByResourceClaim";

struct Controller {
    client: Client,
    events: EventRecorder,
    pods: Store<Pod>,
    claims: Store<ResourceClaim>,
    slices: Store<ResourceSlice>,
    queue: WorkQueue<String>,
}

fn pool_of(slice: &ResourceSlice) -> String {
    format!("{}/{}", slice.spec.driver, slice.spec.pool.name)
}

fn devices(claim: &ResourceClaim) -> &[DeviceRequestAllocationResult] {
    let allocation = claim.status.as_ref().and_then(|s| s.allocation.as_ref());
    allocation.and_then(|a| a.devices.as_ref()?.results.as_deref()).unwrap_or_default()
}

fn tolerates(toleration: &DeviceToleration, taint: &DeviceTaint) -> bool {
    let fits =
        |wanted: &Option<String>, have: &str| wanted.as_deref().is_none_or(|w| w.is_empty() || w == have);
    toleration.effect.as_deref() == Some(NO_EXECUTE)
        && fits(&toleration.key, &taint.key)
        && match toleration.operator.as_deref().unwrap_or_default() {
            "" | "Equal" => {
                toleration.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
            }
            "Exists" => true,
            _ => false,
        }
}

/// When a device must be left because of its taints; `None`: never. A taint whose beginning is not known counts from
/// `now`.
fn leave_at(device: &Device, tolerations: &[DeviceToleration], now: Timestamp) -> Option<Timestamp> {
    let evicting = device.taints.iter().flatten().filter(|t| t.effect == NO_EXECUTE);
    let ends = evicting.filter_map(|taint| {
        let since = taint.time_added.as_ref().map_or(now, |t| t.0);
        let mut fitting = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if fitting.peek().is_none() {
            return Some(since);
        }
        // One that tolerates for ever counts more than any that does not.
        let seconds: Option<Vec<i64>> = fitting.map(|t| t.toleration_seconds).collect();
        let shortest = seconds?.into_iter().min().unwrap_or(0).max(0);
        Some(since.saturating_add(SignedDuration::from_secs(shortest)).unwrap_or(Timestamp::MAX))
    });
    ends.min()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let all_pods = ctx.informers.of::<Pod>();
    let claims = ctx.informers.of::<ResourceClaim>();
    let slices = ctx.informers.of::<ResourceSlice>();
    slices.store().add_index(BY_POOL, |s| vec![pool_of(s)]);
    claims.store().add_index(CLAIMS_BY_POOL, |c| {
        devices(c).iter().map(|d| format!("{}/{}", d.driver, d.pool)).collect()
    });
    all_pods.store().add_index(PODS_BY_CLAIM, |p| {
        plan::names(p).iter().map(|n| format!("{}/{n}", meta::namespace(&p.metadata))).collect()
    });
    let c = Arc::new(Controller {
        client: ctx.client("device-taint-eviction-controller")?,
        events: ctx.events.for_component("device-taint-eviction-controller"),
        pods: all_pods.store(),
        claims: claims.store(),
        slices: slices.store(),
        queue: WorkQueue::default(),
    });
    let this = c.clone();
    all_pods.on_change(move |d| {
        let pod = d.object();
        let news =
            d.old().is_none_or(|o| pods::node(o) != pods::node(pod) || plan::names(o) != plan::names(pod));
        if news && !d.is_deleted() && !pods::node(pod).is_empty() && !plan::names(pod).is_empty() {
            this.queue.add(key_of(pod.as_ref()));
        }
    });
    let this = c.clone();
    claims.on_change(move |d| {
        let claim = d.object();
        if !d.is_deleted() && d.old().is_none_or(|o| o.status != claim.status) {
            this.wake_users(claim);
        }
    });
    let this = c.clone();
    slices.on_change(move |d| {
        let slice = d.object();
        if d.old().is_some_and(|o| !d.is_deleted() && o.spec == slice.spec) {
            return;
        }
        for claim in this.claims.by_index(CLAIMS_BY_POOL, &pool_of(slice)) {
            this.wake_users(&claim);
        }
    });
    let queue = c.queue.clone();
    let ready = vec![synced(&all_pods), synced(&claims), synced(&slices)];
    let workers = ctx.flags.concurrent_device_taint_eviction_syncs;
    ctx.work("device_taint_eviction", &queue, workers, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn wake_users(&self, claim: &ResourceClaim) {
        for pod in self.pods.by_index(PODS_BY_CLAIM, &key_of(claim)) {
            self.queue.add(key_of(pod.as_ref()));
        }
    }

    /// The device as the newest generation of its pool has it.
    fn device(&self, allocated: &DeviceRequestAllocationResult) -> Option<Device> {
        let pool = self.slices.by_index(BY_POOL, &format!("{}/{}", allocated.driver, allocated.pool));
        let newest = pool.iter().map(|s| s.spec.pool.generation).max()?;
        let current = pool.iter().filter(|s| s.spec.pool.generation == newest);
        current
            .into_iter()
            .flat_map(|s| s.spec.devices.iter().flatten())
            .find(|d| d.name == allocated.device)
            .cloned()
    }

    /// When the pod has to go because of any of its devices.
    fn deadline(&self, pod: &Pod, now: Timestamp) -> Option<Timestamp> {
        let namespace = meta::namespace(&pod.metadata);
        let uid = meta::uid(&pod.metadata);
        let claims = plan::entries(pod).filter_map(|entry| {
            let named = plan::named(pod, entry).ok()?;
            let claim = self.claims.find(namespace, named.name()?)?;
            let foreign = matches!(named, Named::Generated(_)) && plan::is_for_pod(pod, &claim).is_err();
            let reserved = plan::pod_users(&claim).any(|u| u.uid == uid);
            (reserved && !foreign).then_some(claim)
        });
        claims
            .flat_map(|claim| {
                let leave = |d: &DeviceRequestAllocationResult| {
                    leave_at(&self.device(d)?, d.tolerations.as_deref().unwrap_or_default(), now)
                };
                devices(&claim).iter().filter_map(leave).collect::<Vec<_>>()
            })
            .min()
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(pod) = self.pods.get(key) else { return Ok(()) };
        if pod.metadata.deletion_timestamp.is_some() || pods::node(&pod).is_empty() || pods::is_terminal(&pod)
        {
            return Ok(());
        }
        let now = Timestamp::now();
        let Some(at) = self.deadline(&pod, now) else { return Ok(()) };
        if at > now {
            let wait = Duration::try_from(at.duration_since(now)).unwrap_or_default();
            self.queue.add_after(key.to_owned(), wait);
            return Ok(());
        }
        self.evict(key, &pod).await
    }

    async fn evict(&self, key: &str, pod: &Pod) -> anyhow::Result<()> {
        self.events.normal(&meta::reference(pod), "DeviceTaintManagerEviction", "Marking for deletion");
        let message = "Device Taint manager: deleting due to NoExecute taint";
        let why = pods::disruption_target("DeletionByDeviceTaintManager", message, Timestamp::now());
        eviction::evict(&self.client, key, pod, why).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap_or_default()
    }

    fn left(taints: Value, tolerations: Value) -> Option<Timestamp> {
        let device: Device =
            serde_json::from_value(json!({"name": "d", "taints": taints})).unwrap_or_else(|e| panic!("{e}"));
        let tolerations: Vec<DeviceToleration> =
            serde_json::from_value(tolerations).unwrap_or_else(|e| panic!("{e}"));
        leave_at(&device, &tolerations, at(100))
    }

    #[test]
    fn deadlines_count_from_the_taint() {
        let taint = json!([{"key": "broken", "effect": "NoExecute", "timeAdded": "1970-01-01T00:00:10Z"}]);
        assert_eq!(left(json!([]), json!([])), None);
        assert_eq!(left(json!([{"key": "broken", "effect": "NoSchedule"}]), json!([])), None);
        assert_eq!(left(taint.clone(), json!([])), Some(at(10)));
        let exists = json!({"operator": "Exists", "effect": "NoExecute"});
        assert_eq!(left(taint.clone(), json!([exists])), None);
        let mut short = exists.clone();
        short["tolerationSeconds"] = json!(30);
        assert_eq!(left(taint.clone(), json!([short])), Some(at(40)));
        assert_eq!(left(taint.clone(), json!([short, exists])), None, "for ever wins");
        let other = json!({"key": "hot", "operator": "Exists", "effect": "NoExecute"});
        assert_eq!(left(taint, json!([other])), Some(at(10)));
        assert_eq!(left(json!([{"key": "new", "effect": "NoExecute"}]), json!([])), Some(at(100)));
    }
}
