//! `KubeletConfiguration` of `kubelet.config.k8s.io/v1beta1`: upstream's field names and defaults, strict.
//!
//! Fields that upstream knows but that have no effect here are accepted and named in a warning, so that an
//! existing file keeps working and nobody is misled.

use std::{collections::BTreeMap, path::Path};

use component_base::duration::GoDuration;
use k8s_openapi::api::core::v1::Taint;
use serde::{Deserialize, Serialize};

pub const API_VERSION: &str = "kubelet.config.k8s.io/v1beta1";
pub const KIND: &str = "KubeletConfiguration";

/// Fields of the kind that this kubelet accepts without acting on them.
const WITHOUT_EFFECT: &[&str] = &[
    "staticPodURL",
    "staticPodURLHeader",
    "httpCheckFrequency",
    "tlsCipherSuites",
    "tlsCurvePreferences",
    "tlsMinVersion",
    "rotateCertificates",
    "serverTLSBootstrap",
    "registryPullQPS",
    "registryBurst",
    "imagePullCredentialsVerificationPolicy",
    "preloadedImagesVerificationAllowlist",
    "eventRecordQPS",
    "eventBurst",
    "enableDebuggingHandlers",
    "enableContentionProfiling",
    "streamingConnectionIdleTimeout",
    "nodeStatusReportFrequency",
    "volumeStatsAggPeriod",
    "kubeletCgroups",
    "systemCgroups",
    "cpuManagerPolicy",
    "singleProcessOOMKill",
    "cpuManagerPolicyOptions",
    "cpuManagerReconcilePeriod",
    "memoryManagerPolicy",
    "topologyManagerPolicy",
    "topologyManagerScope",
    "topologyManagerPolicyOptions",
    "qosReserved",
    "hairpinMode",
    "runOnce",
    "maxOpenFiles",
    "contentType",
    "kubeAPIQPS",
    "kubeAPIBurst",
    "evictionSoft",
    "evictionSoftGracePeriod",
    "evictionPressureTransitionPeriod",
    "evictionMaxPodGracePeriod",
    "evictionMinimumReclaim",
    "mergeDefaultEvictionSettings",
    "enableControllerAttachDetach",
    "protectKernelDefaults",
    "makeIPTablesUtilChains",
    "iptablesMasqueradeBit",
    "iptablesDropBit",
    "featureGates",
    "memorySwap",
    "containerLogMaxWorkers",
    "configMapAndSecretChangeDetectionStrategy",
    "reservedSystemCPUs",
    "showHiddenMetricsForVersion",
    "systemReservedCgroup",
    "kubeReservedCgroup",
    "volumePluginDir",
    "kernelMemcgNotification",
    "logging",
    "enableSystemLogQuery",
    "shutdownGracePeriod",
    "shutdownGracePeriodCriticalPods",
    "shutdownGracePeriodByPodPriority",
    "reservedMemory",
    "enableDebugFlagsHandler",
    "memoryThrottlingFactor",
    "memoryReservationPolicy",
    "tracing",
    "localStorageCapacityIsolation",
    "userNamespaces",
    "imageMaximumGCAge",
];

/// The fields that act.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct KubeletConfiguration {
    pub enable_server: bool,
    /// Serve `/debug/pprof/`.
    pub enable_profiling_handler: bool,
    pub enable_system_log_handler: bool,
    pub static_pod_path: String,
    pub pod_logs_dir: String,
    pub sync_frequency: GoDuration,
    pub file_check_frequency: GoDuration,
    pub address: String,
    pub port: u16,
    pub read_only_port: u16,
    pub tls_cert_file: String,
    pub tls_private_key_file: String,
    pub authentication: Authentication,
    pub authorization: Authorization,
    pub healthz_port: u16,
    pub healthz_bind_address: String,
    pub oom_score_adj: i32,
    pub cluster_domain: String,
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Vec<String>,
    pub node_status_update_frequency: GoDuration,
    pub node_lease_duration_seconds: i32,
    #[serde(rename = "imageMinimumGCAge")]
    pub image_minimum_gc_age: GoDuration,
    #[serde(rename = "imageGCHighThresholdPercent")]
    pub image_gc_high_threshold_percent: u8,
    #[serde(rename = "imageGCLowThresholdPercent")]
    pub image_gc_low_threshold_percent: u8,
    pub cgroup_root: String,
    #[serde(rename = "cgroupsPerQOS")]
    pub cgroups_per_qos: bool,
    pub cgroup_driver: String,
    pub runtime_request_timeout: GoDuration,
    pub max_pods: i64,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: String,
    pub pod_pids_limit: i64,
    pub resolv_conf: String,
    #[serde(rename = "cpuCFSQuota")]
    pub cpu_cfs_quota: bool,
    #[serde(rename = "cpuCFSQuotaPeriod")]
    pub cpu_cfs_quota_period: GoDuration,
    pub node_status_max_images: i32,
    pub serialize_image_pulls: bool,
    pub max_parallel_image_pulls: Option<u32>,
    pub eviction_hard: Option<BTreeMap<String, String>>,
    pub pods_per_core: i64,
    pub fail_swap_on: bool,
    pub container_log_max_size: String,
    pub container_log_max_files: u32,
    pub container_log_monitor_interval: GoDuration,
    pub system_reserved: BTreeMap<String, String>,
    pub kube_reserved: BTreeMap<String, String>,
    pub enforce_node_allocatable: Vec<String>,
    pub allowed_unsafe_sysctls: Vec<String>,
    #[serde(rename = "providerID")]
    pub provider_id: String,
    pub crash_loop_back_off: CrashLoopBackOff,
    pub seccomp_default: bool,
    pub register_with_taints: Vec<Taint>,
    pub register_node: bool,
    pub container_runtime_endpoint: String,
    pub image_service_endpoint: String,
    #[serde(rename = "failCgroupV1")]
    pub fail_cgroup_v1: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CrashLoopBackOff {
    pub max_container_restart_period: Option<GoDuration>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Authentication {
    pub x509: X509,
    pub webhook: WebhookAuthentication,
    pub anonymous: Anonymous,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct X509 {
    #[serde(rename = "clientCAFile")]
    pub client_ca_file: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookAuthentication {
    pub enabled: bool,
    #[serde(rename = "cacheTTL")]
    pub cache_ttl: GoDuration,
}

impl Default for WebhookAuthentication {
    fn default() -> Self {
        Self { enabled: true, cache_ttl: GoDuration::from_secs(120) }
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Anonymous {
    pub enabled: bool,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Authorization {
    pub mode: String,
    pub webhook: WebhookAuthorization,
}

impl Default for Authorization {
    fn default() -> Self {
        Self { mode: "Webhook".into(), webhook: WebhookAuthorization::default() }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookAuthorization {
    #[serde(rename = "cacheAuthorizedTTL")]
    pub cache_authorized_ttl: GoDuration,
    #[serde(rename = "cacheUnauthorizedTTL")]
    pub cache_unauthorized_ttl: GoDuration,
}

impl Default for WebhookAuthorization {
    fn default() -> Self {
        Self {
            cache_authorized_ttl: GoDuration::from_secs(300),
            cache_unauthorized_ttl: GoDuration::from_secs(30),
        }
    }
}

impl Default for KubeletConfiguration {
    fn default() -> Self {
        Self {
            enable_server: true,
            enable_profiling_handler: true,
            enable_system_log_handler: true,
            static_pod_path: String::new(),
            pod_logs_dir: "/var/log/pods".into(),
            sync_frequency: GoDuration::from_secs(60),
            file_check_frequency: GoDuration::from_secs(20),
            address: "0.0.0.0".into(),
            port: 10250,
            read_only_port: 0,
            tls_cert_file: String::new(),
            tls_private_key_file: String::new(),
            authentication: Authentication::default(),
            authorization: Authorization::default(),
            healthz_port: 10248,
            healthz_bind_address: "127.0.0.1".into(),
            oom_score_adj: -999,
            cluster_domain: String::new(),
            cluster_dns: Vec::new(),
            node_status_update_frequency: GoDuration::from_secs(10),
            node_lease_duration_seconds: 40,
            image_minimum_gc_age: GoDuration::from_secs(120),
            image_gc_high_threshold_percent: 85,
            image_gc_low_threshold_percent: 80,
            cgroup_root: String::new(),
            cgroups_per_qos: true,
            cgroup_driver: "cgroupfs".into(),
            runtime_request_timeout: GoDuration::from_secs(120),
            max_pods: 110,
            pod_cidr: String::new(),
            pod_pids_limit: -1,
            resolv_conf: "/etc/resolv.conf".into(),
            cpu_cfs_quota: true,
            cpu_cfs_quota_period: GoDuration(std::time::Duration::from_millis(100)),
            node_status_max_images: 50,
            serialize_image_pulls: true,
            max_parallel_image_pulls: None,
            eviction_hard: None,
            pods_per_core: 0,
            fail_swap_on: true,
            container_log_max_size: "10Mi".into(),
            container_log_max_files: 5,
            container_log_monitor_interval: GoDuration::from_secs(10),
            system_reserved: BTreeMap::new(),
            kube_reserved: BTreeMap::new(),
            enforce_node_allocatable: vec!["pods".into()],
            allowed_unsafe_sysctls: Vec::new(),
            provider_id: String::new(),
            crash_loop_back_off: CrashLoopBackOff::default(),
            seccomp_default: false,
            register_with_taints: Vec::new(),
            register_node: true,
            container_runtime_endpoint: "unix:///run/containerd/containerd.sock".into(),
            image_service_endpoint: String::new(),
            fail_cgroup_v1: true,
        }
    }
}

impl KubeletConfiguration {
    /// Reads a configuration file; unknown fields are errors.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let value: serde_json::Map<String, serde_json::Value> =
            component_base::config::load(path, &[API_VERSION], KIND)?;
        Self::from_fields(value).map_err(|e| anyhow::anyhow!("configuration file {}: {e}", path.display()))
    }

    fn from_fields(mut fields: serde_json::Map<String, serde_json::Value>) -> anyhow::Result<Self> {
        // Zero values mean "not given", as in Go.
        fields.retain(|_, v| !v.is_null() && *v != "" && *v != "0s");
        let ignored: Vec<&str> =
            WITHOUT_EFFECT.iter().copied().filter(|name| fields.remove(*name).is_some()).collect();
        if !ignored.is_empty() {
            tracing::warn!(fields = ignored.join(","), "configuration fields have no effect");
        }
        for (name, zero) in [("port", 10250), ("maxPods", 110)] {
            if fields.get(name).is_some_and(|v| v == 0) {
                fields.insert(name.into(), zero.into());
            }
        }
        Ok(serde_json::from_value(serde_json::Value::Object(fields))?)
    }

    /// Refuses values that cannot work, naming all of them.
    pub fn validate(&self) -> anyhow::Result<()> {
        let mut errors = Vec::new();
        if self.cgroup_driver != "cgroupfs" {
            errors.push(format!(
                "cgroupDriver {:?} is not supported: use cgroupfs here and in the runtime (SystemdCgroup = false)",
                self.cgroup_driver
            ));
        }
        if !matches!(self.authorization.mode.as_str(), "Webhook" | "AlwaysAllow") {
            errors.push(format!(
                "authorization.mode must be Webhook or AlwaysAllow, not {:?}",
                self.authorization.mode
            ));
        }
        for (name, list) in [("kubeReserved", &self.kube_reserved), ("systemReserved", &self.system_reserved)]
        {
            for (resource, amount) in list {
                if crate::util::quantity::parse_milli(amount).is_err() {
                    errors.push(format!("{name}.{resource}: invalid quantity {amount:?}"));
                }
            }
        }
        if crate::util::quantity::parse_milli(&self.container_log_max_size).is_err() {
            errors.push(format!("containerLogMaxSize: invalid quantity {:?}", self.container_log_max_size));
        }
        if self.container_log_max_files < 2 {
            errors.push("containerLogMaxFiles must be at least 2".into());
        }
        if self.image_gc_low_threshold_percent >= self.image_gc_high_threshold_percent {
            errors.push("imageGCLowThresholdPercent must be below imageGCHighThresholdPercent".into());
        }
        for ip in &self.cluster_dns {
            if ip.parse::<std::net::IpAddr>().is_err() {
                errors.push(format!("clusterDNS: {ip:?} is not an IP address"));
            }
        }
        if errors.is_empty() { Ok(()) } else { anyhow::bail!("invalid configuration: {}", errors.join("; ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<KubeletConfiguration> {
        KubeletConfiguration::from_fields(serde_yaml::from_str(text).unwrap())
    }

    #[test]
    fn defaults_and_overrides() {
        let c = parse("clusterDNS: [10.96.0.10]\nsyncFrequency: 0s\nmaxPods: 0\nfeatureGates: {A: true}")
            .unwrap();
        assert_eq!(c.cluster_dns, ["10.96.0.10"]);
        assert_eq!(c.sync_frequency, GoDuration::from_secs(60));
        assert_eq!(c.max_pods, 110);
        assert!(c.fail_cgroup_v1);
        c.validate().unwrap();
    }

    #[test]
    fn unknown_fields_are_errors() {
        for bad in ["clusterDns: []", "nonsense: 1", "authentication: {x509: {clientCaFile: a}}"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        assert!(parse("cgroupDriver: systemd").unwrap().validate().is_err());
        assert!(parse("kubeReserved: {cpu: lots}").unwrap().validate().is_err());
    }
}
