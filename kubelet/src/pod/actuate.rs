//! Carries a resize out: the runtime's containers and the pod's cgroup are given what the pod was allocated, step by
//! step, and each step that came through is noted, so that a retry goes on from there.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;

use super::{
    allocation::model::{PodResources, copy},
    resize::{self, Resource, Step, Update, Usage},
    resources, spec,
};
use crate::{
    cgroup::{self, Limits},
    context::Context,
};

/// Gives the pod what it was allocated (its spec). `sandbox` is the CRI id of the sandbox in use.
///
/// # Errors
/// A memory limit would be below what is in use, or the runtime or the kernel refuses a step.
pub async fn run(ctx: &Context, pod: &Arc<Pod>, sandbox: &str, update: &[Update]) -> Result<(), String> {
    let uid = spec::uid(pod);
    let actuated = ctx.allocations.actuated(uid).unwrap_or_default();
    let limits = |p: &Pod| cgroup::pod_limits(p, ctx.quota_period(), ctx.config.pod_pids_limit);
    let (have, want) = (limits(&actuated.fill(pod)), limits(pod));
    if resize::lowers_memory(update, &have, &want) {
        let usage = usage(ctx, sandbox)
            .await
            .map_err(|e| format!("unable to read memory usage for pod {:?}: {e}", spec::full_name(pod)))?;
        if let Some(problem) = resize::memory_problem(update, &have, &want, &usage) {
            return Err(problem);
        }
    }
    for step in resize::steps(update, &have, &want) {
        match step {
            Step::PodLimit(Resource::Memory) => {
                limit(ctx, pod, Limits { memory: want.memory, ..Limits::default() })?
            }
            Step::PodLimit(Resource::Cpu) => {
                limit(ctx, pod, Limits { cpu_quota: want.cpu_quota, ..Limits::default() })?;
            }
            Step::PodShares => limit(ctx, pod, Limits { cpu_shares: want.cpu_shares, ..Limits::default() })?,
            Step::Container(index, resource) => container(ctx, pod, &update[index], resource).await?,
        }
    }
    ctx.allocations.actuate(uid, |known| {
        let wanted = PodResources::of(pod);
        for u in update {
            if let Some(r) = wanted.containers.get(&u.name) {
                known.containers.insert(u.name.clone(), r.clone());
            }
        }
        known.pod = wanted.pod;
    });
    Ok(())
}

fn limit(ctx: &Context, pod: &Pod, limits: Limits) -> Result<(), String> {
    ctx.cgroups.limit_pod(pod, &limits).map_err(|e| format!("resizing the pod's cgroup: {e}"))
}

async fn container(ctx: &Context, pod: &Pod, u: &Update, resource: Resource) -> Result<(), String> {
    let Some((_, c)) = spec::find_container(pod, &u.name) else { return Ok(()) };
    let mut linux = resources::linux_resources(pod, &c, ctx.machine.memory, ctx.quota_period());
    if resource == Resource::Memory {
        // CPU has its turn later, and keeps what it has until then.
        let request = if u.from.cpu_request == 0 { u.from.cpu_limit } else { u.from.cpu_request };
        linux.cpu_shares = resources::cpu_shares(request);
        if linux.cpu_period > 0 {
            linux.cpu_quota = resources::cpu_quota(u.from.cpu_limit, linux.cpu_period);
        }
    }
    let begun = std::time::Instant::now();
    let result = ctx.cri.update_container_resources(&u.id, linux).await;
    ctx.metrics.runtime_operation("update_container", begun.elapsed(), result.is_err());
    result.map_err(|e| format!("updating the resources of container {:?}: {}", u.name, e.message()))?;
    let wanted = c.resources.clone().unwrap_or_default();
    ctx.allocations.actuate(spec::uid(pod), |known| {
        copy(resource.name(), &wanted, known.containers.entry(u.name.clone()).or_default());
    });
    Ok(())
}

async fn usage(ctx: &Context, sandbox: &str) -> Result<Usage, String> {
    let stats = ctx.cri.pod_stats(sandbox).await.map_err(|e| e.message().to_owned())?;
    let Some(linux) = stats.linux else { return Ok(Usage::default()) };
    let used = |m: Option<k8s_cri::v1::MemoryUsage>| m.and_then(|m| m.usage_bytes).map(|v| v.value);
    Ok(Usage {
        pod: used(linux.memory),
        containers: linux
            .containers
            .into_iter()
            .filter_map(|c| Some((c.attributes?.metadata?.name, used(c.memory)?)))
            .collect(),
    })
}
