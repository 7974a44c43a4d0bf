//! Command-line flags under upstream's names. A flag that is given overrides the configuration file.

use std::{collections::BTreeMap, path::PathBuf};

use component_base::{duration::GoDuration, logs::LogFlags};
use k8s_openapi::api::core::v1::Taint;

use super::KubeletConfiguration;

/// The flags of upstream that have no effect (see [`component_base::flags`]).
pub const INERT: &str = include_str!("flags.txt");

/// The kubelet's flags.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "kubelet", about = "Runs the pods that the API server binds to this node", version = component_base::version::GIT_VERSION)]
pub struct Flags {
    #[command(flatten)]
    pub logs: LogFlags,
    /// KubeletConfiguration file
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// kubeconfig that says how to reach the API server; without it the kubelet runs static pods only
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Not supported yet: issue a client certificate before starting the kubelet instead
    #[arg(long, value_name = "FILE")]
    pub bootstrap_kubeconfig: Option<PathBuf>,
    /// Name of the node instead of the host's name
    #[arg(long, default_value = "")]
    pub hostname_override: String,
    /// IP address of the node (or two, of both families)
    #[arg(long, default_value = "")]
    pub node_ip: String,
    /// Directory for volumes and state
    #[arg(long, default_value = "/var/lib/kubelet")]
    pub root_dir: PathBuf,
    /// Directory of the serving certificate; ignored where --tls-cert-file and --tls-private-key-file are given
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    pub cert_dir: PathBuf,
    /// Labels for the registered node: key=value,…
    #[arg(long, default_value = "")]
    pub node_labels: String,
    /// Directory to write the CNI configuration into, once the node's podCIDR is known. Off unless given
    #[arg(long, value_name = "DIR")]
    pub cni_conf_dir: Option<PathBuf>,
    /// Directory for the address leases of the pod network; below --root-dir if empty
    #[arg(long, value_name = "DIR")]
    pub cni_state_dir: Option<PathBuf>,
    /// Cloud providers are not supported; only the empty string and "external" are accepted
    #[arg(long, default_value = "")]
    pub cloud_provider: String,

    #[arg(long)]
    pub container_runtime_endpoint: Option<String>,
    #[arg(long)]
    pub image_service_endpoint: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub register_node: Option<bool>,
    /// Taints to register with: key=value:effect,…
    #[arg(long)]
    pub register_with_taints: Option<String>,
    #[arg(long)]
    pub pod_manifest_path: Option<String>,
    #[arg(long)]
    pub address: Option<String>,
    #[arg(long)]
    pub port: Option<u16>,
    #[arg(long)]
    pub read_only_port: Option<u16>,
    #[arg(long)]
    pub healthz_port: Option<u16>,
    #[arg(long)]
    pub healthz_bind_address: Option<String>,
    #[arg(long)]
    pub tls_cert_file: Option<String>,
    #[arg(long)]
    pub tls_private_key_file: Option<String>,
    #[arg(long)]
    pub client_ca_file: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub anonymous_auth: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub authentication_token_webhook: Option<bool>,
    #[arg(long)]
    pub authorization_mode: Option<String>,
    #[arg(long, value_delimiter = ',')]
    pub cluster_dns: Option<Vec<String>>,
    #[arg(long)]
    pub cluster_domain: Option<String>,
    #[arg(long)]
    pub resolv_conf: Option<String>,
    #[arg(long)]
    pub cgroup_driver: Option<String>,
    #[arg(long)]
    pub cgroup_root: Option<String>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cgroups_per_qos: Option<bool>,
    #[arg(long, value_delimiter = ',')]
    pub enforce_node_allocatable: Option<Vec<String>>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_cgroupv1: Option<bool>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub fail_swap_on: Option<bool>,
    #[arg(long)]
    pub max_pods: Option<i64>,
    #[arg(long)]
    pub pod_cidr: Option<String>,
    #[arg(long, allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    #[arg(long)]
    pub kube_reserved: Option<String>,
    #[arg(long)]
    pub system_reserved: Option<String>,
    #[arg(long)]
    pub eviction_hard: Option<String>,
    #[arg(long)]
    pub provider_id: Option<String>,
    /// Percentage of disk use from which on images are removed
    #[arg(long)]
    pub image_gc_high_threshold: Option<u8>,
    /// Percentage of disk use down to which images are removed
    #[arg(long)]
    pub image_gc_low_threshold: Option<u8>,
    /// Images younger than this are not removed
    #[arg(long)]
    pub minimum_image_ttl_duration: Option<GoDuration>,
    /// Most processes in a pod; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub pod_max_pids: Option<i64>,
    /// How many pods for each processor, up to max-pods; 0 for max-pods
    #[arg(long)]
    pub pods_per_core: Option<i64>,
    /// Whether the limits of processors are enforced
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub cpu_cfs_quota: Option<bool>,
    #[arg(long)]
    pub cpu_cfs_quota_period: Option<GoDuration>,
    /// Size from which on the log of a container is rotated
    #[arg(long)]
    pub container_log_max_size: Option<String>,
    /// Most files of the log of a container
    #[arg(long)]
    pub container_log_max_files: Option<u32>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub enable_server: Option<bool>,
    /// Time between looks for static pods
    #[arg(long)]
    pub file_check_frequency: Option<GoDuration>,
    /// Most images in the status of the node; -1 for no limit
    #[arg(long, allow_hyphen_values = true)]
    pub node_status_max_images: Option<i32>,
    #[arg(long)]
    pub node_status_update_frequency: Option<GoDuration>,
    #[arg(long)]
    pub sync_frequency: Option<GoDuration>,
    #[arg(long)]
    pub runtime_request_timeout: Option<GoDuration>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub seccomp_default: Option<bool>,
    #[arg(long, value_delimiter = ',')]
    pub allowed_unsafe_sysctls: Option<Vec<String>>,
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub serialize_image_pulls: Option<bool>,
}

/// Splits `a=b,c=d` lists; the separator between name and value differs by flag.
pub fn parse_map(flag: &str, text: &str, separator: char) -> anyhow::Result<BTreeMap<String, String>> {
    text.split(',')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            pair.split_once(separator)
                .map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned()))
                .ok_or_else(|| anyhow::anyhow!("--{flag}: {pair:?} must have the form name{separator}value"))
        })
        .collect()
}

fn parse_taints(text: &str) -> anyhow::Result<Vec<Taint>> {
    text.split(',')
        .filter(|t| !t.is_empty())
        .map(|t| {
            let (rest, effect) = t.split_once(':').ok_or_else(|| {
                anyhow::anyhow!("--register-with-taints: {t:?} must have the form key=value:effect")
            })?;
            if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
                anyhow::bail!("--register-with-taints: invalid effect {effect:?} in {t:?}");
            }
            let (key, value) = rest.split_once('=').unwrap_or((rest, ""));
            Ok(Taint {
                key: key.into(),
                value: (!value.is_empty()).then(|| value.into()),
                effect: effect.into(),
                time_added: None,
            })
        })
        .collect()
}

impl Flags {
    /// The configuration in force: the file's, then what the flags change.
    pub fn configuration(&self) -> anyhow::Result<KubeletConfiguration> {
        let mut c = match &self.config {
            Some(path) => KubeletConfiguration::load(path)?,
            None => KubeletConfiguration::default(),
        };
        macro_rules! set {
            ($($flag:ident => $($field:ident).+;)*) => {
                $(if let Some(v) = &self.$flag { c.$($field).+ = v.clone(); })*
            };
        }
        set! {
            container_runtime_endpoint => container_runtime_endpoint;
            image_service_endpoint => image_service_endpoint;
            register_node => register_node;
            pod_manifest_path => static_pod_path;
            address => address;
            port => port;
            read_only_port => read_only_port;
            healthz_port => healthz_port;
            healthz_bind_address => healthz_bind_address;
            tls_cert_file => tls_cert_file;
            tls_private_key_file => tls_private_key_file;
            client_ca_file => authentication.x509.client_ca_file;
            anonymous_auth => authentication.anonymous.enabled;
            authentication_token_webhook => authentication.webhook.enabled;
            authorization_mode => authorization.mode;
            cluster_dns => cluster_dns;
            cluster_domain => cluster_domain;
            resolv_conf => resolv_conf;
            cgroup_driver => cgroup_driver;
            cgroup_root => cgroup_root;
            cgroups_per_qos => cgroups_per_qos;
            enforce_node_allocatable => enforce_node_allocatable;
            fail_cgroupv1 => fail_cgroup_v1;
            fail_swap_on => fail_swap_on;
            max_pods => max_pods;
            pod_cidr => pod_cidr;
            oom_score_adj => oom_score_adj;
            provider_id => provider_id;
            image_gc_high_threshold => image_gc_high_threshold_percent;
            image_gc_low_threshold => image_gc_low_threshold_percent;
            minimum_image_ttl_duration => image_minimum_gc_age;
            pod_max_pids => pod_pids_limit;
            pods_per_core => pods_per_core;
            cpu_cfs_quota => cpu_cfs_quota;
            cpu_cfs_quota_period => cpu_cfs_quota_period;
            container_log_max_size => container_log_max_size;
            container_log_max_files => container_log_max_files;
            enable_server => enable_server;
            file_check_frequency => file_check_frequency;
            node_status_max_images => node_status_max_images;
            node_status_update_frequency => node_status_update_frequency;
            sync_frequency => sync_frequency;
            runtime_request_timeout => runtime_request_timeout;
            seccomp_default => seccomp_default;
            allowed_unsafe_sysctls => allowed_unsafe_sysctls;
            serialize_image_pulls => serialize_image_pulls;
        }
        if let Some(text) = &self.register_with_taints {
            c.register_with_taints = parse_taints(text)?;
        }
        if let Some(text) = &self.kube_reserved {
            c.kube_reserved = parse_map("kube-reserved", text, '=')?;
        }
        if let Some(text) = &self.system_reserved {
            c.system_reserved = parse_map("system-reserved", text, '=')?;
        }
        if let Some(text) = &self.eviction_hard {
            c.eviction_hard = Some(parse_map("eviction-hard", text, '<')?);
        }
        c.validate()?;
        Ok(c)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn every_flag_of_upstream_is_there() {
        let known = [];
        assert_eq!(component_base::flags::facts::differences::<Flags>("kubelet", INERT, &known), [""; 0]);
    }

    #[test]
    fn flags_override_the_defaults() {
        let f = Flags::parse_from([
            "kubelet",
            "--register-node=false",
            "--cluster-dns=1.1.1.1,2.2.2.2",
            "--register-with-taints=a=b:NoSchedule",
            "--oom-score-adj=-5",
            "--v=4",
        ]);
        let c = f.configuration().unwrap();
        assert!(!c.register_node);
        assert_eq!(c.cluster_dns.len(), 2);
        assert_eq!(c.register_with_taints[0].effect, "NoSchedule");
        assert_eq!(c.oom_score_adj, -5);
        assert!(parse_taints("a=b").is_err());
        assert!(parse_map("x", "a", '=').is_err());
    }
}
