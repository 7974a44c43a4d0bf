//! Connection tracking: limits and timeouts at start, and UDP flows that must be forgotten.
//!
//! A UDP client keeps sending over the flow the kernel remembers, so when the endpoint behind it is gone, or when a
//! service gets its first endpoint, the entry has to go. TCP clients notice by themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::process::Stdio;

use tokio::process::Command;
use tracing::{debug, info, warn};

use crate::config::Conntrack;
use crate::model::state::State;
use crate::model::{Family, Here, Protocol, ServiceName, topology};

/// Where UDP flows of a service arrive and lead: per original destination the endpoints.
pub type Flows = BTreeMap<Target, BTreeSet<SocketAddr>>;

/// An original destination.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// A service address and port.
    Address(IpAddr, u16),
    /// A node port, on whatever address.
    NodePort(u16),
}

/// The UDP flows a service allows.
#[must_use]
pub fn flows(state: &State, name: &ServiceName, here: &Here) -> Flows {
    let mut out = Flows::new();
    let Some(s) = state.service(name) else { return out };
    for port in s.ports.iter().filter(|p| p.protocol == Protocol::Udp) {
        let endpoints = state.endpoints(name, port);
        let choice = topology::choose(&endpoints, s, port, here);
        let to: BTreeSet<SocketAddr> = choice.reachable.iter().map(|e| (e.ip, e.port).into()).collect();
        let ips = std::iter::once(&s.cluster_ip).chain(&s.external_ips).chain(&s.load_balancer_ips);
        for ip in ips {
            out.insert(Target::Address(*ip, port.port), to.clone());
        }
        if port.node_port != 0 {
            out.insert(Target::NodePort(port.node_port), to);
        }
    }
    out
}

/// One deletion: entries to `target`, of those that lead to `endpoint` or, without one, all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stale {
    pub target: Target,
    pub endpoint: Option<SocketAddr>,
}

/// What must be forgotten when a service goes from `old` to `new`.
#[must_use]
pub fn stale(old: &Flows, new: &Flows) -> Vec<Stale> {
    let empty = BTreeSet::new();
    let mut out = Vec::new();
    for (target, before) in old {
        for endpoint in before.difference(new.get(target).unwrap_or(&empty)) {
            out.push(Stale { target: target.clone(), endpoint: Some(*endpoint) });
        }
    }
    for (target, after) in new {
        // Until now packets went wherever routing sent them, and the kernel remembers that.
        if !after.is_empty() && old.get(target).is_none_or(BTreeSet::is_empty) {
            out.push(Stale { target: target.clone(), endpoint: None });
        }
    }
    out
}

/// Deletes entries with the `conntrack` tool.
pub async fn forget(family: Family, list: &[Stale]) {
    let f = if family == Family::V4 { "ipv4" } else { "ipv6" };
    for s in list {
        let mut args: Vec<String> = ["-D", "-f", f, "-p", "udp"].iter().map(|a| (*a).to_owned()).collect();
        match &s.target {
            Target::Address(ip, port) => {
                args.extend([
                    "--orig-dst".into(),
                    ip.to_string(),
                    "--orig-port-dst".into(),
                    port.to_string(),
                ]);
            }
            Target::NodePort(port) => args.extend(["--orig-port-dst".into(), port.to_string()]),
        }
        if let Some(endpoint) = s.endpoint {
            args.extend(["--reply-src".into(), endpoint.ip().to_string()]);
            args.extend(["--reply-port-src".into(), endpoint.port().to_string()]);
        }
        let run = Command::new("conntrack").args(&args).stdin(Stdio::null()).kill_on_drop(true).output();
        match run.await {
            Ok(out) => {
                let text = String::from_utf8_lossy(&out.stderr);
                // Status 1 with "0 flow entries" says there was nothing to delete.
                if out.status.success() || text.contains("0 flow entries") {
                    debug!(?s, result = text.trim(), "stale UDP flows");
                } else {
                    warn!(?s, error = text.trim(), "cannot delete stale UDP flows");
                }
            }
            Err(error) => {
                warn!(%error, "cannot run conntrack: UDP clients may keep talking to endpoints that are gone; is the package conntrack installed?");
                return;
            }
        }
    }
}

fn write_sysctl(path: &str, value: u64) {
    let file = format!("/proc/sys/net/{path}");
    let now = std::fs::read_to_string(&file).ok().and_then(|t| t.trim().parse::<u64>().ok());
    if now == Some(value) {
        return;
    }
    match std::fs::write(&file, value.to_string()) {
        Ok(()) => info!(sysctl = path, value, "set"),
        Err(error) => warn!(sysctl = path, value, %error, "cannot set"),
    }
}

/// Applies limits and timeouts. What can't be set is logged: in some network namespaces the limits belong to the
/// host.
pub fn configure(c: &Conntrack) {
    let cores = std::thread::available_parallelism().map_or(1, |n| n.get() as u64);
    let max = u64::from(c.max_per_core.unwrap_or(32 * 1024)) * cores;
    if max > 0 {
        let wanted = max.max(u64::from(c.min.unwrap_or(128 * 1024)));
        let now = std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_max");
        let enough = now.ok().and_then(|t| t.trim().parse::<u64>().ok()).is_some_and(|n| n >= wanted);
        if !enough {
            write_sysctl("netfilter/nf_conntrack_max", wanted);
        }
    }
    let timeouts = [
        ("nf_conntrack_tcp_timeout_established", c.tcp_established_timeout),
        ("nf_conntrack_tcp_timeout_close_wait", c.tcp_close_wait_timeout),
        ("nf_conntrack_udp_timeout", Some(c.udp_timeout)),
        ("nf_conntrack_udp_timeout_stream", Some(c.udp_stream_timeout)),
    ];
    for (name, t) in timeouts {
        if let Some(secs) = t.map(|t| t.0.as_secs()).filter(|s| *s > 0) {
            write_sysctl(&format!("netfilter/{name}"), secs);
        }
    }
    if c.tcp_be_liberal {
        write_sysctl("netfilter/nf_conntrack_tcp_be_liberal", 1);
    }
}

/// Lets packets to 127.0.0.0/8 leave for endpoints, which node ports on localhost need.
pub fn route_localnet() {
    write_sysctl("ipv4/conf/all/route_localnet", 1);
}

/// Whether the kernel lets TCP packets outside of the window through.
#[must_use]
pub fn is_liberal() -> bool {
    std::fs::read_to_string("/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal")
        .is_ok_and(|t| t.trim() == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flows(list: &[(&str, &[&str])]) -> Flows {
        let ip = |s: &str| s.parse::<IpAddr>().expect("ip");
        list.iter()
            .map(|(t, eps)| {
                let endpoints = eps.iter().map(|e| e.parse().expect("an endpoint"));
                (Target::Address(ip(t), 53), endpoints.collect())
            })
            .collect()
    }

    #[test]
    fn lost_endpoints_and_first_endpoints_make_flows_stale() {
        let target = Target::Address("10.0.0.1".parse().expect("ip"), 53);
        let two = flows(&[("10.0.0.1", &["1.1.1.1:53", "1.1.1.2:53"])]);
        let one = flows(&[("10.0.0.1", &["1.1.1.2:53"])]);
        let moved = flows(&[("10.0.0.1", &["1.1.1.2:54"])]);
        let none = flows(&[("10.0.0.1", &[])]);
        let gone =
            |e: &str| Stale { target: target.clone(), endpoint: Some(e.parse().expect("an endpoint")) };
        assert_eq!(stale(&two, &one), [gone("1.1.1.1:53")]);
        assert_eq!(stale(&one, &moved), [gone("1.1.1.2:53")], "another target port");
        assert_eq!(stale(&one, &two), []);
        assert_eq!(stale(&none, &one), [Stale { target: target.clone(), endpoint: None }]);
        assert_eq!(stale(&Flows::new(), &one), [Stale { target: target.clone(), endpoint: None }]);
        assert_eq!(stale(&two, &Flows::new()).len(), 2);
    }
}
