//! The CRI configuration of a pod's sandbox. Pure.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use k8s_cri::v1::{
    DnsConfig, LinuxPodSandboxConfig, PodSandboxConfig, PodSandboxMetadata, PortMapping, Protocol,
};
use k8s_openapi::api::core::v1::Pod;

use super::{resources, security, spec};
use crate::cri::labels;

/// Folder of a pod's container logs.
pub fn log_directory(logs: &Path, pod: &Pod) -> std::path::PathBuf {
    logs.join(format!("{}_{}_{}", spec::namespace(pod), spec::name(pod), spec::uid(pod)))
}

/// What the node contributes.
pub struct SandboxInputs<'a> {
    pub attempt: u32,
    pub hostname: String,
    pub dns: DnsConfig,
    pub cgroup_parent: String,
    pub logs: &'a Path,
    pub security: &'a security::NodePolicy<'a>,
    pub quota_period: Option<i64>,
}

pub fn config(pod: &Pod, i: SandboxInputs<'_>) -> PodSandboxConfig {
    let s = spec::spec(pod);
    let own = |m: &Option<BTreeMap<String, String>>| -> HashMap<String, String> {
        m.iter().flatten().map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    let mut all_labels = own(&pod.metadata.labels);
    all_labels.insert(labels::POD_NAME.into(), spec::name(pod).into());
    all_labels.insert(labels::POD_NAMESPACE.into(), spec::namespace(pod).into());
    all_labels.insert(labels::POD_UID.into(), spec::uid(pod).into());
    let sysctls = s
        .security_context
        .iter()
        .flat_map(|sc| sc.sysctls.iter().flatten())
        .map(|x| (x.name.replace('/', "."), x.value.clone()))
        .collect();
    let total = |name: &str| resources::pod_request(s, name);
    let limits = |name: &str| resources::pod_limit(s, name).unwrap_or(0);
    let mut linux = k8s_cri::v1::LinuxContainerResources {
        cpu_shares: resources::cpu_shares(total("cpu")),
        memory_limit_in_bytes: limits("memory"),
        ..Default::default()
    };
    if let Some(period) = i.quota_period {
        linux.cpu_period = period;
        linux.cpu_quota = resources::cpu_quota(limits("cpu"), period);
    }
    let overhead =
        s.overhead.as_ref().filter(|o| !o.is_empty()).map(|o| k8s_cri::v1::LinuxContainerResources {
            cpu_shares: o.get("cpu").map_or(0, |q| resources::cpu_shares(crate::util::quantity::milli(q))),
            memory_limit_in_bytes: o.get("memory").map_or(0, crate::util::quantity::value),
            ..Default::default()
        });
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: spec::name(pod).into(),
            namespace: spec::namespace(pod).into(),
            uid: spec::uid(pod).into(),
            attempt: i.attempt,
        }),
        // The host's network comes with the host's name.
        hostname: if spec::host_network(pod) { String::new() } else { i.hostname },
        log_directory: log_directory(i.logs, pod).to_string_lossy().into_owned(),
        dns_config: Some(i.dns),
        port_mappings: ports(pod),
        labels: all_labels,
        annotations: own(&pod.metadata.annotations),
        linux: Some(LinuxPodSandboxConfig {
            cgroup_parent: i.cgroup_parent,
            security_context: Some(security::sandbox(pod, i.security)),
            sysctls,
            overhead,
            resources: Some(linux),
        }),
        windows: None,
    }
}

fn ports(pod: &Pod) -> Vec<PortMapping> {
    if spec::host_network(pod) {
        return Vec::new();
    }
    let s = spec::spec(pod);
    let sidecars = spec::init_containers(s).filter(|(r, _)| *r == spec::Role::Sidecar).map(|(_, c)| c);
    s.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .map(|p| PortMapping {
            protocol: match p.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            } as i32,
            container_port: p.container_port,
            host_port: p.host_port.unwrap_or(0),
            host_ip: p.host_ip.clone().unwrap_or_default(),
        })
        .collect()
}
