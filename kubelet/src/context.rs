//! What every part of the kubelet works with: configuration, clients, and the node's facts. Built once at start.

use std::{path::PathBuf, sync::Arc};

use k8s_openapi::api::core::v1::Node;
use kube::Client;
use parking_lot::RwLock;

use crate::{
    cgroup::Cgroups,
    cri::Cri,
    dra::Dra,
    events::Recorder,
    image::ImagePuller,
    metrics::KubeletMetrics,
    node::{machine::Machine, services::Services},
    objects::Objects,
    options::KubeletConfiguration,
    pod::{allocation::Allocations, fields::NodeFacts, security::NodePolicy},
    status::StatusWriter,
    volume::csi::Csi,
};

/// Shared by reference everywhere.
pub struct Context {
    pub config: KubeletConfiguration,
    pub node_name: String,
    pub node_ips: Vec<String>,
    pub root_dir: PathBuf,
    pub seccomp_root: PathBuf,
    pub cri: Cri,
    /// The runtime's name as container ids show it (`containerd`).
    pub runtime_name: String,
    pub client: Option<Client>,
    pub recorder: Recorder,
    pub objects: Objects,
    pub services: Services,
    pub cgroups: Cgroups,
    pub machine: Machine,
    pub status: StatusWriter,
    pub images: ImagePuller,
    pub metrics: KubeletMetrics,
    pub csi: Csi,
    pub dra: Dra,
    pub allocations: Allocations,
    /// This node as the API server has it, once known.
    pub node: RwLock<Option<Arc<Node>>>,
}

impl Context {
    /// CFS period in microseconds, if quotas are to be enforced.
    pub fn quota_period(&self) -> Option<i64> {
        self.config.cpu_cfs_quota.then_some(self.config.cpu_cfs_quota_period.0.as_micros() as i64)
    }

    pub fn security_policy(&self) -> NodePolicy<'_> {
        NodePolicy {
            seccomp_default: self.config.seccomp_default,
            seccomp_root: &self.seccomp_root,
            apparmor: self.machine.apparmor,
        }
    }

    /// The downward API's facts for a pod with these addresses.
    pub fn facts(&self, pod_ips: Vec<String>) -> NodeFacts {
        let (cpu, memory) = self.machine.allocatable;
        NodeFacts {
            node_name: self.node_name.clone(),
            host_ips: self.node_ips.clone(),
            pod_ips,
            allocatable_cpu: cpu,
            allocatable_memory: memory,
        }
    }
}
