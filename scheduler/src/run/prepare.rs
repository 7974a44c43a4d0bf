//! A pod's ResourceClaims on the way to its node: made where that is left to the scheduler, written, and waited for.

use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1 as api;

use super::api::Writer;
use super::claims::{self, NotReady};
use crate::dra::binding;
use crate::dra::claims::{Shared, allocation, kept, reserved_for, uid};
use crate::dra::extended::made_for;
use crate::metrics::{ClaimCreate, DeviceWait, Metrics};
use crate::model::PodInfo;
use crate::plugins::dynamic_resources::ClaimPlan;

/// A pod that goes to a node.
pub struct Prepare<'a> {
    pub writer: &'a Writer,
    pub metrics: &'a Metrics,
    pub pod: &'a PodInfo,
    pub node: &'a str,
    /// How long devices may take to become ready.
    pub timeout: Duration,
}

impl Prepare<'_> {
    /// Writes the claims, and waits for their devices to become ready. `written` hears of every claim, with the UID that
    /// its allocation was pending under; `reserved` gets all that are to be given up if the pod is not bound.
    ///
    /// # Errors
    /// A message for the pod.
    pub async fn claims(
        &self,
        plans: &[ClaimPlan],
        reserved: &mut Vec<Shared>,
        written: impl Fn(&str, Shared),
    ) -> Result<(), String> {
        let client = &self.writer.client;
        let mut all = Vec::new();
        for plan in plans {
            let mut claim = (*plan.claim).clone();
            if plan.create.is_some() {
                claim = self.create(&claim).await?;
                reserved.push(kept(claim.clone()));
            }
            let c = kept(claims::bind(client, self.pod, claim, plan).await?);
            written(uid(&plan.claim), c.clone());
            match &plan.create {
                Some(mappings) => {
                    let name = c.metadata.name.as_deref().unwrap_or("");
                    self.writer.tell_extended(self.pod, name, mappings).await?;
                }
                None => reserved.push(c.clone()),
            }
            all.push(c);
        }
        if !all.iter().any(|c| binding::has_conditions(c)) {
            return Ok(());
        }
        self.writer.tell_waiting_for_devices(self.pod, self.node);
        let begun = Instant::now();
        let done = self.wait(&all).await;
        self.observe(&all, begun.elapsed(), done.as_ref().err().map_or("success", NotReady::status));
        done.map_err(NotReady::into_text)
    }

    async fn create(&self, claim: &api::ResourceClaim) -> Result<api::ResourceClaim, String> {
        let created = claims::create(&self.writer.client, claim).await;
        let status = if created.is_ok() { "success" } else { "failure" };
        self.metrics.claim_creates.get_or_create(&ClaimCreate { status }).inc();
        created
    }

    async fn wait(&self, all: &[Shared]) -> Result<(), NotReady> {
        for c in all.iter().filter(|c| binding::has_conditions(c)) {
            claims::wait(&self.writer.client, c, self.timeout).await?;
        }
        Ok(())
    }

    fn observe(&self, all: &[Shared], waited: Duration, status: &'static str) {
        let profile = self.pod.want().scheduler.to_string();
        let results = all.iter().filter_map(|c| allocation(c)?.devices.as_ref()?.results.as_ref()).flatten();
        for r in results {
            let label = DeviceWait { profile: profile.clone(), driver: r.driver.clone(), status };
            self.metrics.device_waits.get_or_create(&label).observe(waited.as_secs_f64());
            if r.binding_conditions.as_ref().is_some_and(|b| !b.is_empty()) {
                self.metrics.device_allocations.get_or_create(&label).inc();
            }
        }
    }
}

/// Takes back what was written for a pod that is not bound.
pub async fn undo(writer: &Writer, pod: &PodInfo, reserved: &[Shared]) {
    for c in reserved {
        if made_for(c) == Some(pod.uid.as_ref()) {
            claims::delete(&writer.client, c).await;
        } else if reserved_for(c, &pod.uid) {
            claims::unreserve(&writer.client, pod, c).await;
        }
    }
}
