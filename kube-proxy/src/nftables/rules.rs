//! What a service needs in the table, and what is always there. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::iptables::names::hash;
use crate::model::topology::{Choice, choose};
use crate::model::{Endpoint, Family, Here, LocalDetector, Service, ServiceName, ServicePort};

/// The table's name.
pub const TABLE: &str = "kube-proxy";
/// The longest chain name that leaves room for a prefix.
const MAX_NAME: usize = 240;

/// What of the node and the configuration the rules depend on.
#[derive(Clone, Debug)]
pub struct Config {
    pub family: Family,
    pub here: Here,
    pub masquerade_all: bool,
    /// The mark of packets to masquerade.
    pub mark: u32,
    pub detector: LocalDetector,
    /// Addresses that node ports are served on; `None` for all local addresses but loopback.
    pub node_port_ips: Option<Vec<IpAddr>>,
    pub node_ips: Vec<IpAddr>,
}

impl Config {
    /// `ip` or `ip6`, as matches and the table name the family.
    #[must_use]
    pub fn ip(&self) -> &'static str {
        if self.family == Family::V4 { "ip" } else { "ip6" }
    }

    fn address_type(&self) -> &'static str {
        if self.family == Family::V4 { "ipv4_addr" } else { "ipv6_addr" }
    }
}

/// A service's part of the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// (map or set, key) → value; sets have empty values.
    pub elements: BTreeMap<(&'static str, String), String>,
    /// Affinity sets with their timeouts in seconds.
    pub affinity: BTreeMap<String, u32>,
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Rules {
    /// Rules and elements.
    #[must_use]
    pub fn len(&self) -> usize {
        self.elements.len() + self.chains.values().map(Vec::len).sum::<usize>()
    }

    /// True without any.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.elements.is_empty() && self.chains.is_empty()
    }
}

/// A readable unique name: a hash, then as much of the text as fits.
fn unique(text: &str) -> String {
    let mut name = format!("{}-{text}", hash(text, 8));
    if name.len() > MAX_NAME {
        name.truncate(MAX_NAME - 3);
        name.push_str("...");
    }
    name
}

/// What a service needs. `endpoints` gives those of a port.
pub fn service(
    c: &Config,
    name: &ServiceName,
    s: &Service,
    endpoints: impl Fn(&ServicePort) -> Vec<Endpoint>,
) -> Rules {
    let mut out = Rules::default();
    for port in &s.ports {
        let all = endpoints(port);
        let base = unique(&format!("{name}/{}/{}", port.protocol.lower(), port.name));
        let choice = choose(&all, s, port, &c.here);
        Port { c, s, port, choice, base, proto: port.protocol.lower() }.write(&mut out);
    }
    if !s.ports.is_empty() {
        out.elements.insert(("cluster-ips", s.cluster_ip.to_string()), String::new());
    }
    out
}

struct Port<'a> {
    c: &'a Config,
    s: &'a Service,
    port: &'a ServicePort,
    choice: Choice<'a>,
    base: String,
    proto: &'static str,
}

impl Port<'_> {
    fn at(&self, ip: IpAddr) -> String {
        format!("{ip} . {} . {}", self.proto, self.port.port)
    }

    fn write(&self, out: &mut Rules) {
        let any = self.choice.any;
        let internal_ok = any && !(self.s.internal_local && self.choice.local.is_empty());
        let external_ok = any && !(self.s.external_local && self.choice.local.is_empty());
        let no = if any { "drop" } else { "goto reject-chain" };
        let (cluster, local) = (format!("service-{}", self.base), format!("local-{}", self.base));
        let (external, firewall) = (format!("external-{}", self.base), format!("firewall-{}", self.base));
        let internal = if self.s.internal_local { &local } else { &cluster };

        let mut put = |map: &'static str, key: String, value: String| {
            out.elements.insert((map, key), value);
        };
        let vip = self.at(self.s.cluster_ip);
        if internal_ok {
            put("service-ips", vip, format!("goto {internal}"));
        } else {
            put("no-endpoint-services", vip, no.to_owned());
        }
        for ip in self.s.external_ips.iter().chain(&self.s.load_balancer_ips) {
            if any {
                put("service-ips", self.at(*ip), format!("goto {external}"));
            }
            if !external_ok {
                put("no-endpoint-services", self.at(*ip), no.to_owned());
            }
        }
        let firewalled = any && !self.s.load_balancer_ips.is_empty() && !self.s.source_ranges.is_empty();
        if firewalled {
            for ip in &self.s.load_balancer_ips {
                put("firewall-ips", self.at(*ip), format!("goto {firewall}"));
            }
        }
        if self.port.node_port != 0 {
            let key = format!("{} . {}", self.proto, self.port.node_port);
            if any {
                put("service-nodeports", key.clone(), format!("goto {external}"));
            }
            if !external_ok {
                put("no-endpoint-nodeports", key, no.to_owned());
            }
        }
        for e in &self.choice.reachable {
            let key = format!("{0} . {0} . {1} . {2}", e.ip, self.proto, e.port);
            put("hairpin-connections", key, String::new());
        }

        if any && self.s.external(self.port) {
            out.chains.insert(external, self.external_rules(&cluster, &local, external_ok));
        }
        if firewalled {
            let mut allowed: Vec<String> = self.s.source_ranges.iter().map(ToString::to_string).collect();
            let node = self.c.node_ips.iter().any(|i| self.s.source_ranges.iter().any(|r| r.contains(*i)));
            if node {
                allowed.extend(self.s.load_balancer_ips.iter().map(ToString::to_string));
            }
            let rule = format!("{} saddr != {{ {} }} drop", self.c.ip(), allowed.join(", "));
            out.chains.insert(firewall, vec![rule]);
        }
        if !self.choice.cluster.is_empty() {
            out.chains.insert(cluster, self.balance(&self.choice.cluster));
        }
        if !self.choice.local.is_empty() {
            out.chains.insert(local, self.balance(&self.choice.local));
        }
        for e in &self.choice.reachable {
            self.endpoint(e, out);
        }
    }

    fn external_rules(&self, cluster: &str, local: &str, external_ok: bool) -> Vec<String> {
        let mark = mark(self.c);
        if !self.s.external_local {
            return vec![mark, format!("goto {cluster}")];
        }
        let mut rules = Vec::new();
        if let Some(pods) = self.c.detector.nftables(self.c.family, false) {
            rules.push(format!("{pods} goto {cluster} comment \"short-circuit pod traffic\""));
        }
        rules.push(format!("fib saddr type local {mark} comment \"masquerade local traffic\""));
        rules.push(format!("fib saddr type local goto {cluster} comment \"short-circuit local traffic\""));
        if external_ok {
            rules.push(format!("goto {local}"));
        }
        rules
    }

    fn endpoint_name(&self, e: &Endpoint) -> String {
        let address = e.address().replace(':', "/").replace(['[', ']'], "");
        unique(&format!("{}__{address}", self.base))
    }

    fn balance(&self, endpoints: &[&Endpoint]) -> Vec<String> {
        let names: Vec<String> = endpoints.iter().map(|e| self.endpoint_name(e)).collect();
        let mut rules = Vec::new();
        if self.s.sticky.is_some() {
            for n in &names {
                rules.push(format!("{} saddr @affinity-{n} goto endpoint-{n}", self.c.ip()));
            }
        }
        let targets: Vec<String> =
            names.iter().enumerate().map(|(i, n)| format!("{i} : goto endpoint-{n}")).collect();
        rules.push(format!("numgen random mod {} vmap {{ {} }}", names.len(), targets.join(", ")));
        rules
    }

    fn endpoint(&self, e: &Endpoint, out: &mut Rules) {
        let name = self.endpoint_name(e);
        let ip = self.c.ip();
        let mut rules = Vec::new();
        if let Some(seconds) = self.s.sticky {
            rules.push(format!("update @affinity-{name} {{ {ip} saddr }}"));
            out.affinity.insert(format!("affinity-{name}"), seconds);
        }
        rules.push(format!("meta l4proto {} dnat to {}", self.proto, e.address()));
        out.chains.insert(format!("endpoint-{name}"), rules);
    }
}

/// The statement that marks a packet for masquerading.
fn mark(c: &Config) -> String {
    format!("mark set mark or {:#x}", c.mark)
}

/// Base chains: (name, type, hook, priority).
const BASE: &[(&str, &str, &str, &str)] = &[
    ("filter-prerouting-pre-dnat", "filter", "prerouting", "dstnat - 10"),
    ("filter-output-pre-dnat", "filter", "output", "-110"),
    ("filter-input", "filter", "input", "filter"),
    ("filter-forward", "filter", "forward", "filter"),
    ("filter-output", "filter", "output", "filter"),
    ("nat-prerouting", "nat", "prerouting", "dstnat"),
    ("nat-output", "nat", "output", "-100"),
    ("nat-postrouting", "nat", "postrouting", "srcnat"),
];

/// Maps and sets: (name, type with values, comment). `A` stands for the address type.
const MAPS: &[(&str, &str, &str)] = &[
    ("cluster-ips", "A", "Active ClusterIPs"),
    ("nodeport-ips", "A", "IPs that accept NodePort traffic"),
    ("hairpin-connections", "A . A . inet_proto . inet_service", "service hairpin connections"),
    (
        "service-ips",
        "A . inet_proto . inet_service : verdict",
        "ClusterIP, ExternalIP and LoadBalancer IP traffic",
    ),
    ("service-nodeports", "inet_proto . inet_service : verdict", "NodePort traffic"),
    (
        "firewall-ips",
        "A . inet_proto . inet_service : verdict",
        "destinations that are subject to LoadBalancerSourceRanges",
    ),
    (
        "no-endpoint-services",
        "A . inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to services with no endpoints",
    ),
    (
        "no-endpoint-nodeports",
        "inet_proto . inet_service : verdict",
        "vmap to drop or reject packets to service nodeports with no endpoints",
    ),
];

/// The frame of the table: maps, chains and rules that don't depend on services.
#[derive(Debug, Default)]
pub struct Frame {
    /// `{ map | set } NAME { … }` declarations.
    pub maps: Vec<(&'static str, String)>,
    /// Base chains with their hooks.
    pub base: Vec<(&'static str, String)>,
    pub chains: Vec<(&'static str, Vec<String>)>,
    pub elements: Vec<(&'static str, String)>,
}

/// Makes the frame.
#[must_use]
pub fn frame(c: &Config) -> Frame {
    let (ip, address, family) = (c.ip(), c.address_type(), c.family);
    let mut out = Frame::default();
    for (name, kind, comment) in MAPS {
        let noun = if kind.contains(" : ") { "map" } else { "set" };
        let kind = kind.replace('A', address);
        out.maps
            .push((name, format!("{noun} {ip} {TABLE} {name} {{ type {kind} ; comment \"{comment}\" ; }}")));
    }
    for (name, kind, hook, priority) in BASE {
        out.base.push((name, format!("type {kind} hook {hook} priority {priority} ;")));
    }
    let masq = "masquerade fully-random";
    let loopback = if family == Family::V4 { "ip daddr != 127.0.0.0/8" } else { "ip6 daddr != ::1" };
    let node_ports = if c.node_port_ips.is_some() {
        format!("{ip} daddr @nodeport-ips")
    } else {
        format!("fib daddr type local {loopback}")
    };
    let dport = "meta l4proto . th dport";
    let mut services = Vec::new();
    let from = if c.masquerade_all { Some(String::new()) } else { c.detector.nftables(family, true) };
    if let Some(from) = from {
        let sep = if from.is_empty() { "" } else { " " };
        services.push(format!("{ip} daddr @cluster-ips {from}{sep}{}", mark(c)));
    }
    services.push(format!("{ip} daddr . {dport} vmap @service-ips"));
    services.push(format!("{node_ports} {dport} vmap @service-nodeports"));
    let new = "ct state new jump";
    out.chains = vec![
        ("reject-chain", vec!["reject".into()]),
        ("services", services),
        (
            "masquerading",
            vec![
                format!("mark and {0:#x} != 0 mark set mark xor {0:#x} {masq}", c.mark),
                format!("ct status dnat {ip} saddr . {ip} daddr . {dport} @hairpin-connections {masq}"),
            ],
        ),
        (
            "cluster-ips-check",
            vec![format!(
                "{ip} daddr @cluster-ips reject comment \"Reject traffic to invalid ports of ClusterIPs\""
            )],
        ),
        ("service-endpoints-check", vec![format!("{ip} daddr . {dport} vmap @no-endpoint-services")]),
        ("nodeport-endpoints-check", vec![format!("{node_ports} {dport} vmap @no-endpoint-nodeports")]),
        ("firewall-check", vec![format!("{ip} daddr . {dport} vmap @firewall-ips")]),
        ("filter-prerouting-pre-dnat", vec![format!("{new} firewall-check")]),
        ("filter-output-pre-dnat", vec![format!("{new} firewall-check")]),
        (
            "filter-input",
            vec![format!("{new} nodeport-endpoints-check"), format!("{new} service-endpoints-check")],
        ),
        (
            "filter-forward",
            vec![format!("{new} service-endpoints-check"), format!("{new} cluster-ips-check")],
        ),
        ("filter-output", vec![format!("{new} service-endpoints-check"), format!("{new} cluster-ips-check")]),
        ("nat-prerouting", vec!["jump services".into()]),
        ("nat-output", vec!["jump services".into()]),
        ("nat-postrouting", vec!["jump masquerading".into()]),
    ];
    let ips = c.node_port_ips.iter().flatten().filter(|i| !i.is_loopback());
    out.elements = ips.map(|i| ("nodeport-ips", i.to_string())).collect();
    out
}
