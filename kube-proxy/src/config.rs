//! `KubeProxyConfiguration` (kubeproxy.config.k8s.io/v1alpha1): the file as written, defaults and validation.

use component_base::duration::GoDuration;
use serde::{Deserialize, Serialize};

use crate::model::Cidr;

/// API versions of the file that are understood.
pub const VERSIONS: &[&str] = &["kubeproxy.config.k8s.io/v1alpha1"];
/// Kind of the file.
pub const KIND: &str = "KubeProxyConfiguration";

/// The proxy's configuration file. Parts for Windows and IPVS are taken and ignored.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    pub feature_gates: std::collections::BTreeMap<String, bool>,
    pub client_connection: ClientConnection,
    pub logging: serde_json::Value,
    pub hostname_override: String,
    pub bind_address: String,
    pub healthz_bind_address: String,
    pub metrics_bind_address: String,
    pub bind_address_hard_fail: bool,
    pub enable_profiling: bool,
    pub show_hidden_metrics_for_version: String,
    pub mode: String,
    pub iptables: Iptables,
    pub ipvs: serde_json::Value,
    pub nftables: Nftables,
    pub winkernel: serde_json::Value,
    pub detect_local_mode: String,
    pub detect_local: DetectLocal,
    #[serde(rename = "clusterCIDR")]
    pub cluster_cidr: String,
    #[serde(deserialize_with = "null_default")]
    pub node_port_addresses: Vec<String>,
    #[serde(rename = "oomScoreAdj")]
    pub oom_score_adj: Option<i32>,
    pub conntrack: Conntrack,
    pub config_sync_period: GoDuration,
    pub port_range: String,
    pub windows_run_as_service: bool,
}

fn null_default<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

impl Default for Configuration {
    fn default() -> Self {
        Self {
            feature_gates: Default::default(),
            client_connection: ClientConnection::default(),
            logging: serde_json::Value::Null,
            hostname_override: String::new(),
            bind_address: "0.0.0.0".into(),
            healthz_bind_address: "0.0.0.0:10256".into(),
            metrics_bind_address: "127.0.0.1:10249".into(),
            bind_address_hard_fail: false,
            enable_profiling: false,
            show_hidden_metrics_for_version: String::new(),
            mode: String::new(),
            iptables: Iptables::default(),
            ipvs: serde_json::Value::Null,
            nftables: Nftables::default(),
            winkernel: serde_json::Value::Null,
            detect_local_mode: String::new(),
            detect_local: DetectLocal::default(),
            cluster_cidr: String::new(),
            node_port_addresses: Vec::new(),
            oom_score_adj: Some(-999),
            conntrack: Conntrack::default(),
            config_sync_period: GoDuration::from_secs(15 * 60),
            port_range: String::new(),
            windows_run_as_service: false,
        }
    }
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

/// iptables mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Iptables {
    pub masquerade_bit: Option<u8>,
    pub masquerade_all: bool,
    pub localhost_node_ports: Option<bool>,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

impl Default for Iptables {
    fn default() -> Self {
        Self {
            masquerade_bit: None,
            masquerade_all: false,
            localhost_node_ports: None,
            sync_period: GoDuration::from_secs(30),
            min_sync_period: GoDuration::from_secs(1),
        }
    }
}

/// nftables mode.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Nftables {
    pub masquerade_bit: Option<u8>,
    pub masquerade_all: bool,
    pub sync_period: GoDuration,
    pub min_sync_period: GoDuration,
}

impl Default for Nftables {
    fn default() -> Self {
        Self {
            masquerade_bit: None,
            masquerade_all: false,
            sync_period: GoDuration::from_secs(30),
            min_sync_period: GoDuration::from_secs(1),
        }
    }
}

/// How traffic of this node's pods is told from other traffic.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct DetectLocal {
    pub bridge_interface: String,
    pub interface_name_prefix: String,
    #[serde(rename = "clusterCIDRs", deserialize_with = "null_default")]
    pub cluster_cidrs: Vec<String>,
}

/// Kernel connection tracking.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Conntrack {
    pub max_per_core: Option<u32>,
    pub min: Option<u32>,
    pub tcp_established_timeout: Option<GoDuration>,
    pub tcp_close_wait_timeout: Option<GoDuration>,
    pub tcp_be_liberal: bool,
    pub udp_timeout: GoDuration,
    pub udp_stream_timeout: GoDuration,
}

impl Default for Conntrack {
    fn default() -> Self {
        Self {
            max_per_core: Some(32 * 1024),
            min: Some(128 * 1024),
            tcp_established_timeout: Some(GoDuration::from_secs(24 * 3600)),
            tcp_close_wait_timeout: Some(GoDuration::from_secs(3600)),
            tcp_be_liberal: false,
            udp_timeout: GoDuration::default(),
            udp_stream_timeout: GoDuration::default(),
        }
    }
}

/// The proxy modes there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Iptables,
    Nftables,
}

impl Mode {
    /// As flags and `/proxyMode` name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Iptables => "iptables",
            Self::Nftables => "nftables",
        }
    }
}

impl Configuration {
    /// The proxy mode.
    ///
    /// # Errors
    /// It is unknown or not supported.
    pub fn mode(&self) -> Result<Mode, String> {
        match self.mode.as_str() {
            "" | "iptables" => Ok(Mode::Iptables),
            "nftables" => Ok(Mode::Nftables),
            "ipvs" => Err("proxy mode ipvs is not supported: use iptables or nftables".into()),
            other => Err(format!("unknown proxy mode {other:?}: use iptables or nftables")),
        }
    }

    /// Cluster CIDRs, from either of the two places they may be written.
    ///
    /// # Errors
    /// One is no CIDR.
    pub fn cluster_cidrs(&self) -> Result<Vec<Cidr>, String> {
        let old = self.cluster_cidr.split(',').filter(|c| !c.is_empty());
        let new = self.detect_local.cluster_cidrs.iter().map(String::as_str);
        let listed: Vec<&str> =
            if self.detect_local.cluster_cidrs.is_empty() { old.collect() } else { new.collect() };
        listed.into_iter().map(|c| c.parse().map_err(|e| format!("clusterCIDR: {e}"))).collect()
    }

    /// Everything that is wrong, one line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        out.extend(self.mode().err());
        out.extend(self.cluster_cidrs().err());
        let hidden = component_base::metrics::hidden_version(&self.show_hidden_metrics_for_version);
        out.extend(hidden.err().map(|e| e.to_string()));
        for (name, bit) in
            [("iptables", self.iptables.masquerade_bit), ("nftables", self.nftables.masquerade_bit)]
        {
            if bit.is_some_and(|b| b > 31) {
                out.push(format!("{name}.masqueradeBit: must be within the range [0, 31]"));
            }
        }
        for (name, sync, min) in [
            ("iptables", self.iptables.sync_period, self.iptables.min_sync_period),
            ("nftables", self.nftables.sync_period, self.nftables.min_sync_period),
        ] {
            if sync.0.is_zero() || min > sync {
                out.push(format!(
                    "{name}.syncPeriod: must be greater than 0 and not less than minSyncPeriod"
                ));
            }
        }
        for (name, address) in [
            ("healthzBindAddress", &self.healthz_bind_address),
            ("metricsBindAddress", &self.metrics_bind_address),
        ] {
            if !address.is_empty() && address.parse::<std::net::SocketAddr>().is_err() {
                out.push(format!("{name}: {address:?} is not an IP address with a port"));
            }
        }
        let cidrs = self.node_port_addresses.iter().filter(|a| a.as_str() != "primary");
        for a in cidrs {
            if let Err(e) = a.parse::<Cidr>() {
                out.push(format!("nodePortAddresses: {e}"));
            }
        }
        let d = &self.detect_local;
        match self.detect_local_mode.as_str() {
            "" | "ClusterCIDR" | "NodeCIDR" => {}
            "BridgeInterface" if d.bridge_interface.is_empty() => {
                out.push("detectLocal.bridgeInterface: required with detectLocalMode BridgeInterface".into());
            }
            "InterfaceNamePrefix" if d.interface_name_prefix.is_empty() => out.push(
                "detectLocal.interfaceNamePrefix: required with detectLocalMode InterfaceNamePrefix".into(),
            ),
            "BridgeInterface" | "InterfaceNamePrefix" => {}
            other => out.push(format!(
                "detectLocalMode: {other:?} is not ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"
            )),
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeadm_file_is_read() {
        let text = r#"{"bindAddress":"0.0.0.0","bindAddressHardFail":false,
            "clientConnection":{"acceptContentTypes":"","burst":0,"contentType":"","kubeconfig":"/x","qps":0},
            "clusterCIDR":"10.244.0.0/16","configSyncPeriod":"0s",
            "conntrack":{"maxPerCore":null,"min":null,"tcpBeLiberal":false,"tcpCloseWaitTimeout":null,
              "tcpEstablishedTimeout":null,"udpStreamTimeout":"0s","udpTimeout":"0s"},
            "detectLocal":{"bridgeInterface":"","interfaceNamePrefix":""},"detectLocalMode":"",
            "enableProfiling":false,"healthzBindAddress":"","hostnameOverride":"",
            "iptables":{"localhostNodePorts":null,"masqueradeAll":false,"masqueradeBit":null,
              "minSyncPeriod":"0s","syncPeriod":"30s"},
            "ipvs":{"excludeCIDRs":null,"scheduler":"rr"},
            "logging":{"flushFrequency":0},"metricsBindAddress":"","mode":"",
            "nftables":{"masqueradeAll":false,"masqueradeBit":null,"minSyncPeriod":"0s","syncPeriod":"30s"},
            "nodePortAddresses":null,"oomScoreAdj":null,"portRange":"","showHiddenMetricsForVersion":"",
            "winkernel":{}}"#;
        let c: Configuration = serde_json::from_str(text).expect("valid");
        assert_eq!(c.problems(), Vec::<String>::new());
        assert_eq!(c.cluster_cidrs().expect("cidrs").len(), 1);
    }

    #[test]
    fn problems_are_named() {
        let c = Configuration { mode: "ipvs".into(), cluster_cidr: "x".into(), ..Configuration::default() };
        let p = c.problems().join("\n");
        assert!(p.contains("ipvs is not supported") && p.contains("clusterCIDR"), "{p}");
    }
}
