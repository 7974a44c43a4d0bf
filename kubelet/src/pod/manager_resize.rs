//! Resizes of all pods: when a spec wants other resources than its pod was allocated, the pod is judged beside all
//! others, and again whenever there may be room.
//!
//! What a pod's worker sees changes in an order that never shows a new generation without what became of it: a
//! deferral is noted before the worker gets the new spec; what was allocated is given to the worker before an earlier
//! deferral is forgotten, and the worker itself sees that its containers do not run with it yet.

use std::{
    sync::{Arc, Weak, atomic::Ordering},
    time::Duration,
};

use k8s_openapi::api::core::v1::Pod;

use super::PodManager;
use crate::{
    context::Context,
    cri::ContainerState,
    events::{NORMAL, WARNING},
    pod::{
        allocation::{
            Trigger,
            conditions::DEFERRED,
            decide::{self, Verdict},
            messages::message,
            model,
        },
        shared::PodShared,
        spec,
    },
};

/// Upstream's pause before pods whose resize is deferred are asked again though nothing is known to have changed:
/// admission also looks at the node's labels.
const ASK_AGAIN: Duration = Duration::from_secs(180);

impl PodManager {
    /// A known pod changed at its source.
    pub(super) fn update(&self, known: &Arc<PodShared>, pod: Arc<Pod>) {
        let a = &self.ctx.allocations;
        let _judging = self.judging.lock();
        let before = known.set_desired(pod.clone());
        let same_spec =
            pod.metadata.generation.is_some() && before.metadata.generation == pod.metadata.generation;
        if same_spec || !model::resized(&before, &pod) {
            known.set_pod(a.fill(&pod));
            return;
        }
        for operation in model::operations(&before, &pod) {
            a.metrics().requested(operation);
        }
        if a.differs(&pod) {
            a.push(&known.uid);
            self.judge_waiting(Trigger::PodUpdated);
        } else {
            self.settle(known, &pod);
        }
    }

    /// Asks all pods again that want other resources than they were allocated.
    pub(super) fn retry_resizes(&self, trigger: Trigger) {
        let _judging = self.judging.lock();
        self.judge_waiting(trigger);
    }

    /// To be called with `judging` held. Before all sources have told their pods nothing is judged: it would be
    /// beside too few others.
    fn judge_waiting(&self, trigger: Trigger) {
        if !self.synced.load(Ordering::SeqCst) {
            return;
        }
        let a = &self.ctx.allocations;
        let mut waiting = Vec::new();
        for uid in a.pending() {
            let Some(p) = self.by_uid(&uid) else {
                a.settle(&uid);
                continue;
            };
            let wanted = p.desired();
            let increases = model::increases(&a.fill(&wanted), &wanted);
            let since = a.conditions(&uid).pending.map(|c| c.since);
            waiting.push((decide::rank(&wanted, increases, since), p, wanted));
        }
        waiting.sort_by(|x, y| x.0.cmp(&y.0));
        let mut granted = false;
        for (_, p, wanted) in waiting {
            match self.judge(&p, &wanted) {
                Verdict::Same => self.settle(&p, &wanted),
                Verdict::Allocate => granted |= self.grant(&p, &wanted, trigger),
                Verdict::Defer(reason, text) => self.defer(&p, &wanted, &reason, &text),
            }
        }
        if granted {
            self.update_shares();
        }
    }

    fn judge(&self, p: &PodShared, wanted: &Pod) -> Verdict {
        let allocated = self.ctx.allocations.allocated(&p.uid);
        self.beside_others(&p.uid, |others, node, capacity| {
            decide::decide(wanted, allocated.as_ref(), others, node, capacity)
        })
    }

    /// The pods that have not ended, but this one, with all they may hold: what they were allocated, and what their
    /// containers still run with. Pods that are gone from their source do not count, though they may still be stopping:
    /// the scheduler has given their room away already.
    pub(super) fn held_by_others(&self, uid: &str) -> Vec<Arc<Pod>> {
        let held = |p: &Arc<PodShared>| {
            let (pod, runtime) = (p.pod(), p.runtime.read().clone());
            let running =
                |name: &str| runtime.container(name).is_some_and(|c| c.state == ContainerState::Running);
            self.ctx.allocations.actuated(&p.uid).map_or_else(|| pod.clone(), |a| a.held(&pod, running))
        };
        self.running().iter().filter(|p| p.uid != uid && !p.is_removed()).map(held).collect()
    }

    /// The pod was allocated what it wants.
    fn settle(&self, p: &PodShared, wanted: &Arc<Pod>) {
        let a = &self.ctx.allocations;
        p.set_pod(a.fill(wanted));
        a.settle(&p.uid);
        a.condition(&p.uid, |c, _| c.pending = None);
        p.wake();
    }

    fn grant(&self, p: &PodShared, wanted: &Arc<Pod>, trigger: Trigger) -> bool {
        let a = &self.ctx.allocations;
        if let Err(e) = a.allocate(wanted) {
            tracing::error!(pod = spec::key(wanted), error = %e, "cannot keep what the pod is allocated");
            // It stays in the queue, and what it was allocated is still true.
            return false;
        }
        let generation = wanted.metadata.generation;
        let waited = a.conditions(&p.uid).pending.is_some_and(|c| c.reason == DEFERRED);
        p.set_pod(a.fill(wanted));
        a.settle(&p.uid);
        a.condition(&p.uid, |c, now| c.begin(generation, now));
        if waited {
            a.metrics().accepted(trigger);
        }
        self.ctx.recorder.pod(wanted, NORMAL, "ResizeStarted", message(wanted, "started", generation, ""));
        p.wake();
        true
    }

    fn defer(&self, p: &PodShared, wanted: &Arc<Pod>, reason: &str, text: &str) {
        let a = &self.ctx.allocations;
        let generation = wanted.metadata.generation;
        if a.condition(&p.uid, |c, now| c.defer(text, generation, now)) {
            let event = message(wanted, reason, generation, text);
            self.ctx.recorder.pod(wanted, WARNING, "ResizeDeferred", event);
        }
        p.set_pod(a.fill(wanted));
        p.wake();
    }
}

/// Asks pods again that wait, whenever there may be room.
pub(super) async fn keep_asking(manager: Weak<PodManager>, ctx: Arc<Context>) {
    loop {
        let trigger = tokio::select! {
            trigger = ctx.allocations.rung() => trigger,
            () = tokio::time::sleep(ASK_AGAIN) => Trigger::Periodic,
        };
        let Some(manager) = manager.upgrade() else { return };
        if !ctx.allocations.pending().is_empty() {
            manager.retry_resizes(trigger);
        }
    }
}
