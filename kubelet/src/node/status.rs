//! The node's status: conditions with upstream's reasons, capacity, addresses, images. Written when something
//! changed, and every five minutes.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
    },
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Api,
    api::{Patch, PatchParams},
};

use super::machine::{self, Disk};
use crate::{context::Context, events::NORMAL, pod::spec};

/// Features that a pod may need of its kubelet (KEP-5328), by name, in order.
const FEATURES: [&str; 2] =
    ["InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers"];
/// An unchanged status is written this often.
const REPORT_EVERY: Duration = Duration::from_secs(300);

struct Verdict {
    kind: &'static str,
    status: bool,
    reason: &'static str,
    message: String,
}

/// Asks the runtime for its state; remembers the network's. `Err` is why the node is not ready.
pub async fn runtime_state(ctx: &Context) -> Result<(), String> {
    match ctx.cri.status().await {
        Err(e) => {
            let problem = format!("container runtime is down: {}", e.message());
            ctx.machine.set_network_problem(Some(problem.clone()));
            Err(problem)
        }
        Ok(answer) => {
            let conditions = answer.status.unwrap_or_default().conditions;
            let problem = |kind: &str| {
                conditions.iter().find(|c| c.r#type == kind && !c.status).map(|c| {
                    format!("runtime condition {kind}=false reason:{} message:{}", c.reason, c.message)
                })
            };
            let network = problem("NetworkReady").map(|p| {
                p.replacen(
                    "runtime condition NetworkReady=false",
                    "container runtime network not ready: NetworkReady=false",
                    1,
                )
            });
            ctx.machine.set_network_problem(network.clone());
            match (problem("RuntimeReady"), network) {
                (None, None) => Ok(()),
                (a, b) => Err([a, b].into_iter().flatten().collect::<Vec<_>>().join(", ")),
            }
        }
    }
}

fn pressure(ctx: &Context) -> Vec<Verdict> {
    let memory = machine::meminfo("MemAvailable");
    let memory_low = memory
        < machine::threshold(&machine::eviction_hard(&ctx.config, "memory.available"), ctx.machine.memory);
    let d: Disk = machine::disk(&ctx.root_dir);
    let below = |signal: &str, have: u64, of: u64| {
        of > 0 && (have as i64) < machine::threshold(&machine::eviction_hard(&ctx.config, signal), of as i64)
    };
    let disk_low = below("nodefs.available", d.available, d.capacity)
        || below("nodefs.inodesFree", d.inodes_free, d.inodes);
    let text = |bad: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        if bad { (yes.0, yes.1.to_owned()) } else { (no.0, no.1.to_owned()) }
    };
    let (mr, mm) = text(
        memory_low,
        ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
        ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    );
    let (dr, dm) = text(
        disk_low,
        ("KubeletHasDiskPressure", "kubelet has disk pressure"),
        ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    );
    let pids_low = pids_short(ctx);
    let (pr, pm) = text(
        pids_low,
        ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
        ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    );
    vec![
        Verdict { kind: "MemoryPressure", status: memory_low, reason: mr, message: mm },
        Verdict { kind: "DiskPressure", status: disk_low, reason: dr, message: dm },
        Verdict { kind: "PIDPressure", status: pids_low, reason: pr, message: pm },
    ]
}

fn pids_short(ctx: &Context) -> bool {
    let wanted = machine::eviction_hard(&ctx.config, "pid.available");
    let number = |path: &str| std::fs::read_to_string(path).ok();
    let max: i64 = number("/proc/sys/kernel/pid_max").and_then(|t| t.trim().parse().ok()).unwrap_or(0);
    // "running/total" is the fourth word.
    let used: i64 = number("/proc/loadavg")
        .and_then(|t| t.split_whitespace().nth(3)?.split('/').nth(1)?.parse().ok())
        .unwrap_or(0);
    max - used < machine::threshold(&wanted, max)
}

/// The status at present; `old` gives the times of conditions that did not change.
pub async fn generate(ctx: &Context, old: Option<&NodeStatus>) -> NodeStatus {
    let mut verdicts = pressure(ctx);
    verdicts.push(match runtime_state(ctx).await {
        Ok(()) => Verdict {
            kind: "Ready",
            status: true,
            reason: "KubeletReady",
            message: "kubelet is posting ready status".into(),
        },
        Err(message) => Verdict { kind: "Ready", status: false, reason: "KubeletNotReady", message },
    });
    let now = Timestamp::now();
    let conditions = verdicts
        .into_iter()
        .map(|v| {
            let status = if v.status { "True" } else { "False" };
            let before =
                old.and_then(|s| s.conditions.as_ref()).and_then(|l| l.iter().find(|c| c.type_ == v.kind));
            let since = before
                .filter(|c| c.status == status)
                .and_then(|c| c.last_transition_time.clone())
                .unwrap_or_else(|| spec::time(now));
            if v.kind == "Ready" && before.is_some_and(|c| c.status != status) {
                let reason = if v.status { "NodeReady" } else { "NodeNotReady" };
                ctx.recorder.node(NORMAL, reason, format!("Node {} status is now: {reason}", ctx.node_name));
            }
            NodeCondition {
                type_: v.kind.into(),
                status: status.into(),
                reason: Some(v.reason.into()),
                message: Some(v.message),
                last_heartbeat_time: Some(spec::time(now)),
                last_transition_time: Some(since),
            }
        })
        .collect();
    let mut addresses: Vec<NodeAddress> = ctx
        .node_ips
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.clone() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: ctx.node_name.clone() });
    let runtime = match ctx.cri.version().await {
        Ok(v) => format!("{}://{}", v.runtime_name, v.runtime_version.trim_start_matches('v')),
        Err(_) => old
            .and_then(|s| s.node_info.as_ref())
            .map(|i| i.container_runtime_version.clone())
            .unwrap_or_default(),
    };
    let capacity = ctx.machine.capacity(&ctx.config);
    let mut allocatable = ctx.machine.allocatable_quantities(&ctx.config);
    let written = ctx.node.read().as_ref().and_then(|n| n.status.as_ref()?.capacity.clone());
    allocatable.extend(of_others(written.as_ref(), &capacity));
    NodeStatus {
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        addresses: Some(addresses),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: i32::from(ctx.config.port) }),
        }),
        node_info: Some(machine::system_info(&runtime)),
        images: images(ctx).await,
        volumes_in_use: Some(ctx.csi.in_use()),
        declared_features: Some(FEATURES.iter().map(|f| (*f).to_owned()).collect()),
        ..NodeStatus::default()
    }
}

type Amounts = BTreeMap<String, Quantity>;

/// What others have written into the node's capacity: all of it can be had.
fn of_others(written: Option<&Amounts>, own: &Amounts) -> Amounts {
    let all = written.into_iter().flatten();
    all.filter(|(name, _)| !own.contains_key(*name)).map(|(name, q)| (name.clone(), q.clone())).collect()
}

/// What could be had once and is no longer told: a merge must name it to take it away.
fn gone<'a>(written: Option<&'a Amounts>, now: Option<&Amounts>) -> Vec<&'a str> {
    let names = written.into_iter().flatten().map(|(name, _)| name.as_str());
    names.filter(|name| now.is_none_or(|n| !n.contains_key(*name))).collect()
}

async fn images(ctx: &Context) -> Option<Vec<ContainerImage>> {
    let mut list = ctx.cri.list_images().await.ok()?;
    list.sort_by_key(|i| std::cmp::Reverse(i.size));
    if ctx.config.node_status_max_images >= 0 {
        list.truncate(ctx.config.node_status_max_images as usize);
    }
    let out: Vec<ContainerImage> = list
        .into_iter()
        .map(|i| ContainerImage {
            names: Some(i.repo_digests.into_iter().chain(i.repo_tags).take(5).collect()),
            size_bytes: Some(i.size as i64),
        })
        .collect();
    (!out.is_empty()).then_some(out)
}

/// Equal but for heartbeats.
fn same(a: &NodeStatus, b: &NodeStatus) -> bool {
    let strip = |s: &NodeStatus| {
        let mut s = s.clone();
        for c in s.conditions.iter_mut().flatten() {
            c.last_heartbeat_time = None;
        }
        s
    };
    strip(a) == strip(b)
}

/// Keeps the status up to date for ever. While the node is not ready it looks every second, so that it becomes
/// ready at once when the runtime's network comes up.
pub async fn run(ctx: Arc<Context>) {
    let Some(client) = ctx.client.clone() else { return };
    let api: Api<Node> = Api::all(client);
    let mut last: Option<NodeStatus> = None;
    let mut written = std::time::Instant::now();
    loop {
        let known = ctx.node.read().as_ref().and_then(|n| n.status.clone());
        let status = generate(&ctx, last.as_ref().or(known.as_ref())).await;
        let ready = ctx.machine.network_problem().is_none();
        let changed = last.as_ref().is_none_or(|l| !same(l, &status));
        if changed || written.elapsed() >= REPORT_EVERY {
            match write(&ctx, &api, &status).await {
                Ok(()) => {
                    last = Some(status);
                    written = std::time::Instant::now();
                }
                Err(e) => tracing::warn!(error = %e, "cannot write the node's status"),
            }
        }
        let pause =
            if ready { ctx.config.node_status_update_frequency.0 } else { Duration::from_millis(500) };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            // Pods wait for it.
            () = ctx.csi.in_use_changed.notified() => {}
        }
    }
}

async fn write(ctx: &Context, api: &Api<Node>, status: &NodeStatus) -> anyhow::Result<()> {
    let mut value = serde_json::to_value(status)?;
    // Addresses merge by type in the API: say that the list is whole.
    if let Some(list) = value["addresses"].as_array_mut() {
        list.push(serde_json::json!({"$patch": "replace"}));
    }
    let written = ctx.node.read().as_ref().and_then(|n| n.status.as_ref()?.allocatable.clone());
    for name in gone(written.as_ref(), status.allocatable.as_ref()) {
        value["allocatable"][name] = serde_json::Value::Null;
    }
    api.patch_status(
        &ctx.node_name,
        &PatchParams::default(),
        &Patch::Strategic(serde_json::json!({"status": value})),
    )
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn amounts(of: &[(&str, &str)]) -> Amounts {
        of.iter().map(|(name, q)| ((*name).to_owned(), Quantity((*q).to_owned()))).collect()
    }

    #[test]
    fn what_others_write_into_the_capacity_can_be_had() {
        let own = amounts(&[("cpu", "2")]);
        let written = amounts(&[("cpu", "1"), ("example.com/foo", "3")]);
        assert_eq!(of_others(Some(&written), &own), amounts(&[("example.com/foo", "3")]));
        assert!(of_others(None, &own).is_empty());
        assert_eq!(gone(Some(&written), Some(&own)), ["example.com/foo"]);
        assert!(gone(Some(&own), Some(&written)).is_empty());
    }
}
