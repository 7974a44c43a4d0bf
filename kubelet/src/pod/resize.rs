//! In-place resize (KEP-1287): which containers do not run with what their pod was allocated, and in which order the
//! runtime and the pod's cgroup are brought in line. Pure; [`super::actuate`] carries it out.

use std::collections::HashMap;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use super::{
    allocation::model::PodResources,
    resources::{self, number},
    spec,
};
use crate::{
    cgroup::Limits,
    cri::{ContainerState, PodRuntime},
};

/// The numbers of a container that can change while it runs: CPU in thousandths, memory in bytes; 0 is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub cpu_request: i64,
    pub cpu_limit: i64,
    pub memory_request: i64,
    pub memory_limit: i64,
}

impl Amounts {
    /// Those of a container; the pod's limits count where it has none of its own.
    pub fn of(pod_level: Option<&ResourceRequirements>, r: Option<&ResourceRequirements>) -> Self {
        let request = |name| resources::request(r, name).map_or(0, |q| number(name, q));
        let limit = |name| resources::limit_within(pod_level, r, name).map_or(0, |q| number(name, q));
        Self {
            cpu_request: request("cpu"),
            cpu_limit: limit("cpu"),
            memory_request: request("memory"),
            memory_limit: limit("memory"),
        }
    }

    fn limit_then_request(self, resource: Resource) -> [i64; 2] {
        match resource {
            Resource::Cpu => [self.cpu_limit, self.cpu_request],
            Resource::Memory => [self.memory_limit, self.memory_request],
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Memory,
    Cpu,
}

impl Resource {
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Cpu => "cpu",
        }
    }
}

/// A container to be given other resources while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    pub id: String,
    pub name: String,
    pub from: Amounts,
    pub to: Amounts,
}

impl Update {
    fn changes(&self, resource: Resource) -> bool {
        self.from.limit_then_request(resource) != self.to.limit_then_request(resource)
    }

    fn shrinks(&self, resource: Resource) -> bool {
        let (from, to) = (self.from.limit_then_request(resource), self.to.limit_then_request(resource));
        from.iter().zip(to).find(|(a, b)| **a != *b).is_some_and(|(a, b)| b < *a)
    }

    /// The memory limit gets lower, or there was none.
    fn lowers_memory(&self) -> bool {
        let (from, to) = (self.from.memory_limit, self.to.memory_limit);
        to != 0 && (from == 0 || to < from)
    }
}

/// What is to be done so that the pod runs with what it was allocated.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Containers that must start anew for it: id and name.
    pub restart: Vec<(String, String)>,
    pub update: Vec<Update>,
    /// Pod-level resources are others.
    pub pod: bool,
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        self.restart.is_empty() && self.update.is_empty() && !self.pod
    }
}

fn restarts(c: &Container, resource: Resource) -> bool {
    c.resize_policy
        .iter()
        .flatten()
        .any(|p| p.resource_name == resource.name() && p.restart_policy == "RestartContainer")
}

/// Compares what the pod was allocated (its spec) with what it runs with. Containers that do not run are made with
/// what is allocated, and need no resize.
pub fn plan(pod: &Pod, runtime: &PodRuntime, actuated: &PodResources) -> Plan {
    let s = spec::spec(pod);
    let whole = |r: Option<&ResourceRequirements>| Amounts::of(None, r);
    let mut plan =
        Plan { pod: whole(s.resources.as_ref()) != whole(actuated.pod.as_ref()), ..Plan::default() };
    for c in spec::containers(s) {
        let running = runtime.container(&c.name).filter(|rc| rc.state == ContainerState::Running);
        let (Some(rc), Some(have)) = (running, actuated.containers.get(&c.name)) else { continue };
        let update = Update {
            id: rc.id.clone(),
            name: c.name.clone(),
            from: Amounts::of(actuated.pod.as_ref(), Some(have)),
            to: Amounts::of(s.resources.as_ref(), c.resources.as_ref()),
        };
        if update.from == update.to {
            continue;
        }
        if [Resource::Cpu, Resource::Memory].into_iter().any(|r| update.changes(r) && restarts(c, r)) {
            plan.restart.push((update.id, update.name));
        } else {
            plan.update.push(update);
        }
    }
    plan
}

/// One step of a resize.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The pod's memory limit or CPU quota.
    PodLimit(Resource),
    /// The pod's share of CPU.
    PodShares,
    /// The container of the update of that index.
    Container(usize, Resource),
}

/// The steps in an order in which no container's limit exceeds its pod's at any time: the pod grows before its
/// containers and shrinks after them, and containers that shrink make room for those that grow. A limit that the pod
/// is no longer to have stays as it is: the API lets no limit be removed.
pub fn steps(update: &[Update], have: &Limits, want: &Limits) -> Vec<Step> {
    let mut out = Vec::new();
    for resource in [Resource::Memory, Resource::Cpu] {
        let limit = |l: &Limits| match resource {
            Resource::Memory => l.memory,
            Resource::Cpu => l.cpu_quota.map(|(quota, _)| quota),
        };
        let grows = limit(want) > limit(have) && limit(have).is_some();
        let more_shares = want.cpu_shares > have.cpu_shares;
        if grows {
            out.push(Step::PodLimit(resource));
        }
        if resource == Resource::Cpu && more_shares {
            out.push(Step::PodShares);
        }
        for shrinks in [true, false] {
            let these = update.iter().enumerate().filter(|(_, u)| u.changes(resource));
            out.extend(
                these
                    .filter(|(_, u)| u.shrinks(resource) == shrinks)
                    .map(|(i, _)| Step::Container(i, resource)),
            );
        }
        if resource == Resource::Cpu && !more_shares {
            out.push(Step::PodShares);
        }
        if !grows && limit(want).is_some() {
            out.push(Step::PodLimit(resource));
        }
    }
    out
}

fn lowers_pod_memory(have: &Limits, want: &Limits) -> Option<i64> {
    want.memory.filter(|w| have.memory.is_none_or(|h| *w < h))
}

/// Whether any memory limit gets lower, so that usage must be looked at before.
pub fn lowers_memory(update: &[Update], have: &Limits, want: &Limits) -> bool {
    lowers_pod_memory(have, want).is_some() || update.iter().any(Update::lowers_memory)
}

/// Memory in use at present, in bytes.
#[derive(Clone, Debug, Default)]
pub struct Usage {
    pub pod: Option<u64>,
    pub containers: HashMap<String, u64>,
}

/// Why memory limits cannot be lowered now: as much is in use.
pub fn memory_problem(update: &[Update], have: &Limits, want: &Limits, usage: &Usage) -> Option<String> {
    let over = |used: u64, limit: i64| used >= u64::try_from(limit).unwrap_or(0);
    let mut problems = Vec::new();
    if let Some(limit) = lowers_pod_memory(have, want) {
        match usage.pod {
            None => problems.push("missing pod memory usage".to_owned()),
            Some(used) if over(used, limit) => problems
                .push(format!("attempting to set pod memory limit ({limit}) below current usage ({used})")),
            Some(_) => {}
        }
    }
    for u in update.iter().filter(|u| u.lowers_memory()) {
        let (name, limit) = (&u.name, u.to.memory_limit);
        match usage.containers.get(name) {
            None => problems.push(format!("missing container {name:?} memory usage")),
            Some(used) if over(*used, limit) => problems.push(format!(
                "attempting to set container {name:?} memory limit ({limit}) below current usage ({used})"
            )),
            Some(_) => {}
        }
    }
    match problems.as_slice() {
        [] => None,
        [one] => Some(format!("cannot decrease memory limits: {one}")),
        many => Some(format!("cannot decrease memory limits: [{}]", many.join(", "))),
    }
}

/// The resources of a running container that the API server was told of, for one that is older than our own record.
pub fn reported(pod: &Pod, name: &str, id: &str) -> Option<ResourceRequirements> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = all
        .into_iter()
        .find(|s| s.name == name && s.container_id.as_deref().is_some_and(|c| c.ends_with(id)))?;
    found.resources.clone()
}

#[cfg(test)]
#[path = "resize_tests.rs"]
mod tests;
