//! Command-line flags, merged with the configuration file into [`Settings`].

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{ArgAction, Parser};
use component_base::duration::GoDuration;
use component_base::logs::LogFlags;

use crate::config::{self, Configuration, Mode};

/// The flags of upstream that have no effect (see [`component_base::flags`]).
pub const INERT: &str = include_str!("flags.txt");

/// The Kubernetes network proxy: makes services reachable through rules in the kernel's packet filter.
#[derive(Debug, Parser)]
#[command(name = "kube-proxy", version = component_base::version::GIT_VERSION, disable_version_flag = true)]
pub struct Flags {
    /// The path to the configuration file (KubeProxyConfiguration); it replaces most flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Serve /debug/pprof/ beside the metrics; the file of --config says it by enableProfiling
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub profiling: Option<bool>,
    /// The release before this one, to show metrics that this one hides, of which there are none
    #[arg(long, value_name = "VERSION")]
    pub show_hidden_metrics_for_version: Option<String>,
    /// Write the configuration in use to this file and exit
    #[arg(long, value_name = "FILE")]
    pub write_config_to: Option<PathBuf>,
    /// Remove all rules of kube-proxy and exit
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false")]
    pub cleanup: bool,
    /// Kubeconfig file with authorization and API server location
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The address of the Kubernetes API server (overrides any value in kubeconfig)
    #[arg(long, value_name = "URL")]
    pub master: Option<String>,
    /// The name of the Node this runs on, instead of the host name
    #[arg(long, value_name = "NAME")]
    pub hostname_override: Option<String>,
    /// Overrides the idea of what the node's primary IP is; nothing is bound to it
    #[arg(long, value_name = "IP")]
    pub bind_address: Option<String>,
    /// Which proxy mode to use: iptables or nftables
    #[arg(long, value_name = "MODE")]
    pub proxy_mode: Option<String>,
    /// The IP address and port of the health check server; empty switches it off
    #[arg(long, value_name = "ADDRESS")]
    pub healthz_bind_address: Option<String>,
    /// The IP address and port of the metrics server; empty switches it off
    #[arg(long, value_name = "ADDRESS")]
    pub metrics_bind_address: Option<String>,
    /// Take failure to bind to a port as fatal
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub bind_address_hard_fail: Option<bool>,
    /// The CIDR ranges of the pods in the cluster, comma-separated
    #[arg(long, value_name = "CIDRS")]
    pub cluster_cidr: Option<String>,
    /// How to detect local traffic: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix
    #[arg(long, value_name = "MODE")]
    pub detect_local_mode: Option<String>,
    /// The bridge of --detect-local-mode BridgeInterface
    #[arg(long, value_name = "NAME")]
    pub pod_bridge_interface: Option<String>,
    /// The prefix of --detect-local-mode InterfaceNamePrefix
    #[arg(long, value_name = "PREFIX")]
    pub pod_interface_name_prefix: Option<String>,
    /// CIDRs of the addresses on which node ports are served, comma-separated, or "primary"
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub nodeport_addresses: Option<Vec<String>>,
    /// Masquerade all traffic sent to cluster IPs
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub masquerade_all: Option<bool>,
    /// The bit of the packet mark that asks for masquerading (0-31)
    #[arg(long, value_name = "BIT")]
    pub iptables_masquerade_bit: Option<u8>,
    /// Serve node ports on localhost, too (iptables mode, IPv4)
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub iptables_localhost_nodeports: Option<bool>,
    /// How often rules are checked for foreign changes
    #[arg(long, value_name = "DURATION")]
    pub iptables_sync_period: Option<GoDuration>,
    /// The least time between changes of rules
    #[arg(long, value_name = "DURATION")]
    pub iptables_min_sync_period: Option<GoDuration>,
    /// Maximum number of tracked connections per CPU core (0 leaves the limit as it is)
    #[arg(long, value_name = "N")]
    pub conntrack_max_per_core: Option<u32>,
    /// Minimum number of tracked connections, regardless of --conntrack-max-per-core
    #[arg(long, value_name = "N")]
    pub conntrack_min: Option<u32>,
    /// Idle timeout of established TCP connections (0 leaves it as it is)
    #[arg(long, value_name = "DURATION")]
    pub conntrack_tcp_timeout_established: Option<GoDuration>,
    /// Timeout of TCP connections in CLOSE_WAIT
    #[arg(long, value_name = "DURATION")]
    pub conntrack_tcp_timeout_close_wait: Option<GoDuration>,
    /// Don't mark TCP packets outside of the window as invalid
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub conntrack_tcp_be_liberal: Option<bool>,
    /// Idle timeout of unanswered UDP flows
    #[arg(long, value_name = "DURATION")]
    pub conntrack_udp_timeout: Option<GoDuration>,
    /// Idle timeout of answered UDP flows
    #[arg(long, value_name = "DURATION")]
    pub conntrack_udp_timeout_stream: Option<GoDuration>,
    /// The oom-score-adj value of the process (-1000 to 1000)
    #[arg(long, value_name = "N", allow_hyphen_values = true)]
    pub oom_score_adj: Option<i32>,
    #[command(flatten)]
    pub logs: LogFlags,
    /// Print version information and quit
    #[arg(long, action = ArgAction::Version)]
    version: Option<bool>,
}

/// Everything the proxy needs to know to run.
#[derive(Debug)]
pub struct Settings {
    pub config: Configuration,
    pub mode: Mode,
    pub kubeconfig: PathBuf,
    pub node: String,
    pub healthz: Option<SocketAddr>,
    pub metrics: Option<SocketAddr>,
}

impl Flags {
    /// Reads the configuration file, or takes the flags where there is none.
    ///
    /// # Errors
    /// Everything that is wrong with flags and file.
    pub fn configuration(&self) -> anyhow::Result<Configuration> {
        let mut c = match &self.config {
            Some(path) => component_base::config::load(path, config::VERSIONS, config::KIND)?,
            None => self.flags_only(),
        };
        if let Some(name) = &self.hostname_override {
            c.hostname_override.clone_from(name);
        }
        if c.healthz_bind_address.is_empty() && self.config.is_some() {
            c.healthz_bind_address = "0.0.0.0:10256".into();
        }
        if c.metrics_bind_address.is_empty() && self.config.is_some() {
            c.metrics_bind_address = "127.0.0.1:10249".into();
        }
        let problems = c.problems();
        if !problems.is_empty() {
            anyhow::bail!("invalid configuration: {}", problems.join("; "));
        }
        Ok(c)
    }

    fn flags_only(&self) -> Configuration {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(v) = from {
                to.clone_from(v);
            }
        }
        let mut c = Configuration::default();
        set(&mut c.bind_address, &self.bind_address);
        set(&mut c.mode, &self.proxy_mode);
        set(&mut c.healthz_bind_address, &self.healthz_bind_address);
        set(&mut c.metrics_bind_address, &self.metrics_bind_address);
        set(&mut c.bind_address_hard_fail, &self.bind_address_hard_fail);
        set(&mut c.cluster_cidr, &self.cluster_cidr);
        set(&mut c.detect_local_mode, &self.detect_local_mode);
        set(&mut c.detect_local.bridge_interface, &self.pod_bridge_interface);
        set(&mut c.detect_local.interface_name_prefix, &self.pod_interface_name_prefix);
        set(&mut c.node_port_addresses, &self.nodeport_addresses);
        set(&mut c.iptables.masquerade_all, &self.masquerade_all);
        set(&mut c.nftables.masquerade_all, &self.masquerade_all);
        c.iptables.masquerade_bit = self.iptables_masquerade_bit;
        c.nftables.masquerade_bit = self.iptables_masquerade_bit;
        c.iptables.localhost_node_ports = self.iptables_localhost_nodeports;
        set(&mut c.iptables.sync_period, &self.iptables_sync_period);
        set(&mut c.nftables.sync_period, &self.iptables_sync_period);
        set(&mut c.iptables.min_sync_period, &self.iptables_min_sync_period);
        set(&mut c.nftables.min_sync_period, &self.iptables_min_sync_period);
        let t = &mut c.conntrack;
        set(&mut t.max_per_core, &self.conntrack_max_per_core.map(Some));
        set(&mut t.min, &self.conntrack_min.map(Some));
        set(&mut t.tcp_established_timeout, &self.conntrack_tcp_timeout_established.map(Some));
        set(&mut t.tcp_close_wait_timeout, &self.conntrack_tcp_timeout_close_wait.map(Some));
        set(&mut t.tcp_be_liberal, &self.conntrack_tcp_be_liberal);
        set(&mut t.udp_timeout, &self.conntrack_udp_timeout);
        set(&mut t.udp_stream_timeout, &self.conntrack_udp_timeout_stream);
        set(&mut c.oom_score_adj, &self.oom_score_adj.map(Some));
        set(&mut c.enable_profiling, &self.profiling);
        set(&mut c.show_hidden_metrics_for_version, &self.show_hidden_metrics_for_version);
        c
    }

    /// What is needed to run.
    ///
    /// # Errors
    /// As [`Self::configuration`], or there is no kubeconfig.
    pub fn settings(&self) -> anyhow::Result<Settings> {
        let config = self.configuration()?;
        if self.master.is_some() {
            anyhow::bail!("--master is not supported: put the API server's address into the kubeconfig file");
        }
        let kubeconfig = match (config.client_connection.kubeconfig.as_str(), &self.kubeconfig) {
            (_, Some(path)) => path.clone(),
            ("", None) => anyhow::bail!(
                "no kubeconfig: give --kubeconfig, or clientConnection.kubeconfig in the file of --config"
            ),
            (path, None) => path.into(),
        };
        let node = if config.hostname_override.is_empty() {
            nix::unistd::gethostname()?.to_string_lossy().trim().to_lowercase()
        } else {
            config.hostname_override.trim().to_lowercase()
        };
        let mode = config.mode().map_err(|e| anyhow::anyhow!(e))?;
        let healthz = config.healthz_bind_address.parse().ok();
        let metrics = config.metrics_bind_address.parse().ok();
        Ok(Settings { config, mode, kubeconfig, node, healthz, metrics })
    }
}

#[cfg(test)]
mod tests {
    use component_base::flags::facts;

    use super::*;

    #[test]
    fn every_flag_of_upstream_is_there() {
        assert_eq!(facts::differences::<Flags>("kube-proxy", INERT, &[]), [""; 0]);
    }
}
