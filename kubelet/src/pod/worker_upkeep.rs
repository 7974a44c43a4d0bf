//! What a worker does beside bringing its pod about: in-place resizes, and removal of dead instances.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, ResourceRequirements};

use super::{Done, Worker};
use crate::{
    cri::{ContainerState, PodRuntime},
    events::{NORMAL, WARNING},
    pod::{
        actuate,
        allocation::{Trigger, messages::message},
        machine::{Action, KillReason, Op},
        ops, resize, spec,
    },
};

/// Pause before a resize that failed is tried again, if nothing about it changes before: upstream's.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Dead instances kept per container, for `logs --previous`.
const DEAD_KEPT: usize = 1;

impl Worker {
    /// Brings containers to what the pod was allocated, and says in the pod's conditions how far that is; returns when
    /// to try again.
    pub(super) fn resize(
        &mut self,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        now: Timestamp,
    ) -> Option<Timestamp> {
        self.learn_actuated(pod, runtime);
        let allocations = &self.ctx.allocations;
        let actuated = allocations.actuated(&self.shared.uid).unwrap_or_default();
        let sandbox = runtime.ready_sandbox()?.id.clone();
        let plan = resize::plan(pod, runtime, &actuated);
        let busy = self.memory.inflight.contains(&Op::Resize);
        let generation = pod.metadata.generation;
        if plan.is_empty() && !busy && !self.cgroup_due {
            // A resize that was granted since this pod was looked at has not ended, whatever its generation.
            let current = || Arc::ptr_eq(&self.shared.pod(), pod);
            let ended = allocations
                .condition(&self.shared.uid, |c, _| current().then(|| c.end(generation)).flatten());
            if let Some(ended) = ended {
                self.ctx.recorder.pod(pod, NORMAL, "ResizeCompleted", message(pod, "completed", ended, ""));
            }
            self.resize_failure = None;
            return None;
        }
        allocations.condition(&self.shared.uid, |c, now| c.progress(generation, now));
        if busy {
            return None;
        }
        if let Some((failed, at)) = &self.resize_failure
            && *at > now
            && *failed == plan
        {
            return Some(*at);
        }
        if !plan.restart.is_empty() {
            // The pod's cgroup grows with their start, and shrinks after.
            self.cgroup_due = true;
            self.restart_resized(pod, &plan);
            return None;
        }
        let (ctx, pod) = (self.ctx.clone(), pod.clone());
        self.spawn(Op::Resize, async move {
            let begun = Instant::now();
            let result = actuate::run(&ctx, &pod, &sandbox, &plan.update).await;
            Done::Resized { plan, took: begun.elapsed(), result }
        });
        None
    }

    /// Containers that are older than our own record run with what was reported of them, or else with what is
    /// allocated.
    fn learn_actuated(&self, pod: &Pod, runtime: &PodRuntime) {
        let known = self.ctx.allocations.actuated(&self.shared.uid);
        let s = spec::spec(pod);
        let unknown: Vec<(String, ResourceRequirements)> = spec::containers(s)
            .filter(|c| known.as_ref().is_none_or(|k| !k.containers.contains_key(&c.name)))
            .filter_map(|c| Some((c, runtime.container(&c.name)?)))
            .filter(|(_, rc)| rc.state == ContainerState::Running)
            .map(|(c, rc)| {
                let reported = resize::reported(pod, &c.name, &rc.id);
                (c.name.clone(), reported.or_else(|| c.resources.clone()).unwrap_or_default())
            })
            .collect();
        if !unknown.is_empty() {
            self.ctx.allocations.actuate(&self.shared.uid, |k| {
                if known.is_none() {
                    k.pod = s.resources.clone();
                }
                k.containers.extend(unknown);
            });
        }
    }

    fn restart_resized(&mut self, pod: &Arc<Pod>, plan: &resize::Plan) {
        for (id, name) in &plan.restart {
            if self.memory.inflight.contains(&Op::Kill(id.clone())) {
                continue;
            }
            let action = Action::Kill {
                id: id.clone(),
                name: name.clone(),
                message: format!("Container {name} resize requires restart"),
                reason: KillReason::SpecChanged,
                grace: spec::grace_period(pod),
                restart: true,
            };
            self.act(pod, action);
        }
    }

    /// A resize has ended.
    pub(super) fn resized(
        &mut self,
        pod: &Pod,
        plan: resize::Plan,
        took: Duration,
        result: Result<(), String>,
        now: Timestamp,
    ) {
        let allocations = &self.ctx.allocations;
        allocations.metrics().actuated(took, result.is_ok());
        match result {
            Ok(()) => {
                self.cgroup_due = false;
                self.resize_failure = None;
                allocations.ring(Trigger::PodResized);
            }
            Err(e) => {
                tracing::warn!(pod = spec::key(pod), error = e, "cannot resize the pod");
                let generation = pod.metadata.generation;
                if let Some(of) =
                    allocations.condition(&self.shared.uid, |c, now| c.fail(&e, generation, now))
                {
                    self.ctx.recorder.pod(pod, WARNING, "ResizeError", message(pod, "error", of, &e));
                }
                self.resize_failure = Some((plan, now + RETRY_AFTER));
            }
        }
        self.shared.wake();
    }

    /// Removes dead instances beyond those kept.
    pub(super) fn collect_dead(&mut self, runtime: &PodRuntime) {
        let mut seen: HashMap<&str, usize> = HashMap::new();
        let mut extra = Vec::new();
        for c in runtime
            .containers
            .iter()
            .filter(|c| c.state == ContainerState::Exited || c.state == ContainerState::Created)
        {
            if c.state == ContainerState::Created && self.memory.inflight.contains(&Op::Start(c.name.clone()))
            {
                continue;
            }
            let count = seen.entry(&c.name).or_default();
            *count += 1;
            if *count > DEAD_KEPT {
                extra.push((c.id.clone(), c.log_path.clone()));
            }
        }
        for (id, log) in extra {
            let op = Op::Remove(id.clone());
            if !self.memory.inflight.contains(&op) {
                let ctx = self.ctx.clone();
                self.spawn(op, async move {
                    ops::remove_container(&ctx, &id, &log).await;
                    Done::Removed
                });
            }
        }
        let idle: Vec<String> = runtime
            .sandboxes
            .iter()
            .skip(1)
            .filter(|s| !s.ready && !runtime.containers.iter().any(|c| c.sandbox_id == s.id))
            .map(|s| s.id.clone())
            .collect();
        for id in idle {
            let op = Op::Remove(id.clone());
            if !self.memory.inflight.contains(&op) {
                let ctx = self.ctx.clone();
                self.spawn(op, async move {
                    if let Err(e) = ctx.cri.remove_sandbox(&id).await {
                        tracing::warn!(sandbox = id, error = %e, "cannot remove an old sandbox");
                    }
                    Done::Removed
                });
            }
        }
    }
}
