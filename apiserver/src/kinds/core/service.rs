//! Services: defaults, and what follows from a change of type. Addresses and node ports are handed out by the
//! allocators after this.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::service_validation;
use crate::field::ErrorList;
use crate::kinds::semantic::{fill, items, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of services.
pub struct Service;

/// Three hours: how long a client sticks to a backend unless told otherwise.
const AFFINITY_SECONDS: i32 = 10_800;

fn kind(spec: &api::ServiceSpec) -> &str {
    text(&spec.type_)
}

/// True if the service has an address of its own.
pub fn needs_cluster_ip(spec: &api::ServiceSpec) -> bool {
    matches!(kind(spec), "ClusterIP" | "NodePort" | "LoadBalancer")
}

/// True if the service opens ports on every node.
pub fn needs_node_port(spec: &api::ServiceSpec) -> bool {
    kind(spec) == "NodePort"
        || (kind(spec) == "LoadBalancer" && spec.allocate_load_balancer_node_ports != Some(false))
}

/// True if nodes answer health checks of a load balancer for this service.
pub fn needs_health_check_node_port(spec: &api::ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && text(&spec.external_traffic_policy) == "Local"
}

/// True if traffic may come from outside the cluster.
pub fn is_external(spec: &api::ServiceSpec) -> bool {
    matches!(kind(spec), "LoadBalancer" | "NodePort")
        || (kind(spec) == "ClusterIP" && !items(&spec.external_ips).is_empty())
}

/// True if the service has no address and is resolved to its endpoints.
pub fn is_headless(spec: &api::ServiceSpec) -> bool {
    text(&spec.cluster_ip) == "None" || items(&spec.cluster_ips) == ["None"]
}

fn default_spec(spec: &mut api::ServiceSpec) {
    fill(&mut spec.session_affinity, "None");
    match text(&spec.session_affinity) {
        "None" => spec.session_affinity_config = None,
        "ClientIP" => {
            let seconds = spec
                .session_affinity_config
                .as_ref()
                .and_then(|c| c.client_ip.as_ref())
                .and_then(|c| c.timeout_seconds);
            spec.session_affinity_config = Some(api::SessionAffinityConfig {
                client_ip: Some(api::ClientIPConfig {
                    timeout_seconds: Some(seconds.unwrap_or(AFFINITY_SECONDS)),
                }),
            });
        }
        _ => {}
    }
    fill(&mut spec.type_, "ClusterIP");
    for p in spec.ports.iter_mut().flatten() {
        fill(&mut p.protocol, "TCP");
        let unset = match &p.target_port {
            None | Some(IntOrString::Int(0)) => true,
            Some(IntOrString::String(s)) => s.is_empty(),
            Some(IntOrString::Int(_)) => false,
        };
        if unset {
            p.target_port = Some(IntOrString::Int(p.port));
        }
    }
    if is_external(spec) {
        fill(&mut spec.external_traffic_policy, "Cluster");
    }
    if spec.internal_traffic_policy.is_none() && needs_cluster_ip(spec) {
        spec.internal_traffic_policy = Some("Cluster".to_owned());
    }
    if kind(spec) == "LoadBalancer" {
        spec.allocate_load_balancer_node_ports.get_or_insert(true);
    }
}

/// The address families of a service on a cluster that speaks IPv4, where neither the client nor the address
/// says otherwise.
fn default_families(spec: &mut api::ServiceSpec) {
    if !needs_cluster_ip(spec) {
        return;
    }
    let two = items(&spec.cluster_ips).len() == 2 || items(&spec.ip_families).len() == 2;
    let selectorless = spec.selector.as_ref().is_none_or(|s| s.is_empty());
    if spec.ip_family_policy.is_none() {
        let dual = two || (is_headless(spec) && selectorless && items(&spec.ip_families).is_empty());
        spec.ip_family_policy = Some(if dual { "RequireDualStack" } else { "SingleStack" }.to_owned());
    }
    if items(&spec.ip_families).is_empty() {
        let first = items(&spec.cluster_ips).first().map_or("", String::as_str);
        let (a, b) = if first.contains(':') { ("IPv6", "IPv4") } else { ("IPv4", "IPv6") };
        let mut families = vec![a.to_owned()];
        if text(&spec.ip_family_policy) != "SingleStack" && is_headless(spec) && selectorless {
            families.push(b.to_owned());
        }
        spec.ip_families = Some(families);
    }
}

/// Keeps `clusterIP` and `clusterIPs` telling the same, led by the one that the client changed.
fn normalize_cluster_ips(spec: &mut api::ServiceSpec, old: Option<&api::ServiceSpec>) {
    let one = text(&spec.cluster_ip).to_owned();
    let Some(old) = old else {
        if !one.is_empty() && items(&spec.cluster_ips).is_empty() {
            spec.cluster_ips = Some(vec![one]);
        }
        return;
    };
    let list_same = items(&spec.cluster_ips) == items(&old.cluster_ips);
    if one.is_empty() && !text(&old.cluster_ip).is_empty() && list_same {
        spec.cluster_ips = None;
    } else if one != text(&old.cluster_ip) && list_same {
        spec.cluster_ips = Some(vec![one]).filter(|v| !v[0].is_empty());
    }
}

/// What was allocated stays, where the client left it out.
fn keep_allocated(spec: &mut api::ServiceSpec, old: &api::ServiceSpec) {
    if needs_cluster_ip(spec)
        && needs_cluster_ip(old)
        && text(&spec.cluster_ip).is_empty()
        && items(&spec.cluster_ips).is_empty()
    {
        spec.cluster_ip = old.cluster_ip.clone();
        spec.cluster_ips = old.cluster_ips.clone();
    }
    if needs_node_port(spec) && needs_node_port(old) {
        let taken: Vec<i32> = items(&spec.ports).iter().filter_map(|p| p.node_port).collect();
        for p in spec.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let before = items(&old.ports).iter().find(|o| o.port == p.port && o.protocol == p.protocol);
            p.node_port = before.and_then(|o| o.node_port).filter(|n| !taken.contains(n));
        }
    }
    if needs_health_check_node_port(spec)
        && needs_health_check_node_port(old)
        && spec.health_check_node_port.unwrap_or(0) == 0
    {
        spec.health_check_node_port = old.health_check_node_port;
    }
    if needs_cluster_ip(spec) && needs_cluster_ip(old) {
        if spec.ip_families.is_none() {
            spec.ip_families = old.ip_families.clone();
        }
        if spec.ip_family_policy.is_none() {
            spec.ip_family_policy = old.ip_family_policy.clone();
        }
    }
}

/// Fields that only the old type had go with it, unless the client set them anew.
fn drop_with_type(spec: &mut api::ServiceSpec, old: &api::ServiceSpec) {
    if needs_cluster_ip(old)
        && !needs_cluster_ip(spec)
        && text(&spec.cluster_ip) == text(&old.cluster_ip)
        && items(&spec.cluster_ips) == items(&old.cluster_ips)
    {
        spec.cluster_ip = None;
        spec.cluster_ips = None;
        spec.ip_families = None;
        spec.ip_family_policy = None;
    }
    if needs_node_port(old) && !needs_node_port(spec) {
        let ports = |s: &api::ServiceSpec| -> Vec<i32> {
            items(&s.ports).iter().map(|p| p.node_port.unwrap_or(0)).filter(|n| *n != 0).collect()
        };
        let before = ports(old);
        if ports(spec).iter().all(|n| before.contains(n)) {
            spec.ports.iter_mut().flatten().for_each(|p| p.node_port = None);
        }
    }
    if needs_health_check_node_port(old)
        && !needs_health_check_node_port(spec)
        && spec.health_check_node_port == old.health_check_node_port
    {
        spec.health_check_node_port = None;
    }
    let (was, is) = (kind(old) == "LoadBalancer", kind(spec) == "LoadBalancer");
    if was && !is {
        if spec.allocate_load_balancer_node_ports == old.allocate_load_balancer_node_ports {
            spec.allocate_load_balancer_node_ports = None;
        }
        if spec.load_balancer_class == old.load_balancer_class {
            spec.load_balancer_class = None;
        }
    }
    if is_external(old)
        && !is_external(spec)
        && text(&spec.external_traffic_policy) == text(&old.external_traffic_policy)
    {
        spec.external_traffic_policy = None;
    }
}

fn blank_status() -> Option<api::ServiceStatus> {
    Some(api::ServiceStatus { conditions: None, load_balancer: Some(Default::default()) })
}

impl Strategy for Service {
    type Object = api::Service;

    fn default(&self, svc: &mut api::Service) {
        default_spec(svc.spec.get_or_insert_with(Default::default));
        let status = svc.status.get_or_insert_with(Default::default);
        let lb = status.load_balancer.get_or_insert_with(Default::default);
        if svc.spec.as_ref().is_some_and(|s| kind(s) == "LoadBalancer") {
            for i in lb.ingress.iter_mut().flatten().filter(|i| !text(&i.ip).is_empty()) {
                i.ip_mode.get_or_insert_with(|| "VIP".to_owned());
            }
        }
    }

    fn prepare_create(&self, _cx: &mut Context, svc: &mut api::Service) {
        svc.status = blank_status();
        let spec = svc.spec.get_or_insert_with(Default::default);
        normalize_cluster_ips(spec, None);
        default_families(spec);
    }

    fn prepare_update(&self, cx: &mut Context, svc: &mut api::Service, old: &api::Service) {
        if cx.is_status() {
            svc.spec = old.spec.clone();
            return;
        }
        svc.status = old.status.clone();
        let before = old.spec.clone().unwrap_or_default();
        let spec = svc.spec.get_or_insert_with(Default::default);
        keep_allocated(spec, &before);
        normalize_cluster_ips(spec, Some(&before));
        drop_with_type(spec, &before);
        default_families(spec);
        if kind(&before) == "LoadBalancer" && kind(spec) != "LoadBalancer" {
            svc.status = blank_status();
        }
    }

    fn validate(&self, cx: &mut Context, svc: &api::Service) -> ErrorList {
        let errors = service_validation::validate(svc);
        if errors.is_empty() {
            cx.warnings.extend(service_validation::warnings(svc));
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, svc: &api::Service, old: &api::Service) -> ErrorList {
        if cx.is_status() {
            return ErrorList::new();
        }
        service_validation::validate_update(svc, old)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: serde_json::Value) -> api::Service {
        let mut s: api::Service =
            serde_json::from_value(serde_json::json!({"metadata": {"name": "x"}, "spec": spec})).unwrap();
        Service.default(&mut s);
        s
    }

    #[test]
    fn update_without_address_keeps_it() {
        let old = service(serde_json::json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "type": "NodePort", "ports": [{"port": 80, "nodePort": 30080}]}));
        let mut new = service(serde_json::json!({"type": "NodePort", "ports": [{"port": 80}]}));
        Service.prepare_update(&mut Context::default(), &mut new, &old);
        let spec = new.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.0.0.1"));
        assert_eq!(spec.ports.unwrap()[0].node_port, Some(30080));
    }

    #[test]
    fn change_to_external_name_gives_the_address_back() {
        let old = service(serde_json::json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "ports": [{"port": 80}]}));
        let mut new = service(serde_json::json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"],
            "type": "ExternalName", "externalName": "a.b", "ports": [{"port": 80}]}));
        Service.prepare_update(&mut Context::default(), &mut new, &old);
        let spec = new.spec.unwrap();
        assert_eq!((spec.cluster_ip, spec.cluster_ips), (None, None));
    }
}
