//! From settings to backends: which families work, what the rules depend on.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::bail;
use tracing::info;

use crate::config::Mode;
use crate::model::{Cidr, Family, Here, LocalDetector};
use crate::options::Settings;
use crate::sync::{Backend, FAMILIES};
use crate::{conntrack, iptables, nftables};

/// How often rules are checked for foreign changes.
pub fn sync_period(s: &Settings) -> Duration {
    match s.mode {
        Mode::Iptables => s.config.iptables.sync_period.0,
        Mode::Nftables => s.config.nftables.sync_period.0,
    }
}

/// The least time between two changes of rules.
pub fn min_sync_period(s: &Settings) -> Duration {
    match s.mode {
        Mode::Iptables => s.config.iptables.min_sync_period.0,
        Mode::Nftables => s.config.nftables.min_sync_period.0,
    }
}

/// What marks local traffic. `pod_cidrs` are those of this node, once known.
pub fn detector(s: &Settings, pod_cidrs: &[Cidr]) -> LocalDetector {
    let d = &s.config.detect_local;
    match s.config.detect_local_mode.as_str() {
        "NodeCIDR" if pod_cidrs.is_empty() => LocalDetector::None,
        "NodeCIDR" => LocalDetector::Cidrs(pod_cidrs.to_vec()),
        "BridgeInterface" => LocalDetector::Bridge(d.bridge_interface.clone()),
        "InterfaceNamePrefix" => LocalDetector::Prefix(d.interface_name_prefix.clone()),
        // Checked when the settings were read.
        _ => match s.config.cluster_cidrs().unwrap_or_default() {
            c if c.is_empty() => LocalDetector::None,
            c => LocalDetector::Cidrs(c),
        },
    }
}

fn interface_addresses() -> Vec<IpAddr> {
    let Ok(list) = nix::ifaddrs::getifaddrs() else { return Vec::new() };
    let mut out: Vec<IpAddr> = list
        .filter_map(|i| i.address)
        .filter_map(|a| {
            a.as_sockaddr_in()
                .map(|x| IpAddr::V4(x.ip()))
                .or_else(|| a.as_sockaddr_in6().map(|x| IpAddr::V6(x.ip())))
        })
        .filter(|ip| !matches!(ip, IpAddr::V6(a) if a.is_unicast_link_local()))
        .collect();
    out.sort_unstable();
    out.dedup();
    out
}

/// The addresses that node ports are served on; `None` for all local ones.
pub fn node_port_ips(s: &Settings, node_ips: &[IpAddr]) -> Option<Vec<IpAddr>> {
    let listed = &s.config.node_port_addresses;
    if listed.is_empty() {
        return None;
    }
    if listed.iter().any(|a| a == "primary") {
        return Some(node_ips.to_vec());
    }
    let cidrs: Vec<Cidr> = listed.iter().filter_map(|c| c.parse().ok()).collect();
    let all = |v4: bool| cidrs.iter().any(|c| c.bits == 0 && c.ip.is_ipv4() == v4);
    if all(true) && (all(false) || cidrs.iter().all(|c| c.ip.is_ipv4())) {
        return None;
    }
    Some(interface_addresses().into_iter().filter(|ip| cidrs.iter().any(|c| c.contains(*ip))).collect())
}

/// The node's addresses as far as known before the Node object is seen.
fn bind_ips(s: &Settings) -> Vec<IpAddr> {
    s.config.bind_address.parse::<IpAddr>().into_iter().filter(|ip| !ip.is_unspecified()).collect()
}

/// A backend for each family that works.
pub async fn backends(s: &Settings) -> anyhow::Result<Vec<(Family, Backend)>> {
    let mut out = Vec::new();
    for family in FAMILIES {
        let probed = match s.mode {
            Mode::Iptables => iptables::backend::probe(family).await,
            Mode::Nftables => nftables::backend::probe(if family == Family::V4 { "ip" } else { "ip6" }).await,
        };
        match probed {
            Ok(()) => out.push((family, backend(s, family).await)),
            Err(e) if family == Family::V4 && std::path::Path::new("/proc/net/if_inet6").exists() => {
                // A machine may have IPv6 only.
                info!(family = family.name(), why = format!("{e:#}"), "family is not available");
            }
            Err(e) if out.is_empty() => {
                return Err(e.context(format!("proxy mode {} does not work here", s.mode.name())));
            }
            Err(e) => info!(family = family.name(), why = format!("{e:#}"), "family is not available"),
        }
    }
    if out.is_empty() {
        bail!("proxy mode {} works for no address family: is this process root?", s.mode.name());
    }
    Ok(out)
}

async fn backend(s: &Settings, family: Family) -> Backend {
    let of_family =
        |ips: Vec<IpAddr>| -> Vec<IpAddr> { ips.into_iter().filter(|i| Family::of(*i) == family).collect() };
    let here = Here { node: s.node.as_str().into(), zone: "".into() };
    let node_ips = of_family(bind_ips(s));
    let node_port_ips = node_port_ips(s, &node_ips).map(of_family);
    let detector = detector(s, &[]);
    match s.mode {
        Mode::Iptables => {
            let localhost_node_ports =
                s.config.iptables.localhost_node_ports.unwrap_or(true) && family == Family::V4;
            if localhost_node_ports {
                conntrack::route_localnet();
            }
            Backend::Iptables(iptables::backend::Backend::new(iptables::rules::Config {
                family,
                here,
                masquerade_all: s.config.iptables.masquerade_all,
                mark: 1 << s.config.iptables.masquerade_bit.unwrap_or(14),
                detector,
                node_port_ips,
                localhost_node_ports,
                random_fully: iptables::backend::random_fully(family).await,
                tcp_be_liberal: conntrack::is_liberal(),
                node_ips,
            }))
        }
        Mode::Nftables => Backend::Nftables(nftables::backend::Backend::new(nftables::rules::Config {
            family,
            here,
            masquerade_all: s.config.nftables.masquerade_all,
            mark: 1 << s.config.nftables.masquerade_bit.unwrap_or(14),
            detector,
            node_port_ips,
            node_ips,
        })),
    }
}
