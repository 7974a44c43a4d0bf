//! What is done for a pod that fits nowhere: evictions, of which extenders have their say, and devices given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tracing::{info, warn};

use super::api::Writer;
use super::claims;
use super::core::{Report, Worker};
use super::extender::{self, Proposal};
use crate::decide::Diagnosis;
use crate::dra::extended;
use crate::model::{PodInfo, Str};
use crate::plugins::dynamic_resources;
use crate::preempt::{self, Candidate, Outcome};
use crate::queue::Queued;

/// A pod that has been refused, unless room can be made.
pub(super) struct Refused {
    q: Queued,
    by: BTreeSet<&'static str>,
    message: String,
    begun: Instant,
}

impl Worker {
    pub(super) fn unschedulable(&mut self, q: Queued, d: &Diagnosis, begun: Instant, writer: &Writer) {
        let Some(profile) = self.profiles.get(&q.pod.want().scheduler) else { return };
        if let Some(text) = &d.failure {
            return self.failed(q, text.clone(), begun, writer);
        }
        let by = if d.plugins.is_empty() { BTreeSet::from(["NodeResourcesFit"]) } else { d.plugins.clone() };
        let mut message = d.message();
        let mut nominated = None;
        // A pod that no node can take as it is gains nothing from evictions.
        let hopeless = d.everywhere.as_ref().is_some_and(|r| !r.resolvable);
        if profile.preempts && !hopeless {
            self.metrics.preemption_attempts.inc();
            let outcome = preempt::preempt(&mut self.cache, profile, &q.pod, d, &mut self.turn);
            if let Outcome::No(text) | Outcome::Wait(text) = &outcome {
                if profile.plugin(dynamic_resources::NAME).is_some() {
                    message.push_str(self.deallocate(&q.pod, d, writer));
                }
                message.push_str(" preemption: ");
                message.push_str(text);
            }
            match outcome {
                Outcome::No(_) if q.pod.want().nominated.is_some() => nominated = Some(Str::from("")),
                Outcome::No(_) | Outcome::Wait(_) => {}
                Outcome::Evict(found)
                    if self.extenders.iter().any(|e| e.preempts() && e.is_interested(&q.pod)) =>
                {
                    return self.ask_whom_to_evict(Refused { q, by, message, begun }, &found);
                }
                Outcome::Evict(found) => {
                    nominated = preempt::best(&found).map(|c| self.evict(&q.pod, c, writer));
                }
            }
        }
        self.refuse(q, by, message, nominated, begun, writer);
    }

    /// Gives up devices that keep a pod from all nodes. What runbooks quote of upstream's plugin is the answer.
    fn deallocate(&self, pod: &PodInfo, d: &Diagnosis, writer: &Writer) -> &'static str {
        let made = extended::backed(&self.cache.dra, pod);
        if pod.want().resource_claims.is_empty() && made.is_empty() {
            return " no new claims to deallocate,";
        }
        let timeout = self.profiles.get(&pod.want().scheduler).map(|p| p.device_timeout);
        let claim = match timeout {
            Some(t) if d.plugins.contains(dynamic_resources::NAME) => {
                dynamic_resources::to_deallocate(&self.cache, pod, t)
            }
            _ => None,
        };
        let (client, slots) = (writer.client.clone(), self.slots.clone());
        if let Some(claim) = claim {
            self.tasks.spawn(async move {
                let _permit = slots.acquire_owned().await;
                claims::deallocate(&client, &claim).await;
            });
            return " deallocation of ResourceClaim completed,";
        }
        let stale = self.cache.dra.claims.extended(&pod.uid).filter(|_| !made.is_empty()).cloned();
        let Some(claim) = stale else { return " still not schedulable," };
        self.tasks.spawn(async move {
            let _permit = slots.acquire_owned().await;
            claims::delete(&client, &claim).await;
        });
        " deletion of ResourceClaim completed,"
    }

    /// Asks for the evictions. Returns the node that gets room.
    fn evict(&mut self, pod: &Arc<PodInfo>, c: Arc<Candidate>, writer: &Writer) -> Str {
        self.metrics.preemption_victims.observe(c.victims.len() as f64);
        let node = c.node.clone();
        info!(pod = %pod.key(), node = %c.node, victims = c.victims.len(), "making room by preemption");
        // Pods of lower priority that waited for this node have to look again.
        let outbid: Vec<Arc<PodInfo>> =
            self.cache.nominated(&c.node).iter().filter(|p| p.priority < pod.priority).cloned().collect();
        let now = self.now();
        for p in &outbid {
            self.cache.nominate(p, None);
            self.queue.activate_pod(&p.uid, now);
        }
        self.preempting.insert(pod.uid.clone(), false);
        let (writer, pod, reports) = (writer.clone(), pod.clone(), self.reports.0.clone());
        let slots = self.slots.clone();
        self.tasks.spawn(async move {
            for p in outbid {
                let _permit = slots.acquire().await;
                writer.clear_nomination(&p).await;
            }
            let profile = &pod.want().scheduler;
            let (slots, writer, pod, node) = (&slots, &writer, &pod, &c.node);
            let evictions = c.victims.iter().filter(|v| !v.deleting).map(|v| async move {
                let _permit = slots.acquire().await;
                writer.evict(v, pod, node, profile).await
            });
            let all = futures::future::join_all(evictions).await.into_iter().all(|done| done);
            let _ = reports.send(Report::Evicted { uid: pod.uid.clone(), all });
        });
        node
    }

    /// All evictions for a pod have been asked for.
    pub(super) fn evicted(&mut self, uid: &str, all: bool) {
        let tried_meanwhile = self.preempting.remove(uid) == Some(true);
        if tried_meanwhile || !all {
            let now = self.now();
            self.queue.activate_pod(uid, now);
        }
    }

    /// The extenders choose among the ways to make room; their choice comes back as a report.
    fn ask_whom_to_evict(&mut self, refused: Refused, found: &[Arc<Candidate>]) {
        let offers = found
            .iter()
            .filter_map(|c| Some(extender::Offer::new(c, &self.cache.node(&c.node)?.pods)))
            .collect();
        let pod = refused.q.pod.clone();
        self.asking.insert(pod.uid.clone(), pod.clone());
        let (client, extenders, reports) =
            (self.client.clone(), self.extenders.clone(), self.reports.0.clone());
        self.tasks.spawn(async move {
            let answer = extender::preempt(&client, &extenders, &pod, offers).await;
            let _ = reports.send(Report::Preempted { refused: Box::new(refused), answer });
        });
    }

    /// Makes room the way the extenders agreed to.
    pub(super) fn preempted(&mut self, refused: Refused, answer: anyhow::Result<Vec<Proposal>>) {
        let Some(writer) = self.writer.clone() else { return };
        let Refused { mut q, by, mut message, begun } = refused;
        // Gone, or bound by somebody else.
        let Some(pod) = self.asking.remove(&q.pod.uid) else { return };
        q.pod = pod;
        let text = match answer {
            Ok(proposals) => {
                // Who left meanwhile need not be evicted.
                let here = |p: Proposal| {
                    let pods = &self.cache.node(&p.node)?.pods;
                    let of = |uid: &Str| pods.iter().find(|x| x.uid == *uid).cloned();
                    let victims: Vec<Arc<PodInfo>> = p.victims.iter().filter_map(of).collect();
                    let candidate = Candidate { node: p.node, victims, violations: p.violations };
                    (!candidate.victims.is_empty()).then(|| Arc::new(candidate))
                };
                let found: Vec<Arc<Candidate>> = proposals.into_iter().filter_map(here).collect();
                if let Some(c) = preempt::best(&found) {
                    let node = self.evict(&q.pod, c, &writer);
                    return self.refuse(q, by, message, Some(node), begun, &writer);
                }
                "no candidate node for preemption".to_owned()
            }
            Err(e) => format!("{e:#}"),
        };
        warn!(pod = %q.pod.key(), why = text, "extenders left no way to make room");
        message.push_str(" preemption: ");
        message.push_str(&text);
        let nominated = q.pod.want().nominated.as_ref().map(|_| Str::from(""));
        self.refuse(q, by, message, nominated, begun, &writer);
    }
}
