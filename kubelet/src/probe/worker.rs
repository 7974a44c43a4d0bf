//! The probe tasks of one pod: started when a container instance runs, ended when it stops.

use std::{collections::HashMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, Probe};
use rand::Rng;
use tokio::task::AbortHandle;

use super::{
    handler::{self, Found, Target},
    policy::{Kind, Threshold},
};
use crate::{
    context::Context,
    cri::{ContainerState, PodRuntime},
    events::WARNING,
    pod::{
        machine::ProbeState,
        shared::PodShared,
        spec::{self, Role},
    },
};

/// Probe tasks by container id and kind.
#[derive(Default)]
pub struct Probers {
    tasks: HashMap<(String, Kind), AbortHandle>,
}

impl Drop for Probers {
    fn drop(&mut self) {
        for task in self.tasks.values() {
            task.abort();
        }
    }
}

struct Task {
    ctx: Arc<Context>,
    shared: Arc<PodShared>,
    pod: Arc<Pod>,
    container: Container,
    id: String,
    ip: String,
    kind: Kind,
    probe: Probe,
    started_at: Timestamp,
}

impl Probers {
    /// Starts and ends tasks so that they fit what runs. `liveness` is off while the pod stops.
    pub fn sync(
        &mut self,
        ctx: &Arc<Context>,
        shared: &Arc<PodShared>,
        pod: &Arc<Pod>,
        runtime: &PodRuntime,
        stopping: bool,
    ) {
        let ip = if spec::host_network(pod) {
            ctx.node_ips.first().cloned()
        } else {
            runtime.ready_sandbox().and_then(|s| s.ips.first().cloned())
        }
        .unwrap_or_default();
        let mut wanted = HashMap::new();
        for rc in runtime.containers.iter().filter(|c| c.state == ContainerState::Running) {
            let Some((role, c)) = spec::find_container(pod, &rc.name) else { continue };
            if !matches!(role, Role::Regular | Role::Sidecar) {
                continue;
            }
            let kinds = [
                (Kind::Startup, &c.startup_probe),
                (Kind::Readiness, &c.readiness_probe),
                (Kind::Liveness, &c.liveness_probe),
            ];
            for (kind, probe) in kinds {
                if let Some(probe) = probe
                    && !(stopping && kind != Kind::Readiness)
                {
                    wanted.insert((rc.id.clone(), kind), (rc, c.clone().into_owned(), probe.clone()));
                }
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        {
            // Results of dead instances are of no more use.
            let mut probes = shared.probes.lock();
            probes.retain(|id, _| runtime.containers.iter().any(|c| c.id == *id));
        }
        for ((id, kind), (rc, container, probe)) in wanted {
            self.tasks.entry((id.clone(), kind)).or_insert_with(|| {
                let task = Task {
                    ctx: ctx.clone(),
                    shared: shared.clone(),
                    pod: pod.clone(),
                    container,
                    id,
                    ip: ip.clone(),
                    kind,
                    probe,
                    started_at: rc.started_at.unwrap_or_else(Timestamp::now),
                };
                tokio::spawn(task.run()).abort_handle()
            });
        }
    }
}

impl Task {
    async fn run(self) {
        let period = Duration::from_secs(self.probe.period_seconds.unwrap_or(10).max(1) as u64);
        let delay = Duration::from_secs(self.probe.initial_delay_seconds.unwrap_or(0).max(0) as u64);
        let age = Timestamp::now().duration_since(self.started_at).unsigned_abs();
        // After a kubelet restart many probes would fire together: spread those of containers that ran before.
        if age > period {
            let spread = rand::rng().random_range(0.0..1.0);
            tokio::time::sleep(period.mul_f64(spread).min(Duration::from_secs(10))).await;
        } else {
            tokio::time::sleep(delay.saturating_sub(age)).await;
        }
        let mut threshold = Threshold::new(self.probe.success_threshold, self.probe.failure_threshold);
        let mut ticker = tokio::time::interval(period);
        ticker.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticker.tick().await;
            if self.kind != Kind::Startup && self.container.startup_probe.is_some() {
                // Held back until the container has started; wake at once when it has.
                while self.state().startup != Some(true) {
                    let started = self.shared.started.notified();
                    // The bell may have rung just before we listened: look again within a second.
                    let _ = tokio::time::timeout(Duration::from_secs(1), started).await;
                }
            }
            let Some(verdict) = threshold.observe(self.attempt().await) else { continue };
            self.publish(verdict);
            // A started container needs no more startup probing; a killed one gets a new id.
            if self.kind == Kind::Startup || (self.kind == Kind::Liveness && !verdict) {
                return;
            }
        }
    }

    fn state(&self) -> ProbeState {
        self.shared.probes.lock().get(&self.id).copied().unwrap_or_default()
    }

    /// Whether the container did well. What is not plainly good is told of.
    async fn attempt(&self) -> bool {
        let target = Target {
            cri: &self.ctx.cri,
            container_id: &self.id,
            container: &self.container,
            pod_ip: &self.ip,
        };
        let word = self.kind.word();
        let (ok, reason, message) = match handler::run(&target, &self.probe).await {
            Ok(Found::Good(_)) => return true,
            Ok(Found::Doubtful(output)) => (true, "ProbeWarning", format!("{word} probe warning: {output}")),
            Ok(Found::Bad(output)) => (false, "Unhealthy", format!("{word} probe failed: {output}")),
            Err(e) => {
                (false, "Unhealthy", format!("{word} probe errored and resulted in unknown state: {e}"))
            }
        };
        self.ctx.recorder.container(&self.pod, &self.container.name, WARNING, reason, message);
        ok
    }

    fn publish(&self, verdict: bool) {
        let changed = {
            let mut probes = self.shared.probes.lock();
            let state = probes.entry(self.id.clone()).or_default();
            let slot = match self.kind {
                Kind::Startup => &mut state.startup,
                Kind::Readiness => &mut state.readiness,
                Kind::Liveness => &mut state.liveness,
            };
            let changed = *slot != Some(verdict);
            *slot = Some(verdict);
            changed
        };
        if changed {
            tracing::debug!(
                pod = spec::key(&self.pod),
                container = self.container.name,
                kind = self.kind.word(),
                ok = verdict,
                "probe verdict"
            );
            if self.kind == Kind::Startup {
                self.shared.started.notify_waiters();
            }
            self.shared.wake();
        }
    }
}
