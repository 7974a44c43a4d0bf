//! What a worker does beside bringing its pod about: in-place resizes, and removal of dead instances.

use std::{collections::HashMap, sync::Arc};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;

use super::{Done, Worker};
use crate::{
    cri::ContainerState,
    events::WARNING,
    pod::{
        machine::{Action, KillReason, Op},
        ops, resize, spec,
    },
};

/// Dead instances kept per container, for `logs --previous`.
const DEAD_KEPT: usize = 1;

impl Worker {
    /// Brings containers to the resources of a changed spec; returns when to try again.
    pub(super) fn resize(
        &mut self,
        pod: &Arc<Pod>,
        runtime: &crate::cri::PodRuntime,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let steps = resize::plan(pod, runtime, &mut self.applied);
        let problem =
            (!steps.is_empty()).then(|| resize::infeasible(pod, self.ctx.machine.allocatable)).flatten();
        if problem != self.resize_problem {
            if let Some(message) = &problem {
                self.ctx.recorder.pod(pod, WARNING, "ResizeInfeasible", message.clone());
            }
            self.resize_problem = problem;
        }
        if self.resize_problem.is_some() {
            return None;
        }
        if steps.is_empty() || self.memory.inflight.contains(&Op::Resize) {
            return None;
        }
        if let Some(at) = self.resize_retry.filter(|at| *at > now) {
            return Some(at);
        }
        for step in steps.iter().filter(|s| s.restart) {
            if !self.memory.inflight.contains(&Op::Kill(step.id.clone())) {
                let name = &step.name;
                let message = format!("Container {name} resize requires restart, will be restarted");
                self.act(
                    pod,
                    Action::Kill {
                        id: step.id.clone(),
                        name: name.clone(),
                        message,
                        reason: KillReason::SpecChanged,
                        grace: spec::grace_period(pod),
                        restart: true,
                    },
                );
            }
        }
        let steps: Vec<resize::Step> = steps.into_iter().filter(|s| !s.restart).collect();
        if steps.is_empty() {
            return None;
        }
        let (ctx, pod) = (self.ctx.clone(), pod.clone());
        self.spawn(Op::Resize, async move {
            let result = resize::apply(&ctx, &pod, &steps).await;
            Done::Resized(steps, result)
        });
        None
    }

    /// Removes dead instances beyond those kept.
    pub(super) fn collect_dead(&mut self, runtime: &crate::cri::PodRuntime) {
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
