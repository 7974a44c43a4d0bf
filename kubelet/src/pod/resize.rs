//! In-place resize: finds containers whose CPU or memory the spec wants otherwise than they run with, and
//! brings the runtime in line. The plan is pure.

use std::collections::{BTreeMap, HashMap};

use k8s_openapi::{
    api::core::v1::{Container, Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};

use super::{
    resources::{self, number},
    spec,
};
use crate::{
    context::Context,
    cri::{ContainerState, PodRuntime},
};

/// The resources that each container instance runs with, by its id.
pub type Applied = HashMap<String, ResourceRequirements>;

/// One container to resize.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    pub id: String,
    pub name: String,
    pub resources: ResourceRequirements,
    /// The container's policy for a changed resource is to start anew.
    pub restart: bool,
}

fn differs(
    old: Option<&BTreeMap<String, Quantity>>,
    new: Option<&BTreeMap<String, Quantity>>,
    name: &str,
) -> bool {
    let get = |m: Option<&BTreeMap<String, Quantity>>| m.and_then(|m| m.get(name)).map(|q| number(name, q));
    get(old) != get(new)
}

fn changed(old: &ResourceRequirements, new: &ResourceRequirements) -> Vec<&'static str> {
    ["cpu", "memory"]
        .into_iter()
        .filter(|n| {
            differs(old.requests.as_ref(), new.requests.as_ref(), n)
                || differs(old.limits.as_ref(), new.limits.as_ref(), n)
        })
        .collect()
}

fn restarts(c: &Container, resource: &str) -> bool {
    c.resize_policy
        .iter()
        .flatten()
        .any(|p| p.resource_name == resource && p.restart_policy == "RestartContainer")
}

/// Takes note of containers that are new, and lists those that run with other resources than the spec's.
pub fn plan(pod: &Pod, runtime: &PodRuntime, applied: &mut Applied) -> Vec<Step> {
    applied.retain(|id, _| runtime.containers.iter().any(|c| c.id == *id));
    let mut steps = Vec::new();
    for rc in runtime.containers.iter().filter(|c| c.state == ContainerState::Running) {
        let Some((_, c)) = spec::find_container(pod, &rc.name) else { continue };
        let wanted = c.resources.clone().unwrap_or_default();
        let Some(have) = applied.get(&rc.id) else {
            // After a restart of the kubelet, the API server remembers what was in force.
            let known = reported(pod, &rc.name, &rc.id).unwrap_or_else(|| wanted.clone());
            applied.insert(rc.id.clone(), known);
            continue;
        };
        let what = changed(have, &wanted);
        if !what.is_empty() {
            let restart = what.iter().any(|r| restarts(&c, r));
            steps.push(Step { id: rc.id.clone(), name: rc.name.clone(), resources: wanted, restart });
        }
    }
    steps
}

fn reported(pod: &Pod, name: &str, id: &str) -> Option<ResourceRequirements> {
    let status = pod.status.as_ref()?;
    let all = status.container_statuses.iter().chain(&status.init_container_statuses).flatten();
    let found = all
        .into_iter()
        .find(|s| s.name == name && s.container_id.as_deref().is_some_and(|c| c.ends_with(id)))?;
    found.resources.clone()
}

/// Why the node can never give the pod what it wants now.
pub fn infeasible(pod: &Pod, allocatable: (i64, i64)) -> Option<String> {
    let s = spec::spec(pod);
    [("cpu", allocatable.0), ("memory", allocatable.1)].into_iter().find_map(|(name, have)| {
        let wanted = resources::pod_request(s, name);
        (wanted > have).then(|| {
            format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {have}")
        })
    })
}

/// Carries out the steps that need no restart. Shrinking goes before growing, so that the pod's own limit is
/// never in the way; the pod's cgroup is set before (to grow) and after (to shrink).
pub async fn apply(ctx: &Context, pod: &Pod, steps: &[Step]) -> Result<(), String> {
    let set_pod = || ctx.cgroups.ensure_pod(pod, ctx.quota_period(), ctx.config.pod_pids_limit);
    // Shrinking below the containers' present limits is refused by the kernel here, and done below.
    let _ = set_pod();
    for step in steps.iter().filter(|s| !s.restart) {
        let Some((_, c)) = spec::find_container(pod, &step.name) else { continue };
        let linux = resources::linux_resources(pod, &c, ctx.machine.memory, ctx.quota_period());
        ctx.cri
            .update_container_resources(&step.id, linux)
            .await
            .map_err(|e| format!("resizing container {}: {}", step.name, e.message()))?;
    }
    set_pod().map_err(|e| format!("resizing the pod's cgroup: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cri;

    #[test]
    fn only_differences_make_steps() {
        let pod = |cpu: &str, policy: &str| -> Pod {
            serde_json::from_value(serde_json::json!({"spec": {"containers": [{"name": "a",
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
                "resources": {"limits": {"cpu": cpu}}}]}}))
            .unwrap()
        };
        let rc = cri::Container {
            id: "1".into(),
            name: "a".into(),
            state: ContainerState::Running,
            ..Default::default()
        };
        let runtime = PodRuntime { containers: vec![rc], ..Default::default() };
        let mut applied = Applied::new();
        assert!(plan(&pod("1", "NotRequired"), &runtime, &mut applied).is_empty());
        assert!(plan(&pod("1000m", "NotRequired"), &runtime, &mut applied).is_empty());
        assert!(!plan(&pod("2", "NotRequired"), &runtime, &mut applied)[0].restart);
        assert!(plan(&pod("2", "RestartContainer"), &runtime, &mut applied)[0].restart);
        assert!(plan(&pod("2", ""), &PodRuntime::default(), &mut applied).is_empty());
        assert!(applied.is_empty());
    }
}
