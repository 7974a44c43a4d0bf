//! What may be wrong with ingresses, network policies and endpoint slices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use k8s_openapi::api::discovery::v1 as discovery;
use k8s_openapi::api::networking::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of, one_of_if_given};
use crate::kinds::semantic::{items, same, text};
use crate::kinds::validate::{address, invalid_each, numbers, selector, text as rules};

/// What an ingress may have: what the stored one has it may keep.
#[derive(Default)]
pub struct IngressOptions<'a> {
    /// Names of secrets that no secret can have.
    bad_secrets: bool,
    /// Rules that are not looked at because their host has a wildcard.
    bad_wildcard_rules: bool,
    /// Tells whether a path has no type at all, by the pointer to it.
    untyped: Option<&'a dyn Fn(&str) -> bool>,
}

impl<'a> IngressOptions<'a> {
    /// For an ingress that takes the place of `old`; `untyped` tells which paths have no type.
    pub fn new(old: Option<&api::IngressSpec>, untyped: &'a dyn Fn(&str) -> bool) -> Self {
        let bad_secret = |t: &api::IngressTLS| {
            let name = text(&t.secret_name);
            !name.is_empty() && !rules::dns1123_subdomain(name).is_empty()
        };
        let bad_rule = |r: &api::IngressRule| {
            let mut errors = ErrorList::new();
            if text(&r.host).contains('*') {
                rule_value(r, "", &Path::default(), &Self::default(), &mut errors);
            }
            !errors.is_empty()
        };
        Self {
            bad_secrets: old.is_some_and(|s| items(&s.tls).iter().any(bad_secret)),
            bad_wildcard_rules: old.is_some_and(|s| items(&s.rules).iter().any(bad_rule)),
            untyped: Some(untyped),
        }
    }
}

/// Spec of an ingress.
pub fn ingress(s: &api::IngressSpec, options: &IngressOptions<'_>) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let list = items(&s.rules);
    if list.is_empty() && s.default_backend.is_none() {
        let none = s.rules.as_ref().map(|_| [0u8; 0]);
        errors.push(Error::invalid(&path, none, "either `defaultBackend` or `rules` must be specified"));
    }
    if let Some(b) = &s.default_backend {
        backend(b, &path.child("defaultBackend"), &mut errors);
    }
    for (i, r) in list.iter().enumerate() {
        rule(r, i, &path.child("rules").index(i), options, &mut errors);
    }
    for (i, t) in items(&s.tls).iter().enumerate() {
        let at = path.child("tls").index(i);
        for (j, h) in items(&t.hosts).iter().enumerate() {
            host(h, &at.child("hosts").index(j), &mut errors);
        }
        let secret = text(&t.secret_name);
        if !secret.is_empty() && !options.bad_secrets {
            errors.extend(invalid_each(&at.child("secretName"), secret, rules::dns1123_subdomain(secret)));
        }
    }
    if let Some(c) = &s.ingress_class_name {
        errors.extend(invalid_each(&path.child("ingressClassName"), c, rules::dns1123_subdomain(c)));
    }
    errors
}

fn host(h: &str, path: &Path, errors: &mut ErrorList) {
    let wrong =
        if h.contains('*') { rules::wildcard_dns1123_subdomain(h) } else { rules::dns1123_subdomain(h) };
    errors.extend(invalid_each(path, h, wrong));
}

fn rule(r: &api::IngressRule, i: usize, path: &Path, options: &IngressOptions<'_>, errors: &mut ErrorList) {
    let h = text(&r.host);
    if !h.is_empty() {
        let at = path.child("host");
        if address::sloppy_ip(h).is_some() {
            errors.push(Error::invalid(&at, h, "must be a DNS name, not an IP address"));
        }
        host(h, &at, errors);
    }
    if !(h.contains('*') && options.bad_wildcard_rules) {
        rule_value(r, &format!("/spec/rules/{i}"), path, options, errors);
    }
}

fn rule_value(
    r: &api::IngressRule,
    pointer: &str,
    path: &Path,
    options: &IngressOptions<'_>,
    errors: &mut ErrorList,
) {
    let Some(http) = &r.http else { return };
    let at = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.push(Error::required(&at, ""));
    }
    for (i, p) in http.paths.iter().enumerate() {
        let pointer = format!("{pointer}/http/paths/{i}/pathType");
        let untyped = options.untyped.map_or(p.path_type.is_empty(), |absent| absent(&pointer));
        http_path(p, untyped, &at.index(i), errors);
    }
}

fn http_path(p: &api::HTTPIngressPath, untyped: bool, path: &Path, errors: &mut ErrorList) {
    let route = text(&p.path);
    let at = path.child("path");
    if untyped {
        errors.push(Error::required(&path.child("pathType"), "pathType must be specified"));
        return;
    }
    match p.path_type.as_str() {
        "Exact" | "Prefix" => {
            if !route.starts_with('/') {
                errors.push(Error::invalid(&at, route, "must be an absolute path"));
            }
            for bad in ["//", "/./", "/../", "%2f", "%2F"].iter().filter(|b| route.contains(**b)) {
                errors.push(Error::invalid(&at, route, format!("must not contain '{bad}'")));
            }
            for bad in ["/..", "/."].iter().filter(|b| route.ends_with(**b)) {
                errors.push(Error::invalid(&at, route, format!("cannot end with '{bad}'")));
            }
        }
        "ImplementationSpecific" => {
            if !route.is_empty() && !route.starts_with('/') {
                errors.push(Error::invalid(&at, route, "must be an absolute path"));
            }
        }
        other => errors.push(Error::not_supported(
            &path.child("pathType"),
            other,
            &["Exact", "ImplementationSpecific", "Prefix"],
        )),
    }
    backend(&p.backend, &path.child("backend"), errors);
}

fn backend(b: &api::IngressBackend, path: &Path, errors: &mut ErrorList) {
    match (&b.resource, &b.service) {
        (Some(_), Some(_)) => {
            errors.push(Error::invalid(path, "", "cannot set both resource and service backends"));
        }
        (Some(r), None) => {
            let at = path.child("resource");
            if let Some(g) = &r.api_group {
                errors.extend(invalid_each(&at.child("apiGroup"), g, rules::dns1123_subdomain(g)));
            }
            for (field, v) in [("kind", &r.kind), ("name", &r.name)] {
                if v.is_empty() {
                    errors.push(Error::required(&at.child(field), ""));
                } else {
                    errors.extend(invalid_each(&at.child(field), v, rules::path_segment(v, false)));
                }
            }
        }
        (None, Some(s)) => {
            let at = path.child("service").child("name");
            if s.name.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                errors.extend(invalid_each(&at, &s.name, rules::dns1123_label(&s.name)));
            }
            let port = s.port.clone().unwrap_or_default();
            let (name, number) = (text(&port.name), port.number.unwrap_or(0));
            let at = path.child("service").child("port");
            match (name.is_empty(), number) {
                (false, n) if n != 0 => {
                    errors.push(Error::invalid(path, "", "cannot set both port name & port number"));
                }
                (false, _) => {
                    errors.extend(invalid_each(&at.child("name"), name, rules::port_name(name)));
                }
                (true, 0) => errors.push(Error::required(path, "port name or number is required")),
                (true, n) => errors.extend(numbers::port(n, &at.child("number"))),
            }
        }
        (None, None) => {
            errors.push(Error::invalid(path, "", "resource or service backend is required"));
        }
    }
}

/// Spec of an ingress class.
pub fn ingress_class(s: &api::IngressClassSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let controller = text(&s.controller);
    let at = path.child("controller");
    if controller.len() > 250 {
        errors.push(Error::too_long(&at, 250));
    }
    match controller.split_once('/') {
        _ if controller.is_empty() => errors.push(Error::required(&at, "")),
        Some((domain, rest)) if !domain.is_empty() && !rest.is_empty() => {
            errors.extend(invalid_each(&at, domain, rules::dns1123_subdomain(domain)));
        }
        _ => errors.push(Error::invalid(
            &at,
            controller,
            "must be a domain-prefixed path (such as \"acme.io/foo\")",
        )),
    }
    let Some(p) = &s.parameters else { return errors };
    let path = path.child("parameters");
    if let Some(g) = &p.api_group {
        errors.extend(invalid_each(&path.child("apiGroup"), g, rules::dns1123_subdomain(g)));
    }
    for (field, v) in [("kind", &p.kind), ("name", &p.name)] {
        if v.is_empty() {
            errors.push(Error::required(&path.child(field), ""));
        } else {
            errors.extend(invalid_each(&path.child(field), v, rules::path_segment(v, false)));
        }
    }
    match (text(&p.scope), &p.namespace) {
        ("Namespace", None) => {
            errors.push(Error::required(&path.child("namespace"), "`parameters.scope` is set to 'Namespace'"))
        }
        ("Namespace", Some(n)) => {
            errors.extend(invalid_each(&path.child("namespace"), n, rules::dns1123_label(n)));
        }
        ("Cluster", Some(_)) => {
            errors.push(Error::forbidden(&path.child("namespace"), "`parameters.scope` is set to 'Cluster'"))
        }
        ("Cluster", None) => {}
        (other, _) => {
            errors.push(Error::not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]))
        }
    }
    errors
}

/// Load balancers of the status of an ingress. Addresses that the stored one has may stay.
pub fn ingress_status(s: &api::IngressStatus, old: Option<&api::IngressStatus>) -> ErrorList {
    let of = |s: &api::IngressStatus| -> Vec<api::IngressLoadBalancerIngress> {
        s.load_balancer.as_ref().and_then(|b| b.ingress.clone()).unwrap_or_default()
    };
    let kept: Vec<String> = old.map(of).unwrap_or_default().into_iter().filter_map(|i| i.ip).collect();
    let mut errors = ErrorList::new();
    for (i, at) in of(s).iter().enumerate() {
        let path = Path::new("status").child("loadBalancer").child("ingress").index(i);
        let (ip, host) = (text(&at.ip), text(&at.hostname));
        if !ip.is_empty() && !kept.iter().any(|k| k == ip) {
            errors.extend(address::legacy_ip(ip, &path.child("ip")));
        }
        if !host.is_empty() {
            let path = path.child("hostname");
            errors.extend(invalid_each(&path, host, rules::dns1123_subdomain(host)));
            if address::sloppy_ip(host).is_some() {
                errors.push(Error::invalid(&path, host, "must be a DNS name, not an IP address"));
            }
        }
    }
    errors
}

/// Every network that a policy names, with its path.
pub fn policy_networks(s: &api::NetworkPolicySpec) -> Vec<(&str, Path)> {
    let mut out = Vec::new();
    let path = Path::new("spec");
    let ingress = items(&s.ingress).iter().enumerate();
    let egress = items(&s.egress).iter().enumerate();
    let rules = ingress
        .map(|(i, r)| (path.child("ingress").index(i).child("from"), items(&r.from)))
        .chain(egress.map(|(i, r)| (path.child("egress").index(i).child("to"), items(&r.to))));
    for (at, peers) in rules {
        for (j, b) in peers.iter().enumerate().filter_map(|(j, p)| Some((j, p.ip_block.as_ref()?))) {
            let at = at.index(j).child("ipBlock");
            out.push((b.cidr.as_str(), at.child("cidr")));
            for (k, e) in items(&b.except).iter().enumerate() {
                out.push((e, at.child("except").index(k)));
            }
        }
    }
    out
}

/// Spec of a network policy. Networks of `old`, the stored one, may stay as they are.
pub fn network_policy(s: &api::NetworkPolicySpec, old: Option<&api::NetworkPolicySpec>) -> ErrorList {
    let kept: Vec<&str> = old.map(policy_networks).unwrap_or_default().into_iter().map(|(c, _)| c).collect();
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    errors.extend(selector::label_selector(s.pod_selector.as_ref(), &path.child("podSelector")));
    for (i, r) in items(&s.ingress).iter().enumerate() {
        let at = path.child("ingress").index(i);
        ports(items(&r.ports), &at.child("ports"), &mut errors);
        peers(items(&r.from), &kept, &at.child("from"), &mut errors);
    }
    for (i, r) in items(&s.egress).iter().enumerate() {
        let at = path.child("egress").index(i);
        ports(items(&r.ports), &at.child("ports"), &mut errors);
        peers(items(&r.to), &kept, &at.child("to"), &mut errors);
    }
    let types = items(&s.policy_types);
    let at = path.child("policyTypes");
    if types.len() > 2 {
        errors.push(Error::invalid(&at, types, "may not specify more than two policyTypes"));
        return errors;
    }
    for (i, t) in types.iter().enumerate() {
        if !["Ingress", "Egress"].contains(&t.as_str()) {
            errors.push(Error::not_supported(&at.index(i), t, &["Ingress", "Egress"]));
        }
    }
    errors
}

fn ports(list: &[api::NetworkPolicyPort], path: &Path, errors: &mut ErrorList) {
    for (i, p) in list.iter().enumerate() {
        let path = path.index(i);
        if let Some(protocol) = &p.protocol
            && !["TCP", "UDP", "SCTP"].contains(&protocol.as_str())
        {
            errors.push(Error::not_supported(&path.child("protocol"), protocol, &["TCP", "UDP", "SCTP"]));
        }
        let end = path.child("endPort");
        match (&p.port, p.end_port) {
            (Some(IntOrString::Int(n)), last) => {
                errors.extend(numbers::port(*n, &path.child("port")));
                if let Some(last) = last {
                    if last < *n {
                        errors.push(Error::invalid(&end, n, "must be greater than or equal to `port`"));
                    }
                    errors.extend(numbers::port(last, &end));
                }
            }
            (Some(IntOrString::String(name)), last) => {
                if let Some(last) = last {
                    errors.push(Error::invalid(
                        &end,
                        last,
                        "may not be specified when `port` is non-numeric",
                    ));
                }
                errors.extend(invalid_each(&path.child("port"), name, rules::port_name(name)));
            }
            (None, Some(last)) => {
                errors.push(Error::invalid(&end, last, "may not be specified when `port` is not specified"))
            }
            (None, None) => {}
        }
    }
}

fn peers(list: &[api::NetworkPolicyPeer], kept: &[&str], path: &Path, errors: &mut ErrorList) {
    for (i, p) in list.iter().enumerate() {
        let path = path.index(i);
        errors.extend(selector::label_selector(p.pod_selector.as_ref(), &path.child("podSelector")));
        errors.extend(selector::label_selector(
            p.namespace_selector.as_ref(),
            &path.child("namespaceSelector"),
        ));
        let others = p.pod_selector.is_some() || p.namespace_selector.is_some();
        match &p.ip_block {
            Some(b) => {
                ip_block(b, kept, &path.child("ipBlock"), errors);
                if others {
                    errors.push(Error::forbidden(&path, "may not specify both ipBlock and another peer"));
                }
            }
            None if !others => errors.push(Error::required(&path, "must specify a peer")),
            None => {}
        }
    }
}

/// True if the network `inner` is inside `outer` and smaller.
fn strictly_inside(inner: (IpAddr, u8), outer: (IpAddr, u8)) -> bool {
    let bits = |a: IpAddr| match a {
        IpAddr::V4(v) => (u128::from(u32::from(v)) << 96, true),
        IpAddr::V6(v) => (u128::from(v), false),
    };
    let ((a, a4), (b, b4)) = (bits(inner.0), bits(outer.0));
    let mask = if outer.1 == 0 { 0 } else { u128::MAX << (128 - u32::from(outer.1)) };
    a4 == b4 && inner.1 > outer.1 && (a & mask) == (b & mask)
}

fn ip_block(b: &api::IPBlock, kept: &[&str], path: &Path, errors: &mut ErrorList) {
    let at = path.child("cidr");
    if b.cidr.is_empty() {
        errors.push(Error::required(&at, ""));
        return;
    }
    errors.extend(address::legacy_cidr(&b.cidr, kept, &at));
    let Some(outer) = address::sloppy_cidr(&b.cidr) else { return };
    for (i, e) in items(&b.except).iter().enumerate() {
        let at = path.child("except").index(i);
        errors.extend(address::legacy_cidr(e, kept, &at));
        if address::sloppy_cidr(e).is_some_and(|inner| !strictly_inside(inner, outer)) {
            errors.push(Error::invalid(&at, e, "must be a strict subset of `cidr`"));
        }
    }
}

/// Addresses, ports and type of an endpoint slice. Endpoints that are stored as they are (in `old`) are not judged
/// again.
pub fn endpoint_slice(s: &discovery::EndpointSlice, old: Option<&discovery::EndpointSlice>) -> ErrorList {
    let mut errors = ErrorList::new();
    one_of(&s.address_type, &["FQDN", "IPv4", "IPv6"], &Path::new("addressType"), &mut errors);
    slice_ports(items(&s.ports), &Path::new("ports"), &mut errors);
    if old.is_some_and(|o| same(&o.endpoints, &s.endpoints)) {
        return errors;
    }
    let path = Path::new("endpoints");
    let list = items(&s.endpoints);
    if list.len() > 1000 {
        errors.push(Error::too_many(&path, list.len(), 1000));
        return errors;
    }
    for (i, e) in list.iter().enumerate() {
        endpoint(e, &s.address_type, &path.index(i), &mut errors);
    }
    errors
}

fn slice_ports(list: &[discovery::EndpointPort], path: &Path, errors: &mut ErrorList) {
    if list.len() > 20_000 {
        errors.push(Error::too_many(path, list.len(), 20_000));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        let path = path.index(i);
        let name = text(&p.name);
        if !name.is_empty() {
            errors.extend(invalid_each(&path.child("name"), name, rules::dns1123_label(name)));
        }
        if !names.insert(name) {
            errors.push(Error::duplicate(&path.child("name"), name));
        }
        one_of_if_given(&p.protocol, &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
        if let Some(a) = &p.app_protocol {
            errors.extend(invalid_each(&path.child("appProtocol"), a, rules::qualified_name(a)));
        }
    }
}

fn endpoint(e: &discovery::Endpoint, kind: &str, path: &Path, errors: &mut ErrorList) {
    let at = path.child("addresses");
    if e.addresses.is_empty() {
        errors.push(Error::required(&at, "must contain at least 1 address"));
    } else if e.addresses.len() > 100 {
        errors.push(Error::too_many(&at, e.addresses.len(), 100));
    }
    for (i, a) in e.addresses.iter().enumerate() {
        if kind == "FQDN" {
            let name = a.strip_suffix('.').unwrap_or(a);
            errors.extend(invalid_each(&at.index(i), a, rules::dns1123_subdomain(name)));
            continue;
        }
        let (wrong, ours): (_, fn(IpAddr) -> bool) = match kind {
            "IPv4" => (address::legacy_ip(a, &at.index(i)), |ip| ip.is_ipv4()),
            "IPv6" => (address::ip(a, &at.index(i)), |ip| ip.is_ipv6()),
            // What is no known type is told once.
            _ => continue,
        };
        if wrong.is_empty() {
            if !address::sloppy_ip(a).is_some_and(ours) {
                errors.push(Error::invalid(&at, a, format!("must be an {kind} address")));
            }
            endpoint_address(a, &at.index(i), errors);
        }
        errors.extend(wrong);
    }
    if let Some(n) = &e.node_name {
        errors.extend(invalid_each(&path.child("nodeName"), n, rules::dns1123_subdomain(n)));
    }
    let topology = e.deprecated_topology.as_ref();
    let at = path.child("deprecatedTopology");
    if let Some(t) = topology.filter(|t| t.len() > TOPOLOGY_LABELS) {
        errors.push(Error::too_many(&at, t.len(), TOPOLOGY_LABELS));
    }
    errors.extend(selector::labels(topology, &at));
    if let Some(h) = &e.hostname {
        errors.extend(invalid_each(&path.child("hostname"), h, rules::dns1123_label(h)));
    }
    let Some(h) = &e.hints else { return };
    let path = path.child("hints");
    let zones: Vec<&str> = items(&h.for_zones).iter().map(|z| z.name.as_str()).collect();
    if hints(&zones, rules::label_value, &path.child("forZones"), errors) {
        let nodes: Vec<&str> = items(&h.for_nodes).iter().map(|n| n.name.as_str()).collect();
        hints(&nodes, rules::dns1123_subdomain, &path.child("forNodes"), errors);
    }
}

/// Labels that the topology of an endpoint may have.
const TOPOLOGY_LABELS: usize = 16;
/// Hints of each sort that an endpoint may have.
const HINTS: usize = 8;

/// For whom an endpoint is meant. False where there are too many.
fn hints(names: &[&str], rule: fn(&str) -> Vec<String>, path: &Path, errors: &mut ErrorList) -> bool {
    if names.len() > HINTS {
        errors.push(Error::too_many(path, names.len(), HINTS));
        return false;
    }
    let mut seen = BTreeSet::new();
    for (i, name) in names.iter().enumerate() {
        let at = path.index(i).child("name");
        if !seen.insert(name) {
            errors.push(Error::duplicate(&at, name));
        }
        errors.extend(invalid_each(&at, name, rule(name)));
    }
    true
}

/// Addresses of the machine itself, of its links and of groups are no endpoints.
pub fn endpoint_address(a: &str, path: &Path, errors: &mut ErrorList) {
    let Some(ip) = address::sloppy_ip(a) else { return };
    let (link, group) = match ip {
        IpAddr::V4(v) => (v.is_link_local(), v.octets()[0] == 224 && v.octets()[1..3] == [0, 0]),
        IpAddr::V6(v) => (v.is_unicast_link_local(), v.segments()[0] == 0xff02),
    };
    for (wrong, why) in [
        (ip.is_unspecified(), format!("may not be unspecified ({a})")),
        (ip.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
        (group, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".to_owned()),
    ] {
        if wrong {
            errors.push(Error::invalid(path, a, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_lie_inside() {
        let p = |s| address::sloppy_cidr(s).unwrap();
        assert!(strictly_inside(p("10.1.0.0/16"), p("10.0.0.0/8")));
        assert!(!strictly_inside(p("10.0.0.0/8"), p("10.0.0.0/8")));
        assert!(!strictly_inside(p("11.0.0.0/16"), p("10.0.0.0/8")));
        assert!(strictly_inside(p("2001:db8::/64"), p("::/0")));
    }
}
