//! Usage figures from the runtime: `/stats/summary`, `/metrics/resource` and the core of `/metrics/cadvisor`.

use std::{collections::HashMap, fmt::Write};

use k8s_cri::v1::{ContainerStats, CpuUsage, MemoryUsage, PodSandboxStats, UInt64Value};
use serde_json::{Value, json};

use super::Server;
use crate::{
    cri::{CriError, labels},
    node::machine::{disk, meminfo},
    pod::spec,
    util::{from_nanos, rfc3339},
};

fn number(v: &Option<UInt64Value>) -> Option<u64> {
    v.as_ref().map(|v| v.value)
}

fn when(nanos: i64) -> String {
    rfc3339(from_nanos(nanos).unwrap_or_else(jiff::Timestamp::now))
}

fn put(map: &mut Value, key: &str, value: Option<u64>) {
    if let Some(v) = value {
        map[key] = v.into();
    }
}

fn cpu(c: &Option<CpuUsage>) -> Value {
    let Some(c) = c else { return Value::Null };
    let mut v = json!({"time": when(c.timestamp)});
    put(&mut v, "usageNanoCores", number(&c.usage_nano_cores));
    put(&mut v, "usageCoreNanoSeconds", number(&c.usage_core_nano_seconds));
    v
}

fn memory(m: &Option<MemoryUsage>) -> Value {
    let Some(m) = m else { return Value::Null };
    let mut v = json!({"time": when(m.timestamp)});
    put(&mut v, "availableBytes", number(&m.available_bytes));
    put(&mut v, "usageBytes", number(&m.usage_bytes));
    put(&mut v, "workingSetBytes", number(&m.working_set_bytes));
    put(&mut v, "rssBytes", number(&m.rss_bytes));
    put(&mut v, "pageFaults", number(&m.page_faults));
    put(&mut v, "majorPageFaults", number(&m.major_page_faults));
    v
}

fn filesystem(path: &std::path::Path, used: Option<(u64, u64)>) -> Value {
    let d = disk(path);
    let mut v = json!({
        "time": rfc3339(jiff::Timestamp::now()),
        "availableBytes": d.available, "capacityBytes": d.capacity,
        "inodesFree": d.inodes_free, "inodes": d.inodes,
    });
    let (bytes, inodes) = used.unwrap_or((d.capacity - d.available, d.inodes - d.inodes_free));
    v["usedBytes"] = bytes.into();
    v["inodesUsed"] = inodes.into();
    v
}

fn container_name(c: &ContainerStats) -> Option<&str> {
    let a = c.attributes.as_ref()?;
    a.labels
        .get(labels::CONTAINER_NAME)
        .map(String::as_str)
        .or_else(|| a.metadata.as_ref().map(|m| m.name.as_str()))
}

fn container(server: &Server, c: &ContainerStats) -> Option<Value> {
    let layer = c.writable_layer.as_ref();
    let used = layer.map(|l| (number(&l.used_bytes).unwrap_or(0), number(&l.inodes_used).unwrap_or(0)));
    Some(json!({
        "name": container_name(c)?,
        "cpu": cpu(&c.cpu),
        "memory": memory(&c.memory),
        "rootfs": filesystem(&server.ctx.root_dir, used),
    }))
}

struct NodeUsage {
    cpu_nanos: u64,
    memory_total: u64,
    working_set: u64,
    available: u64,
}

fn node_usage() -> NodeUsage {
    let total = meminfo("MemTotal").max(0) as u64;
    let available = meminfo("MemAvailable").max(0) as u64;
    // The first line of /proc/stat: time per kind in ticks of 10 ms; the fourth and fifth are idle and waiting.
    let stat = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|x| x.parse().ok())
        .collect();
    let busy: u64 = ticks.iter().enumerate().filter(|(i, _)| *i != 3 && *i != 4).map(|(_, t)| t).sum();
    NodeUsage {
        cpu_nanos: busy * 10_000_000,
        memory_total: total,
        working_set: total - available.min(total),
        available,
    }
}

/// Pods' statistics, with their containers', whichever way the runtime gives them. Each running pod is asked for
/// by itself: runtimes fail a list as a whole when one sandbox in it has just ended.
async fn pods(server: &Server) -> Result<Vec<PodSandboxStats>, CriError> {
    let sandboxes: Vec<String> = server.pods.all().iter().filter_map(|p| p.sandbox_id()).collect();
    let mut list = Vec::with_capacity(sandboxes.len());
    for id in sandboxes {
        match server.ctx.cri.pod_stats(&id).await {
            Ok(stats) => list.push(stats),
            Err(e) if e.unimplemented() => return from_containers(server).await,
            Err(e) => tracing::debug!(sandbox = id, error = %e, "no statistics of a pod"),
        }
    }
    Ok(list)
}

/// For runtimes that know containers' statistics only.
async fn from_containers(server: &Server) -> Result<Vec<PodSandboxStats>, CriError> {
    let mut by_uid: HashMap<String, Vec<ContainerStats>> = HashMap::new();
    for c in server.ctx.cri.list_container_stats().await? {
        let uid = c.attributes.as_ref().and_then(|a| a.labels.get(labels::POD_UID)).cloned();
        by_uid.entry(uid.unwrap_or_default()).or_default().push(c);
    }
    Ok(by_uid
        .into_iter()
        .map(|(uid, containers)| PodSandboxStats {
            attributes: Some(k8s_cri::v1::PodSandboxAttributes {
                labels: HashMap::from([(labels::POD_UID.to_owned(), uid)]),
                ..Default::default()
            }),
            linux: Some(k8s_cri::v1::LinuxPodSandboxStats { containers, ..Default::default() }),
            windows: None,
        })
        .collect())
}

fn uid_of(p: &PodSandboxStats) -> &str {
    p.attributes.as_ref().and_then(|a| a.labels.get(labels::POD_UID)).map(String::as_str).unwrap_or_default()
}

/// `stats.v1alpha1.Summary`.
pub async fn summary(server: &Server) -> Result<Value, CriError> {
    let now = rfc3339(jiff::Timestamp::now());
    let u = node_usage();
    let root = filesystem(&server.ctx.root_dir, None);
    let node = json!({
        "nodeName": server.ctx.node_name,
        "cpu": {"time": now, "usageCoreNanoSeconds": u.cpu_nanos},
        "memory": {"time": now, "availableBytes": u.available, "usageBytes": u.working_set, "workingSetBytes": u.working_set},
        "fs": root,
        "runtime": {"imageFs": root, "containerFs": root},
    });
    let mut items = Vec::new();
    for p in pods(server).await? {
        let Some(shared) = server.pods.by_uid(uid_of(&p)) else { continue };
        let Some(linux) = &p.linux else { continue };
        let pod = shared.pod();
        let mut item = json!({
            "podRef": {"name": spec::name(&pod), "namespace": spec::namespace(&pod), "uid": shared.uid},
            "startTime": shared.status.read().as_ref().and_then(|s| s.start_time.clone()),
            "containers": linux.containers.iter().filter_map(|c| container(server, c)).collect::<Vec<_>>(),
            "cpu": cpu(&linux.cpu),
            "memory": memory(&linux.memory),
        });
        if let Some(network) = &linux.network
            && let Some(i) = &network.default_interface
        {
            item["network"] = json!({
                "time": when(network.timestamp), "name": i.name,
                "rxBytes": number(&i.rx_bytes), "rxErrors": number(&i.rx_errors),
                "txBytes": number(&i.tx_bytes), "txErrors": number(&i.tx_errors),
            });
        }
        if let Some(count) = linux.process.as_ref().and_then(|p| number(&p.process_count)) {
            item["process_stats"] = json!({"process_count": count});
        }
        items.push(item);
    }
    Ok(json!({"node": node, "pods": items}))
}

/// One sample of a container, for the text formats.
struct Sample {
    namespace: String,
    pod: String,
    container: String,
    id: String,
    cpu: Option<(u64, i64)>,
    memory: Option<(u64, i64)>,
    rss: Option<u64>,
}

async fn samples(server: &Server) -> Result<Vec<Sample>, CriError> {
    let mut out = Vec::new();
    for p in pods(server).await? {
        let Some(shared) = server.pods.by_uid(uid_of(&p)) else { continue };
        let pod = shared.pod();
        for c in p.linux.iter().flat_map(|l| &l.containers) {
            let Some(name) = container_name(c) else { continue };
            out.push(Sample {
                namespace: spec::namespace(&pod).into(),
                pod: spec::name(&pod).into(),
                container: name.into(),
                id: c.attributes.as_ref().map(|a| a.id.clone()).unwrap_or_default(),
                cpu: c.cpu.as_ref().and_then(|x| Some((number(&x.usage_core_nano_seconds)?, x.timestamp))),
                memory: c.memory.as_ref().and_then(|x| Some((number(&x.working_set_bytes)?, x.timestamp))),
                rss: c.memory.as_ref().and_then(|x| number(&x.rss_bytes)),
            });
        }
    }
    Ok(out)
}

fn header(out: &mut String, name: &str, kind: &str, help: &str) {
    // Writing into a String cannot fail.
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
}

/// `/metrics/resource`, as the metrics server reads it.
pub async fn resource_metrics(server: &Server) -> Result<String, CriError> {
    let list = samples(server).await?;
    let mut out = String::new();
    let u = node_usage();
    let now = jiff::Timestamp::now().as_millisecond();
    let labels =
        |s: &Sample| format!("container=\"{}\",namespace=\"{}\",pod=\"{}\"", s.container, s.namespace, s.pod);
    header(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the container in core-seconds",
    );
    for s in &list {
        if let Some((v, t)) = s.cpu {
            let _ = writeln!(
                out,
                "container_cpu_usage_seconds_total{{{}}} {} {}",
                labels(s),
                v as f64 / 1e9,
                t / 1_000_000
            );
        }
    }
    header(
        &mut out,
        "container_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the container in bytes",
    );
    for s in &list {
        if let Some((v, t)) = s.memory {
            let _ =
                writeln!(out, "container_memory_working_set_bytes{{{}}} {v} {}", labels(s), t / 1_000_000);
        }
    }
    header(
        &mut out,
        "node_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the node in core-seconds",
    );
    let _ = writeln!(out, "node_cpu_usage_seconds_total {} {now}", u.cpu_nanos as f64 / 1e9);
    header(
        &mut out,
        "node_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the node in bytes",
    );
    let _ = writeln!(out, "node_memory_working_set_bytes {} {now}", u.working_set);
    let mut per_pod: HashMap<(&str, &str), (f64, u64)> = HashMap::new();
    for s in &list {
        let entry = per_pod.entry((&s.namespace, &s.pod)).or_default();
        entry.0 += s.cpu.map_or(0.0, |(v, _)| v as f64 / 1e9);
        entry.1 += s.memory.map_or(0, |(v, _)| v);
    }
    header(
        &mut out,
        "pod_cpu_usage_seconds_total",
        "counter",
        "[STABLE] Cumulative cpu time consumed by the pod in core-seconds",
    );
    for ((ns, pod), (cpu, _)) in &per_pod {
        let _ = writeln!(out, "pod_cpu_usage_seconds_total{{namespace=\"{ns}\",pod=\"{pod}\"}} {cpu} {now}");
    }
    header(
        &mut out,
        "pod_memory_working_set_bytes",
        "gauge",
        "[STABLE] Current working set of the pod in bytes",
    );
    for ((ns, pod), (_, memory)) in &per_pod {
        let _ =
            writeln!(out, "pod_memory_working_set_bytes{{namespace=\"{ns}\",pod=\"{pod}\"}} {memory} {now}");
    }
    header(
        &mut out,
        "resource_scrape_error",
        "gauge",
        "[STABLE] 1 if there was an error while getting container metrics, 0 otherwise",
    );
    out.push_str("resource_scrape_error 0\n");
    Ok(out)
}

/// The most used series of `/metrics/cadvisor`.
pub async fn cadvisor_metrics(server: &Server) -> Result<String, CriError> {
    let list = samples(server).await?;
    let mut out = String::new();
    let labels = |s: &Sample| {
        format!(
            "container=\"{}\",id=\"{}\",name=\"{}\",namespace=\"{}\",pod=\"{}\"",
            s.container, s.id, s.id, s.namespace, s.pod
        )
    };
    header(
        &mut out,
        "container_cpu_usage_seconds_total",
        "counter",
        "Cumulative cpu time consumed in seconds.",
    );
    for s in &list {
        if let Some((v, t)) = s.cpu {
            let _ = writeln!(
                out,
                "container_cpu_usage_seconds_total{{cpu=\"total\",{}}} {} {}",
                labels(s),
                v as f64 / 1e9,
                t / 1_000_000
            );
        }
    }
    header(&mut out, "container_memory_working_set_bytes", "gauge", "Current working set in bytes.");
    for s in &list {
        if let Some((v, t)) = s.memory {
            let _ =
                writeln!(out, "container_memory_working_set_bytes{{{}}} {v} {}", labels(s), t / 1_000_000);
        }
    }
    header(&mut out, "container_memory_rss", "gauge", "Size of RSS in bytes.");
    for s in &list {
        if let Some(v) = s.rss {
            let _ = writeln!(out, "container_memory_rss{{{}}} {v}", labels(s));
        }
    }
    let u = node_usage();
    header(&mut out, "machine_memory_bytes", "gauge", "Amount of memory installed on the machine.");
    let _ = writeln!(out, "machine_memory_bytes{{node=\"{}\"}} {}", server.ctx.node_name, u.memory_total);
    header(&mut out, "machine_cpu_cores", "gauge", "Number of logical CPU cores.");
    let _ =
        writeln!(out, "machine_cpu_cores{{node=\"{}\"}} {}", server.ctx.node_name, server.ctx.machine.cpus);
    Ok(out)
}
