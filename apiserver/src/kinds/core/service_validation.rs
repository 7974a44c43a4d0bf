//! What may be wrong with a service.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::service::{is_external, is_headless, needs_cluster_ip, needs_health_check_node_port};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::{one_of, one_of_if_given};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, numbers, selector, text as rules};

const PROTOCOLS: [&str; 3] = ["SCTP", "TCP", "UDP"];

/// Everything wrong with the spec, in upstream's order.
pub fn validate(svc: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let blank = ServiceSpec::default();
    let s = svc.spec.as_ref().unwrap_or(&blank);
    let path = Path::new("spec");
    let headless = is_headless(s);
    let kind = text(&s.type_);
    if items(&s.ports).is_empty() && !headless && kind != "ExternalName" {
        errors.push(Error::required(&path.child("ports"), ""));
    }
    by_type(s, kind, headless, &path, &mut errors);
    ports(items(&s.ports), &path.child("ports"), &mut errors);
    errors.extend(selector::labels(s.selector.as_ref(), &path.child("selector")));
    affinity(s, &path, &mut errors);
    if kind != "ExternalName" {
        cluster_ips(s, headless, &path, &mut errors);
    }
    for (i, ip) in items(&s.external_ips).iter().enumerate() {
        let at = path.child("externalIPs").index(i);
        let wrong = rules::ip(ip);
        if wrong.is_empty() {
            public_address(ip, &at, &mut errors);
        } else {
            errors.extend(invalid_each(&at, ip, wrong));
        }
    }
    one_of(
        kind,
        &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"],
        &path.child("type"),
        &mut errors,
    );
    node_ports(s, kind, &path.child("ports"), &mut errors);
    source_ranges(s, kind, &path, &mut errors);
    balancer(s, kind, &path, &mut errors);
    traffic(s, &path, &mut errors);
    errors
}

fn by_type(s: &ServiceSpec, kind: &str, headless: bool, path: &Path, errors: &mut ErrorList) {
    let none_forbidden = |errors: &mut ErrorList| {
        if headless {
            let at = path.child("clusterIPs").index(0);
            let why = format!("may not be set to 'None' for {kind} services");
            errors.push(Error::invalid(&at, items(&s.cluster_ips).first(), why));
        }
    };
    match kind {
        "LoadBalancer" | "NodePort" => none_forbidden(errors),
        "ExternalName" => {
            for (field, given) in [
                ("clusterIPs", !items(&s.cluster_ips).is_empty()),
                ("ipFamilies", !items(&s.ip_families).is_empty()),
                ("ipFamilyPolicy", s.ip_family_policy.is_some()),
            ] {
                if given {
                    errors.push(Error::forbidden(
                        &path.child(field),
                        "may not be set for ExternalName services",
                    ));
                }
            }
            let name = text(&s.external_name);
            let at = path.child("externalName");
            let bare = name.strip_suffix('.').unwrap_or(name);
            if bare.is_empty() {
                errors.push(Error::required(&at, ""));
            } else {
                errors.extend(invalid_each(&at, bare, rules::dns1123_subdomain(bare)));
            }
        }
        _ => {}
    }
}

fn ports(list: &[ServicePort], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        let path = path.index(i);
        let name = text(&p.name);
        let at = path.child("name");
        if name.is_empty() {
            if list.len() > 1 {
                errors.push(Error::required(&at, ""));
            }
        } else {
            errors.extend(invalid_each(&at, name, rules::dns1123_label(name)));
            if !names.insert(name) {
                errors.push(Error::duplicate(&at, name));
            }
        }
        errors.extend(numbers::port(p.port, &path.child("port")));
        one_of(text(&p.protocol), &PROTOCOLS, &path.child("protocol"), errors);
        let target = p.target_port.clone().unwrap_or(IntOrString::Int(p.port));
        errors.extend(numbers::port_or_name(&target, &path.child("targetPort")));
        if let Some(a) = &p.app_protocol {
            errors.extend(invalid_each(&path.child("appProtocol"), a, rules::qualified_name(a)));
        }
    }
}

fn affinity(s: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let kind = text(&s.session_affinity);
    one_of(kind, &["ClientIP", "None"], &path.child("sessionAffinity"), errors);
    let at = path.child("sessionAffinityConfig");
    match (kind, &s.session_affinity_config) {
        ("ClientIP", Some(c)) => {
            let seconds = c.client_ip.as_ref().and_then(|c| c.timeout_seconds);
            let at = at.child("clientIP");
            match (&c.client_ip, seconds) {
                (None, _) => errors.push(Error::required(&at, "when session affinity type is ClientIP")),
                (_, None) => errors.push(Error::required(
                    &at.child("timeoutSeconds"),
                    "when session affinity type is ClientIP",
                )),
                (_, Some(n)) if !(1..=86_400).contains(&n) => {
                    errors.push(Error::invalid(
                        &at.child("timeoutSeconds"),
                        n,
                        "must be greater than 0 and less than 86400",
                    ));
                }
                _ => {}
            }
        }
        ("ClientIP", None) => {
            errors.push(Error::required(&at, "when session affinity type is ClientIP"));
        }
        ("None", Some(_)) => {
            errors.push(Error::forbidden(&at, "must not be set when session affinity is None"));
        }
        _ => {}
    }
}

fn cluster_ips(s: &ServiceSpec, headless: bool, path: &Path, errors: &mut ErrorList) {
    let at = path.child("clusterIPs");
    let (one, list) = (text(&s.cluster_ip), items(&s.cluster_ips));
    if one.is_empty() {
        if !list.is_empty() {
            errors.push(Error::invalid(&at, list, "must be empty when `clusterIP` is not specified"));
        }
    } else if list.is_empty() {
        errors.push(Error::required(&at, ""));
    } else if list[0] != one {
        errors.push(Error::invalid(&at, list, "first value must match `clusterIP`"));
    }
    let mut seen = BTreeSet::new();
    for (i, f) in items(&s.ip_families).iter().enumerate() {
        let at = path.child("ipFamilies").index(i);
        if !["IPv4", "IPv6"].contains(&f.as_str()) {
            errors.push(Error::not_supported(&at, f, &["IPv4", "IPv6"]));
        }
        if !seen.insert(f) {
            errors.push(Error::duplicate(&at, f));
        }
    }
    one_of_if_given(
        &s.ip_family_policy,
        &["PreferDualStack", "RequireDualStack", "SingleStack"],
        &path.child("ipFamilyPolicy"),
        errors,
    );
    let mut bad = false;
    for (i, ip) in list.iter().enumerate() {
        if i == 0 && ip == "None" {
            if list.len() > 1 {
                bad = true;
                errors.push(Error::invalid(&at, list, "'None' must be the first and only value"));
            }
            continue;
        }
        let wrong = rules::ip(ip);
        bad |= !wrong.is_empty();
        errors.extend(invalid_each(&at.index(i), ip, wrong));
    }
    if list.len() > 2 {
        errors.push(Error::invalid(&at, list, "may only hold up to 2 values"));
    }
    if bad {
        return;
    }
    let is_v6 = |ip: &str| ip.contains(':');
    if list.len() > 1 && list.iter().all(|ip| is_v6(ip) == is_v6(&list[0])) {
        errors.push(Error::invalid(&at, list, "may specify no more than one IP for each IP family"));
    }
    if headless {
        return;
    }
    for (i, (ip, family)) in list.iter().zip(items(&s.ip_families)).enumerate() {
        if (family == "IPv4" && is_v6(ip)) || (family == "IPv6" && !is_v6(ip)) {
            let why = format!("expected an {family} value as indicated by `ipFamilies[{i}]`");
            errors.push(Error::invalid(&at.index(i), ip, why));
        }
    }
}

/// Addresses that mean the machine itself or a group are no external addresses.
fn public_address(ip: &str, path: &Path, errors: &mut ErrorList) {
    let Ok(a) = ip.parse::<std::net::IpAddr>() else { return };
    let link_local = match a {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    for (wrong, why) in [
        (a.is_unspecified(), format!("may not be unspecified ({a})")),
        (a.is_loopback(), "may not be in the loopback range (127.0.0.0/8, ::1/128)".to_owned()),
        (link_local, "may not be in the link-local range (169.254.0.0/16, fe80::/10)".to_owned()),
    ] {
        if wrong {
            errors.push(Error::invalid(path, ip, why));
        }
    }
}

fn node_ports(s: &ServiceSpec, kind: &str, path: &Path, errors: &mut ErrorList) {
    let list = items(&s.ports);
    let node = |p: &ServicePort| p.node_port.unwrap_or(0);
    if kind == "ClusterIP" {
        for (i, p) in list.iter().enumerate().filter(|(_, p)| node(p) != 0) {
            let _ = p;
            errors.push(Error::forbidden(
                &path.index(i).child("nodePort"),
                "may not be used when `type` is 'ClusterIP'",
            ));
        }
    }
    let mut taken = BTreeSet::new();
    for (i, p) in list.iter().enumerate().filter(|(_, p)| node(p) != 0) {
        if !taken.insert((text(&p.protocol), node(p))) {
            errors.push(Error::duplicate(&path.index(i).child("nodePort"), node(p)));
        }
    }
    let mut seen = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        if !seen.insert((text(&p.protocol), p.port)) {
            // Upstream shows its internal form of the port here, with only protocol and number set.
            let mut e = Error::duplicate(&path.index(i), "");
            e.value = format!(
                "{{\"Name\":\"\",\"Protocol\":{:?},\"AppProtocol\":null,\"Port\":{},\"TargetPort\":0,\"NodePort\":0}}",
                text(&p.protocol),
                p.port
            );
            errors.push(e);
        }
    }
}

fn source_ranges(s: &ServiceSpec, kind: &str, path: &Path, errors: &mut ErrorList) {
    let list = items(&s.load_balancer_source_ranges);
    if list.is_empty() {
        return;
    }
    let at = path.child("LoadBalancerSourceRanges");
    if kind != "LoadBalancer" {
        errors.push(Error::forbidden(&at, "may only be used when `type` is 'LoadBalancer'"));
    }
    for (i, r) in list.iter().enumerate() {
        // Spaces around it are let pass, and not shown.
        errors.extend(invalid_each(&at.index(i), r.trim(), rules::cidr(r.trim())));
    }
}

fn balancer(s: &ServiceSpec, kind: &str, path: &Path, errors: &mut ErrorList) {
    let is_lb = kind == "LoadBalancer";
    let at = path.child("allocateLoadBalancerNodePorts");
    match (is_lb, s.allocate_load_balancer_node_ports) {
        (true, None) => errors.push(Error::required(&at, "")),
        (false, Some(_)) => {
            errors.push(Error::forbidden(&at, "may only be used when `type` is 'LoadBalancer'"));
        }
        _ => {}
    }
    if let Some(c) = &s.load_balancer_class {
        let at = path.child("loadBalancerClass");
        if !is_lb {
            errors.push(Error::forbidden(&at, "may only be used when `type` is 'LoadBalancer'"));
        }
        errors.extend(invalid_each(&at, c, rules::qualified_name(c)));
    }
}

fn traffic(s: &ServiceSpec, path: &Path, errors: &mut ErrorList) {
    let at = path.child("externalTrafficPolicy");
    let policy = text(&s.external_traffic_policy);
    if is_external(s) {
        one_of(policy, &["Cluster", "Local"], &at, errors);
    } else if !policy.is_empty() {
        errors.push(Error::invalid(&at, policy, "may only be set for externally-accessible services"));
    }
    if let Some(n) = s.health_check_node_port.filter(|n| *n != 0)
        && !needs_health_check_node_port(s)
    {
        errors.push(Error::invalid(
            &path.child("healthCheckNodePort"),
            n,
            "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
        ));
    }
    let at = path.child("internalTrafficPolicy");
    match &s.internal_traffic_policy {
        None if needs_cluster_ip(s) => errors.push(Error::required(&at, "")),
        None => {}
        Some(_) => {
            one_of_if_given(&s.internal_traffic_policy, &["Cluster", "Local"], &at, &mut *errors);
        }
    }
    one_of_if_given(
        &s.traffic_distribution,
        &["PreferClose", "PreferSameZone", "PreferSameNode"],
        &path.child("trafficDistribution"),
        errors,
    );
}

/// What a change may not do: the address stays as long as the service has one.
pub fn validate_update(new: &Service, old: &Service) -> ErrorList {
    let mut errors = ErrorList::new();
    let (Some(n), Some(o)) = (&new.spec, &old.spec) else { return errors };
    let path = Path::new("spec");
    if needs_cluster_ip(n) && needs_cluster_ip(o) {
        let (is, was) = (items(&n.cluster_ips), items(&o.cluster_ips));
        let may_not_change = "may not change once set";
        match (is.first(), was.first()) {
            (Some(a), Some(b)) if a != b => {
                errors.push(Error::invalid(&path.child("clusterIPs").index(0), is, may_not_change));
            }
            (None, Some(_)) => errors.push(Error::invalid(
                &path.child("clusterIPs").index(0),
                is,
                "primary clusterIP can not be unset",
            )),
            _ => {}
        }
        let (is, was) = (items(&n.ip_families), items(&o.ip_families));
        match (is.first(), was.first()) {
            (Some(a), Some(b)) if a != b => {
                errors.push(Error::invalid(&path.child("ipFamilies").index(0), is, may_not_change));
            }
            _ => {}
        }
    }
    if text(&n.type_) == "LoadBalancer"
        && text(&o.type_) == "LoadBalancer"
        && n.load_balancer_class != o.load_balancer_class
    {
        errors.push(Error::invalid(
            &path.child("loadBalancerClass"),
            &n.load_balancer_class,
            "may not change once set",
        ));
    }
    if needs_health_check_node_port(n)
        && needs_health_check_node_port(o)
        && n.health_check_node_port != o.health_check_node_port
    {
        errors.push(Error::forbidden(&path.child("healthCheckNodePort"), "field is immutable"));
    }
    errors
}

/// Sentences that warn of settings without effect, or on their way out.
pub fn warnings(svc: &Service) -> Vec<String> {
    let mut out = Vec::new();
    let Some(s) = &svc.spec else { return out };
    let external_name = text(&s.type_) == "ExternalName";
    let external_ips = !items(&s.external_ips).is_empty();
    let hints = "service.kubernetes.io/topology-aware-hints";
    if svc.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(hints)) {
        out.push(format!(
            "annotation {hints} is deprecated, please use service.kubernetes.io/topology-mode instead"
        ));
    }
    if is_headless(s) {
        if !text(&s.load_balancer_ip).is_empty() {
            out.push("spec.loadBalancerIP is ignored for headless services".to_owned());
        }
        if external_ips {
            out.push("spec.externalIPs is ignored for headless services".to_owned());
        }
        if text(&s.session_affinity) != "None" {
            out.push("spec.SessionAffinity is ignored for headless services".to_owned());
        }
    } else if external_ips && !external_name {
        out.push(
            "spec.externalIPs is deprecated and may no longer be implemented in some clusters".to_owned(),
        );
    }
    if external_name && external_ips {
        out.push("spec.externalIPs is ignored when spec.type is \"ExternalName\"".to_owned());
    }
    if !external_name && !text(&s.external_name).is_empty() {
        out.push("spec.externalName is ignored when spec.type is not \"ExternalName\"".to_owned());
    }
    if text(&s.traffic_distribution) == "PreferClose" {
        out.push(
            "spec.trafficDistribution: \"PreferClose\" is deprecated; use \"PreferSameZone\"".to_owned(),
        );
    }
    out
}
