//! Command-line flags, named as upstream's.
//!
//! Flags that tune things which do not exist here (volume plugins, cloud providers,
//! client-side rate limits: the API server's priority and fairness does that) are in [`INERT`].

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use component_base::duration::GoDuration;
use component_base::logs::LogFlags;
use component_base::metrics::MetricsFlags;

/// The flags of upstream that have no effect (see [`component_base::flags`]).
pub const INERT: &str = include_str!("flags.txt");

/// The flags that have an effect.
#[derive(Clone, Debug, Parser)]
#[command(name = "kube-controller-manager", version = component_base::version::GIT_VERSION, about = "Drives the cluster from its actual state to the desired one", args_override_self = true)]
pub struct Flags {
    #[command(flatten)]
    pub logs: LogFlags,
    #[command(flatten)]
    pub metrics: MetricsFlags,
    /// Serve /debug/pprof/: memory, tasks and threads of this process
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub profiling: bool,

    /// Path to kubeconfig file with authorization and API server location information
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the API server, instead of the kubeconfig's
    #[arg(long, value_name = "URL")]
    pub master: Option<http::Uri>,
    /// Kubeconfig used to check bearer tokens of clients of this daemon's own port
    #[arg(long, value_name = "FILE")]
    pub authentication_kubeconfig: Option<PathBuf>,
    /// Kubeconfig used to ask whether a client may read this daemon's own port
    #[arg(long, value_name = "FILE")]
    pub authorization_kubeconfig: Option<PathBuf>,
    /// CA of client certificates accepted on this daemon's own port
    #[arg(long, value_name = "FILE")]
    pub client_ca_file: Option<PathBuf>,
    /// The IP address on which to listen for the --secure-port port
    #[arg(long, value_name = "IP", default_value_t = IpAddr::V4(Ipv4Addr::UNSPECIFIED))]
    pub bind_address: IpAddr,
    /// The port on which to serve HTTPS; 0 serves nothing
    #[arg(long, value_name = "PORT", default_value_t = 10257)]
    pub secure_port: u16,
    /// Certificate to serve with; self-signed where absent
    #[arg(long, value_name = "FILE")]
    pub tls_cert_file: Option<PathBuf>,
    /// Key of --tls-cert-file
    #[arg(long, value_name = "FILE")]
    pub tls_private_key_file: Option<PathBuf>,

    /// Controllers to run: '*' all that are on by default, 'foo' this one, '-foo' not this one
    #[arg(long, value_name = "NAMES", value_delimiter = ',', default_value = "*", allow_hyphen_values = true, action = ArgAction::Append)]
    pub controllers: Vec<String>,
    /// Run each controller with its own service account
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub use_service_account_credentials: bool,
    /// How long to wait for running controllers at the end
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(10))]
    pub controller_shutdown_timeout: GoDuration,

    /// Elect a leader before running controllers
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub leader_elect: bool,
    /// How long non-leaders wait after the last renewal before they take over
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(15))]
    pub leader_elect_lease_duration: GoDuration,
    /// How long the leader tries to renew before it gives up
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(10))]
    pub leader_elect_renew_deadline: GoDuration,
    /// Pause between tries to acquire or renew
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(2))]
    pub leader_elect_retry_period: GoDuration,
    /// Kind of the lock object; only leases exist
    #[arg(long, value_name = "KIND", default_value = "leases", value_parser = ["leases"])]
    pub leader_elect_resource_lock: String,
    /// Name of the lock object
    #[arg(long, value_name = "NAME", default_value = "kube-controller-manager")]
    pub leader_elect_resource_name: String,
    /// Namespace of the lock object
    #[arg(long, value_name = "NAMESPACE", default_value = "kube-system")]
    pub leader_elect_resource_namespace: String,

    /// CIDR range(s) for pods, comma-separated; used with --allocate-node-cidrs
    #[arg(long, value_name = "CIDRS", default_value = "")]
    pub cluster_cidr: String,
    /// Give every node a range of pod addresses
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub allocate_node_cidrs: bool,
    /// Prefix length of a node's range (24 for IPv4, 64 for IPv6)
    #[arg(long, value_name = "BITS", default_value_t = 0)]
    pub node_cidr_mask_size: u8,
    /// Prefix length of a node's IPv4 range in dual-stack clusters
    #[arg(long, value_name = "BITS", default_value_t = 0)]
    pub node_cidr_mask_size_ipv4: u8,
    /// Prefix length of a node's IPv6 range in dual-stack clusters
    #[arg(long, value_name = "BITS", default_value_t = 0)]
    pub node_cidr_mask_size_ipv6: u8,
    /// CIDR range(s) of services, kept free of pod ranges
    #[arg(long, value_name = "CIDRS", default_value = "")]
    pub service_cluster_ip_range: String,

    /// CA certificate published to every namespace as kube-root-ca.crt
    #[arg(long, value_name = "FILE")]
    pub root_ca_file: Option<PathBuf>,

    /// Certificate of the CA that signs for all signers
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-cert-file
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_key_file: Option<PathBuf>,
    /// Certificate of the CA that signs for kubernetes.io/kubelet-serving
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-kubelet-serving-cert-file
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// Certificate of the CA that signs for kubernetes.io/kube-apiserver-client-kubelet
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-kubelet-client-cert-file
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// Certificate of the CA that signs for kubernetes.io/kube-apiserver-client
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-kube-apiserver-client-cert-file
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// Certificate of the CA that signs for kubernetes.io/legacy-unknown
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Key of --cluster-signing-legacy-unknown-cert-file
    #[arg(long, value_name = "FILE")]
    pub cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// Longest life of certificates that are signed
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(8760 * 3600))]
    pub cluster_signing_duration: GoDuration,

    /// Autoscalers looked at at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_horizontal_pod_autoscaler_syncs: u16,
    /// How often autoscalers look at their metrics
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(15))]
    pub horizontal_pod_autoscaler_sync_period: GoDuration,
    /// How long fewer replicas must have been enough before there are fewer
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(300))]
    pub horizontal_pod_autoscaler_downscale_stabilization: GoDuration,
    /// How far metrics may be from their targets, as a share
    #[arg(long, value_name = "SHARE", default_value_t = 0.1)]
    pub horizontal_pod_autoscaler_tolerance: f64,
    /// Time after a pod's start in which its use of CPU counts only while it is ready
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(300))]
    pub horizontal_pod_autoscaler_cpu_initialization_period: GoDuration,
    /// Time after a pod's start in which its becoming ready counts as the first time
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(30))]
    pub horizontal_pod_autoscaler_initial_readiness_delay: GoDuration,

    /// Admission policies whose expressions are checked at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_validating_admission_policy_status_syncs: u16,

    /// Services of the type LoadBalancer whose addresses are chosen at the same time
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub concurrent_service_syncs: u16,
    /// Where services of the type LoadBalancer get addresses from, without a cloud: 'nodes', or ranges of a pool that is
    /// routed to the nodes; without it they get none (not a flag of upstream)
    #[arg(long, value_name = "nodes|CIDRS")]
    pub service_lb_addresses: Option<String>,

    /// Key that signs the tokens of secrets of the type kubernetes.io/service-account-token; without it there are none
    #[arg(long, value_name = "FILE")]
    pub service_account_private_key_file: Option<PathBuf>,
    /// How long a token in a secret may be unused before it becomes invalid, and then before it is deleted
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(8760 * 3600))]
    pub legacy_service_account_token_clean_up_period: GoDuration,
    /// Token secrets filled at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_serviceaccount_token_syncs: u16,

    /// Deployments synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_deployment_syncs: u16,
    /// Replica sets synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_replicaset_syncs: u16,
    /// Replication controllers synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_rc_syncs: u16,
    /// Jobs synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_job_syncs: u16,
    /// Cron jobs synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_cron_job_syncs: u16,
    /// Stateful sets synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_statefulset_syncs: u16,
    /// Daemon sets synced at the same time
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub concurrent_daemonset_syncs: u16,
    /// Services whose endpoint slices are synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_service_endpoint_syncs: u16,
    /// Services whose Endpoints are synced at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_endpoint_syncs: u16,
    /// Endpoints objects mirrored at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub mirroring_concurrent_service_endpoint_syncs: u16,
    /// Namespaces deleted at the same time
    #[arg(long, value_name = "N", default_value_t = 10)]
    pub concurrent_namespace_syncs: u16,
    /// Garbage collector workers
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub concurrent_gc_syncs: u16,
    /// Finished jobs looked at at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_ttl_after_finished_syncs: u16,
    /// Pods with ephemeral volumes looked at at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_ephemeralvolume_syncs: u16,
    /// Pods on tainted devices looked at at the same time
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub concurrent_device_taint_eviction_syncs: u16,
    /// Pods and resource claims looked at at the same time
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub concurrent_resourceclaim_syncs: u16,
    /// Never detach volumes that a node which is not ready may still have mounted
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = false, action = ArgAction::Set)]
    pub disable_force_detach_on_timeout: bool,
    /// Ask provisioners for volumes that claims need
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub enable_dynamic_provisioning: bool,
    /// Resource quotas counted at the same time
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub concurrent_resource_quota_syncs: u16,
    /// How often all usage is counted anew; 0 never
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(300))]
    pub resource_quota_sync_period: GoDuration,
    /// Endpoints per slice
    #[arg(long, value_name = "N", default_value_t = 100)]
    pub max_endpoints_per_slice: usize,
    /// Endpoints per subset that are mirrored
    #[arg(long, value_name = "N", default_value_t = 1000)]
    pub mirroring_max_endpoints_per_subset: usize,
    /// Delete objects whose owners are gone; must match the API server's flag
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value_t = true, action = ArgAction::Set)]
    pub enable_garbage_collector: bool,

    /// How long a node may be silent before it counts as unreachable
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(50))]
    pub node_monitor_grace_period: GoDuration,
    /// How long a node may be silent after it was registered
    #[arg(long, value_name = "DURATION", default_value_t = GoDuration::from_secs(60))]
    pub node_startup_grace_period: GoDuration,
    /// Nodes per second that get a NoExecute taint in a healthy zone
    #[arg(long, value_name = "RATE", default_value_t = 0.1)]
    pub node_eviction_rate: f64,
    /// The same in an unhealthy zone
    #[arg(long, value_name = "RATE", default_value_t = 0.01)]
    pub secondary_node_eviction_rate: f64,
    /// Share of nodes not ready from which on a zone counts as unhealthy
    #[arg(long, value_name = "SHARE", default_value_t = 0.55)]
    pub unhealthy_zone_threshold: f64,
    /// Nodes from which on a zone counts as large
    #[arg(long, value_name = "N", default_value_t = 50)]
    pub large_cluster_size_threshold: usize,
    /// Terminated pods that may exist before the oldest are deleted; 0 keeps all
    #[arg(long, value_name = "N", default_value_t = 12500)]
    pub terminated_pod_gc_threshold: i32,
}

impl Flags {
    /// The values in use, for `/configz`: no secrets are among them, only paths.
    pub fn effective(&self) -> serde_json::Value {
        serde_json::json!({
            "controllers": self.controllers,
            "useServiceAccountCredentials": self.use_service_account_credentials,
            "leaderElect": self.leader_elect,
            "clusterCIDR": self.cluster_cidr,
            "allocateNodeCIDRs": self.allocate_node_cidrs,
            "serviceClusterIPRange": self.service_cluster_ip_range,
            "nodeMonitorGracePeriod": self.node_monitor_grace_period,
            "terminatedPodGCThreshold": self.terminated_pod_gc_threshold,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use component_base::flags::{facts, try_parse_from};

    fn parse(args: &[&str]) -> Result<(Flags, Vec<&'static str>), clap::Error> {
        let (flags, unused) = try_parse_from::<Flags>(INERT, [&["kube-controller-manager"], args].concat())?;
        Ok((flags, unused.iter().map(|u| u.flag.name).collect()))
    }

    #[test]
    fn every_flag_of_upstream_is_there() {
        assert_eq!(facts::differences::<Flags>("kube-controller-manager", INERT, &["controllers"]), [""; 0]);
    }

    #[test]
    fn upstream_spellings_parse() {
        let (flags, ignored) = parse(&[
            "--controllers=*,-foo,bar",
            "--leader-elect=false",
            "--allocate-node-cidrs",
            "--use-service-account-credentials=true",
            "--node-monitor-grace-period=40s",
            "--kube-api-qps=50",
            "--profiling=false",
            "--v=2",
        ])
        .unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(flags.controllers, ["*", "-foo", "bar"]);
        assert!(!flags.leader_elect && flags.allocate_node_cidrs && flags.use_service_account_credentials);
        assert_eq!(flags.node_monitor_grace_period.0.as_secs(), 40);
        assert!(!flags.profiling);
        assert_eq!(ignored, ["kube-api-qps"]);
    }

    #[test]
    fn unknown_flags_fail() {
        assert!(parse(&["--no-such-flag=1"]).is_err());
        assert!(parse(&["--leader-elect-resource-lock=endpoints"]).is_err());
    }
}
