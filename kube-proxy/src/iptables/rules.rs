//! The rules of a service, and the rules around them. Pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::names::{self, ServiceChains};
use crate::model::topology::{Choice, choose};
use crate::model::{Endpoint, Family, Here, LocalDetector, Service, ServiceName, ServicePort, port_name};

/// The two tables in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Table {
    Filter,
    Nat,
}

impl Table {
    /// As the tools name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }
}

/// What of the node and the configuration the rules depend on.
#[derive(Clone, Debug)]
pub struct Config {
    pub family: Family,
    pub here: Here,
    pub masquerade_all: bool,
    /// The mark of packets to masquerade.
    pub mark: u32,
    pub detector: LocalDetector,
    /// Addresses that node ports are served on; `None` for all local addresses.
    pub node_port_ips: Option<Vec<IpAddr>>,
    pub localhost_node_ports: bool,
    pub random_fully: bool,
    /// TCP packets out of window are let through.
    pub tcp_be_liberal: bool,
    pub node_ips: Vec<IpAddr>,
}

/// Rules of one service: in chains that many services share, and in chains of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// (table, chain, rule without `-A CHAIN`); the order among services does not matter.
    pub shared: Vec<(Table, &'static str, String)>,
    /// Own chains of the nat table with their rules in order.
    pub chains: BTreeMap<String, Vec<String>>,
}

impl Rules {
    fn share(&mut self, table: Table, chain: &'static str, rule: String) {
        self.shared.push((table, chain, rule));
    }

    /// How many rules there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.len() + self.chains.values().map(Vec::len).sum::<usize>()
    }

    /// True without any rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The rules of a service. `endpoints` gives those of a port.
pub fn service(
    c: &Config,
    name: &ServiceName,
    s: &Service,
    endpoints: impl Fn(&ServicePort) -> Vec<Endpoint>,
) -> Rules {
    let mut out = Rules::default();
    for port in &s.ports {
        let all = endpoints(port);
        PortRules::new(c, name, s, port, choose(&all, s, port, &c.here)).write(&mut out);
    }
    if s.health_check_node_port != 0 {
        out.share(
            Table::Filter,
            names::NODE_PORTS,
            format!(
                "-m comment --comment \"{name} health check node port\" -m tcp -p tcp --dport {} -j ACCEPT",
                s.health_check_node_port
            ),
        );
    }
    out
}

struct PortRules<'a> {
    c: &'a Config,
    s: &'a Service,
    port: &'a ServicePort,
    choice: Choice<'a>,
    /// `namespace/name:port`.
    label: String,
    proto: &'static str,
    chains: ServiceChains,
}

impl<'a> PortRules<'a> {
    fn new(
        c: &'a Config,
        name: &ServiceName,
        s: &'a Service,
        port: &'a ServicePort,
        choice: Choice<'a>,
    ) -> Self {
        let label = port_name(name, port);
        let proto = port.protocol.lower();
        Self { c, s, port, choice, proto, chains: ServiceChains::new(&label, proto), label }
    }

    fn comment(&self, text: &str) -> String {
        format!("-m comment --comment \"{}{text}\"", self.label)
    }

    fn to(&self, ip: IpAddr) -> String {
        format!("-m {0} -p {0} -d {ip} --dport {1}", self.proto, self.port.port)
    }

    fn write(&self, out: &mut Rules) {
        let any = self.choice.any;
        let internal_ok = any && !(self.s.internal_local && self.choice.local.is_empty());
        let external_ok = any && !(self.s.external_local && self.choice.local.is_empty());
        let firewalled = any && !self.s.load_balancer_ips.is_empty() && !self.s.source_ranges.is_empty();
        // Without any endpoint callers are told at once; without a local one they are left to try elsewhere.
        let (target, why) =
            if any { ("DROP", " has no local endpoints") } else { ("REJECT", " has no endpoints") };

        let internal = if self.s.internal_local { &self.chains.local } else { &self.chains.cluster };
        let vip = self.to(self.s.cluster_ip);
        if internal_ok {
            let rule = format!("{} {vip} -j {internal}", self.comment(" cluster IP"));
            out.share(Table::Nat, names::SERVICES, rule);
        } else {
            let rule = format!("{} {vip} -j {target}", self.comment(why));
            out.share(Table::Filter, names::SERVICES, rule);
        }
        let lb_chain = if firewalled { &self.chains.firewall } else { &self.chains.external };
        let external = self.s.external_ips.iter().map(|ip| (ip, " external IP", &self.chains.external));
        let load_balancer = self.s.load_balancer_ips.iter().map(|ip| (ip, " loadbalancer IP", lb_chain));
        for (ip, what, chain) in external.chain(load_balancer) {
            let to = self.to(*ip);
            if any {
                let rule = format!("{} {to} -j {chain}", self.comment(what));
                out.share(Table::Nat, names::SERVICES, rule);
            }
            if !external_ok {
                let rule = format!("{} {to} -j {target}", self.comment(why));
                out.share(Table::Filter, names::EXTERNAL_SERVICES, rule);
            }
        }
        if firewalled {
            for ip in &self.s.load_balancer_ips {
                let text = format!(" traffic not accepted by {}", self.chains.firewall);
                let rule = format!("{} {} -j DROP", self.comment(&text), self.to(*ip));
                out.share(Table::Filter, names::PROXY_FIREWALL, rule);
            }
        }
        if self.port.node_port != 0 {
            let to = format!("-m {0} -p {0} --dport {1}", self.proto, self.port.node_port);
            if any {
                let rule = format!("{} {to} -j {}", self.comment(""), self.chains.external);
                out.share(Table::Nat, names::NODE_PORTS, rule);
            }
            if !external_ok {
                let local = "-m addrtype --dst-type LOCAL";
                let rule = format!("{} {local} {to} -j {target}", self.comment(why));
                out.share(Table::Filter, names::EXTERNAL_SERVICES, rule);
            }
        }
        self.own_chains(out, internal_ok, external_ok, firewalled);
    }

    fn own_chains(&self, out: &mut Rules, internal_ok: bool, external_ok: bool, firewalled: bool) {
        let family = self.c.family;
        let mut cluster: Vec<String> = Vec::new();
        let mut local: Vec<String> = Vec::new();
        if internal_ok {
            let filter = if self.c.masquerade_all {
                Some(String::new())
            } else {
                self.c.detector.iptables(family, true).map(|d| format!("{d} "))
            };
            if let Some(f) = filter {
                let rule = format!(
                    "{} {} {f}-j {}",
                    self.comment(" cluster IP"),
                    self.to(self.s.cluster_ip),
                    names::MARK_MASQ
                );
                if self.s.internal_local { local.push(rule) } else { cluster.push(rule) }
            }
        }
        if self.choice.any && self.s.external(self.port) {
            out.chains.insert(self.chains.external.clone(), self.external_chain(external_ok));
        }
        if firewalled {
            out.chains.insert(self.chains.firewall.clone(), self.firewall_chain());
        }
        if !self.choice.cluster.is_empty() {
            self.balance(&self.choice.cluster, &mut cluster);
            out.chains.insert(self.chains.cluster.clone(), cluster);
        }
        if !self.choice.local.is_empty() {
            self.balance(&self.choice.local, &mut local);
            out.chains.insert(self.chains.local.clone(), local);
        }
        for e in &self.choice.reachable {
            let (name, rules) = self.endpoint(e);
            out.chains.insert(name, rules);
        }
    }

    fn external_chain(&self, external_ok: bool) -> Vec<String> {
        let mut rules = Vec::new();
        if self.s.external_local {
            if let Some(from_pod) = self.c.detector.iptables(self.c.family, false) {
                let text = format!("pod traffic for {} external destinations", self.label);
                rules.push(format!("-m comment --comment \"{text}\" {from_pod} -j {}", self.chains.cluster));
            }
            for (verb, chain) in [("masquerade", names::MARK_MASQ), ("route", &self.chains.cluster)] {
                let text = format!("{verb} LOCAL traffic for {} external destinations", self.label);
                rules
                    .push(format!("-m comment --comment \"{text}\" -m addrtype --src-type LOCAL -j {chain}"));
            }
        } else {
            let text = format!("masquerade traffic for {} external destinations", self.label);
            rules.push(format!("-m comment --comment \"{text}\" -j {}", names::MARK_MASQ));
        }
        if external_ok {
            let chain = if self.s.external_local { &self.chains.local } else { &self.chains.cluster };
            rules.push(format!("-j {chain}"));
        }
        rules
    }

    fn firewall_chain(&self) -> Vec<String> {
        let comment = self.comment(" loadbalancer IP");
        let mut rules: Vec<String> = self
            .s
            .source_ranges
            .iter()
            .map(|r| format!("{comment} -s {r} -j {}", self.chains.external))
            .collect();
        // The node's own traffic may come from the load balancer address when that is on the node.
        let node_allowed =
            self.c.node_ips.iter().any(|ip| self.s.source_ranges.iter().any(|r| r.contains(*ip)));
        if node_allowed {
            for ip in &self.s.load_balancer_ips {
                rules.push(format!("{comment} -s {ip} -j {}", self.chains.external));
            }
        }
        let text = format!("other traffic to {} will be dropped by {}", self.label, names::PROXY_FIREWALL);
        rules.push(format!("-m comment --comment \"{text}\""));
        rules
    }

    /// Rules that spread traffic over endpoints: first whoever served the client last, then by chance.
    fn balance(&self, endpoints: &[&Endpoint], rules: &mut Vec<String>) {
        let named: Vec<(String, String)> = endpoints
            .iter()
            .map(|e| {
                let address = e.address();
                let comment = self.comment(&format!(" -> {address}"));
                (comment, names::endpoint_chain(&self.label, self.proto, &address))
            })
            .collect();
        if let Some(seconds) = self.s.sticky {
            for (comment, chain) in &named {
                rules.push(format!(
                    "{comment} -m recent --name {chain} --rcheck --seconds {seconds} --reap -j {chain}"
                ));
            }
        }
        for (i, (comment, chain)) in named.iter().enumerate() {
            let left = named.len() - i;
            let chance = if left > 1 {
                format!(" -m statistic --mode random --probability {:.10}", 1.0 / left as f64)
            } else {
                String::new()
            };
            rules.push(format!("{comment}{chance} -j {chain}"));
        }
    }

    fn endpoint(&self, e: &Endpoint) -> (String, Vec<String>) {
        let address = e.address();
        let chain = names::endpoint_chain(&self.label, self.proto, &address);
        let comment = self.comment("");
        let remember =
            if self.s.sticky.is_some() { format!(" -m recent --name {chain} --set") } else { String::new() };
        let rules = vec![
            // An endpoint that calls its own service must see the reply come from somewhere else.
            format!("{comment} -s {} -j {}", e.ip, names::MARK_MASQ),
            format!("{comment}{remember} -m {0} -p {0} -j DNAT --to-destination {address}", self.proto),
        ];
        (chain, rules)
    }
}

/// Chains that are always there, with the rules of no service: (table, chain, rules).
#[must_use]
pub fn fixed(c: &Config) -> Vec<(Table, &'static str, Vec<String>)> {
    let mark = c.mark;
    let fully = if c.random_fully { " --random-fully" } else { "" };
    let mut forward = Vec::new();
    if !c.tcp_be_liberal {
        // Packets of unknown state would be passed on without NAT and make the peer reset the connection.
        forward.push("-m conntrack --ctstate INVALID -j DROP".to_owned());
    }
    forward.push(format!(
        "-m comment --comment \"kubernetes forwarding rules\" -m mark --mark {mark:#x}/{mark:#x} -j ACCEPT"
    ));
    forward.push(
        "-m comment --comment \"kubernetes forwarding conntrack rule\" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"
            .to_owned(),
    );
    let mut out = vec![
        (Table::Filter, names::SERVICES, vec![]),
        (Table::Filter, names::EXTERNAL_SERVICES, vec![]),
        (Table::Filter, names::FORWARD, forward),
        (Table::Filter, names::NODE_PORTS, vec![]),
        (Table::Filter, names::PROXY_FIREWALL, vec![]),
        (Table::Nat, names::SERVICES, node_port_jumps(c)),
        (Table::Nat, names::NODE_PORTS, vec![]),
        (
            Table::Nat,
            names::POSTROUTING,
            vec![
                format!("-m mark ! --mark {mark:#x}/{mark:#x} -j RETURN"),
                // The mark goes, lest the packet be masqueraded again on another pass.
                format!("-j MARK --xor-mark {mark:#x}"),
                format!(
                    "-m comment --comment \"kubernetes service traffic requiring SNAT\" -j MASQUERADE{fully}"
                ),
            ],
        ),
        (Table::Nat, names::MARK_MASQ, vec![format!("-j MARK --or-mark {mark:#x}")]),
    ];
    if c.family == Family::V4 && c.localhost_node_ports {
        out.push((
            Table::Filter,
            names::KUBELET_FIREWALL,
            vec![
                "-m comment --comment \"block incoming localnet connections\" -d 127.0.0.0/8 ! -s 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
                    .to_owned(),
            ],
        ));
    }
    out
}

/// The last rules of the services chain: what is for a node port.
fn node_port_jumps(c: &Config) -> Vec<String> {
    const NOTE: &str = "-m comment --comment \"kubernetes service nodeports; NOTE: this must be the last rule in this chain\"";
    let Some(ips) = &c.node_port_ips else {
        let not_loopback = match (c.family, c.localhost_node_ports) {
            (Family::V6, _) => " ! -d ::1/128",
            (Family::V4, false) => " ! -d 127.0.0.0/8",
            (Family::V4, true) => "",
        };
        return vec![format!("{NOTE} -m addrtype --dst-type LOCAL{not_loopback} -j {}", names::NODE_PORTS)];
    };
    ips.iter()
        .filter(|ip| !ip.is_loopback() || (c.family == Family::V4 && c.localhost_node_ports))
        .map(|ip| format!("{NOTE} -d {ip} -j {}", names::NODE_PORTS))
        .collect()
}

/// Rules in the kernel's own chains that lead to ours: (table, from, to, match arguments, comment).
pub const JUMPS: &[(Table, &str, &str, &str, &str)] = &[
    (
        Table::Filter,
        "INPUT",
        names::EXTERNAL_SERVICES,
        "-m conntrack --ctstate NEW",
        "kubernetes externally-visible service portals",
    ),
    (
        Table::Filter,
        "FORWARD",
        names::EXTERNAL_SERVICES,
        "-m conntrack --ctstate NEW",
        "kubernetes externally-visible service portals",
    ),
    (Table::Filter, "INPUT", names::NODE_PORTS, "", "kubernetes health check service ports"),
    (Table::Filter, "FORWARD", names::SERVICES, "-m conntrack --ctstate NEW", "kubernetes service portals"),
    (Table::Filter, "OUTPUT", names::SERVICES, "-m conntrack --ctstate NEW", "kubernetes service portals"),
    (Table::Filter, "FORWARD", names::FORWARD, "", "kubernetes forwarding rules"),
    (
        Table::Filter,
        "INPUT",
        names::PROXY_FIREWALL,
        "-m conntrack --ctstate NEW",
        "kubernetes load balancer firewall",
    ),
    (
        Table::Filter,
        "OUTPUT",
        names::PROXY_FIREWALL,
        "-m conntrack --ctstate NEW",
        "kubernetes load balancer firewall",
    ),
    (
        Table::Filter,
        "FORWARD",
        names::PROXY_FIREWALL,
        "-m conntrack --ctstate NEW",
        "kubernetes load balancer firewall",
    ),
    (Table::Nat, "OUTPUT", names::SERVICES, "", "kubernetes service portals"),
    (Table::Nat, "PREROUTING", names::SERVICES, "", "kubernetes service portals"),
    (Table::Nat, "POSTROUTING", names::POSTROUTING, "", "kubernetes postrouting rules"),
];

/// The same for the chain shared with the kubelet, which is left in place by a clean-up.
pub const KUBELET_JUMPS: &[(Table, &str, &str, &str, &str)] = &[
    (Table::Filter, "INPUT", names::KUBELET_FIREWALL, "", ""),
    (Table::Filter, "OUTPUT", names::KUBELET_FIREWALL, "", ""),
];
