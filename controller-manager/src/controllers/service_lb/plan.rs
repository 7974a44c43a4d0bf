//! Which addresses a service of the type LoadBalancer gets. Pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};

use crate::util::cidr::Cidr;
use crate::util::meta;

/// The class of services that are ours besides those without a class.
pub const CLASS: &str = "coxswain.io/service-lb";
/// Kept until the addresses are given back.
pub const FINALIZER: &str = "service.kubernetes.io/load-balancer-cleanup";
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";
const GOING: &str = "ToBeDeletedByClusterAutoscaler";

/// Where addresses come from (`--service-lb-addresses`).
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// Those of the nodes, shared by all services, which must differ in their ports.
    Nodes,
    /// Ranges of which each service gets an address of its own.
    Pool(Vec<Cidr>),
}

impl Source {
    /// Reads the flag.
    ///
    /// # Errors
    /// It is neither `nodes` nor a list of ranges.
    pub fn parse(text: &str) -> Result<Self, String> {
        if text == "nodes" {
            return Ok(Self::Nodes);
        }
        let ranges: Result<Vec<Cidr>, String> = text.split(',').map(|r| r.trim().parse()).collect();
        ranges.map(Self::Pool)
    }
}

/// Whether we give the service its addresses.
pub fn wants(service: &Service) -> bool {
    let Some(spec) = service.spec.as_ref() else { return false };
    spec.type_.as_deref() == Some("LoadBalancer")
        && spec.load_balancer_class.as_deref().is_none_or(|class| class == CLASS)
}

/// Whether it is marked as having addresses to give back.
pub fn is_held(service: &Service) -> bool {
    service.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER)
}

/// Whether its addresses are to be taken back.
pub fn is_released(service: &Service) -> bool {
    let balanced = service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("LoadBalancer");
    is_held(service) && (service.metadata.deletion_timestamp.is_some() || !balanced)
}

/// The addresses its status names.
pub fn addresses(service: &Service) -> Vec<IpAddr> {
    let ingress =
        service.status.iter().flat_map(|s| s.load_balancer.iter()).flat_map(|l| l.ingress.iter().flatten());
    ingress.filter_map(|i| i.ip.as_deref()?.parse().ok()).collect()
}

/// Whether its traffic is for nodes with endpoints only.
pub fn is_local(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.external_traffic_policy.as_deref()) == Some("Local")
}

/// Whether clients outside may be sent to the node.
pub fn is_eligible(node: &Node) -> bool {
    let conditions = node.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready");
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    ready.next().is_some_and(|c| c.status == "True")
        && node.metadata.deletion_timestamp.is_none()
        && node.metadata.labels.as_ref().is_none_or(|l| !l.contains_key(EXCLUDED))
        && !taints.into_iter().any(|t| t.key == GOING)
}

/// The families of the service; true for IPv4.
fn families(service: &Service) -> Vec<bool> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.as_ref());
    match named.filter(|f| !f.is_empty()) {
        Some(families) => families.iter().map(|f| f == "IPv4").collect(),
        None => vec![true],
    }
}

/// What a decision is made from.
pub struct View<'a> {
    /// All services, this one among them.
    pub services: &'a [Arc<Service>],
    pub nodes: &'a [Arc<Node>],
    /// Nodes with ready endpoints of the service; looked at if its traffic is local.
    pub local: &'a BTreeSet<String>,
    /// Addresses that were given to others a moment ago.
    pub taken: &'a BTreeSet<IpAddr>,
}

/// The addresses that the service is to have.
///
/// # Errors
/// There are none for it; says why.
pub fn wanted(source: &Source, service: &Service, view: &View<'_>) -> Result<Vec<IpAddr>, String> {
    match source {
        Source::Nodes => of_nodes(service, view),
        Source::Pool(ranges) => of_pool(ranges, service, view),
    }
}

fn same(a: &Service, b: &Service) -> bool {
    a.metadata.uid == b.metadata.uid
        && a.metadata.name == b.metadata.name
        && a.metadata.namespace == b.metadata.namespace
}

fn others<'a>(service: &'a Service, view: &'a View<'_>) -> impl Iterator<Item = &'a Arc<Service>> {
    view.services.iter().filter(|o| !same(o, service) && wants(o))
}

fn of_nodes(service: &Service, view: &View<'_>) -> Result<Vec<IpAddr>, String> {
    let ports = |s: &Service| -> BTreeSet<(String, i32)> {
        let ports = s.spec.iter().flat_map(|s| s.ports.iter().flatten());
        ports.map(|p| (p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port)).collect()
    };
    let mine = ports(service);
    let age = |s: &Service| {
        (
            meta::created(&s.metadata),
            meta::namespace(&s.metadata).to_owned(),
            meta::name(&s.metadata).to_owned(),
        )
    };
    // Who was first keeps the port.
    for other in others(service, view).filter(|o| age(o) < age(service)) {
        if let Some((protocol, port)) = ports(other).intersection(&mine).next() {
            return Err(format!(
                "port {port}/{protocol} of the nodes belongs to service {}/{} already",
                meta::namespace(&other.metadata),
                meta::name(&other.metadata)
            ));
        }
    }
    let mut nodes: Vec<&Arc<Node>> = view
        .nodes
        .iter()
        .filter(|n| is_eligible(n))
        .filter(|n| !is_local(service) || view.local.contains(meta::name(&n.metadata)))
        .collect();
    nodes.sort_by_key(|n| n.metadata.name.as_deref());
    let of = |node: &Node, v4: bool| -> Option<IpAddr> {
        let addresses = node.status.as_ref()?.addresses.as_ref()?;
        ["ExternalIP", "InternalIP"].iter().find_map(|kind| {
            let of_kind = addresses.iter().filter(|a| a.type_ == *kind);
            of_kind.filter_map(|a| a.address.parse::<IpAddr>().ok()).find(|a| a.is_ipv4() == v4)
        })
    };
    let families = families(service);
    Ok(families.iter().flat_map(|v4| nodes.iter().filter_map(|n| of(n, *v4))).collect())
}

fn of_pool(ranges: &[Cidr], service: &Service, view: &View<'_>) -> Result<Vec<IpAddr>, String> {
    let mut taken: BTreeSet<IpAddr> = others(service, view).flat_map(|o| addresses(o)).collect();
    taken.extend(view.taken);
    let in_pool = |a: IpAddr| ranges.iter().any(|r| r.has(a));
    let requested = service.spec.as_ref().and_then(|s| s.load_balancer_ip.as_deref()).unwrap_or_default();
    let requested: Option<IpAddr> = match requested {
        "" => None,
        text => Some(text.parse().map_err(|_| format!("spec.loadBalancerIP {text:?} is no address"))?),
    };
    let held = addresses(service);
    let mut out = Vec::new();
    for v4 in families(service) {
        if let Some(address) = requested.filter(|a| a.is_ipv4() == v4) {
            if !in_pool(address) {
                return Err(format!(
                    "spec.loadBalancerIP {address} is in no range of --service-lb-addresses"
                ));
            }
            if taken.contains(&address) {
                return Err(format!("spec.loadBalancerIP {address} belongs to another service already"));
            }
            out.push(address);
            continue;
        }
        let keeps = |a: &&IpAddr| a.is_ipv4() == v4 && in_pool(**a) && !taken.contains(*a);
        let free = || {
            ranges
                .iter()
                .filter(|r| r.is_v4() == v4)
                // A range of one or two addresses has no network or broadcast address.
                .flat_map(|r| r.addresses().filter(|a| r.gives(*a) || r.is_tiny()))
                .find(|a| !taken.contains(a))
        };
        match held.iter().find(keeps).copied().or_else(free) {
            Some(address) => out.push(address),
            None => {
                let family = if v4 { "IPv4" } else { "IPv6" };
                return Err(format!("--service-lb-addresses has no free {family} address"));
            }
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn service(name: &str, port: i32, more: Value) -> Arc<Service> {
        let mut s = json!({
            "metadata": {"name": name, "namespace": "ns", "uid": name, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"type": "LoadBalancer", "ports": [{"port": port}]}
        });
        merge(&mut s, more);
        Arc::new(serde_json::from_value(s).unwrap())
    }

    fn merge(into: &mut Value, more: Value) {
        match (into, more) {
            (Value::Object(a), Value::Object(b)) => {
                b.into_iter().for_each(|(k, v)| merge(a.entry(k).or_insert(Value::Null), v));
            }
            (a, b) => *a = b,
        }
    }

    fn node(name: &str, ip: &str, ready: &str) -> Arc<Node> {
        let node = json!({"metadata": {"name": name}, "status": {
            "conditions": [{"type": "Ready", "status": ready}], "addresses": [{"type": "InternalIP", "address": ip}]}});
        Arc::new(serde_json::from_value(node).unwrap())
    }

    fn decide(
        source: &str,
        service: &Arc<Service>,
        services: &[Arc<Service>],
        nodes: &[Arc<Node>],
    ) -> Result<Vec<String>, String> {
        let local = BTreeSet::from(["b".to_owned()]);
        let view = View { services, nodes, local: &local, taken: &BTreeSet::new() };
        let source = Source::parse(source).unwrap();
        wanted(&source, service, &view).map(|l| l.iter().map(IpAddr::to_string).collect())
    }

    #[test]
    fn nodes_share_their_addresses_but_not_their_ports() {
        let nodes =
            [node("b", "10.0.0.2", "True"), node("a", "10.0.0.1", "True"), node("c", "10.0.0.3", "False")];
        let (web, more) = (service("web", 80, json!({})), service("more", 81, json!({})));
        let late = service("late", 80, json!({"metadata": {"creationTimestamp": "2026-01-02T00:00:00Z"}}));
        let all = [web.clone(), more.clone(), late.clone()];
        let both = Ok(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        assert_eq!(decide("nodes", &web, &all, &nodes), both);
        assert_eq!(decide("nodes", &more, &all, &nodes), both);
        let refused = decide("nodes", &late, &all, &nodes).unwrap_err();
        assert_eq!(refused, "port 80/TCP of the nodes belongs to service ns/web already");
        let local = service("local", 90, json!({"spec": {"externalTrafficPolicy": "Local"}}));
        assert_eq!(decide("nodes", &local, &all, &nodes), Ok(vec!["10.0.0.2".to_owned()]));
    }

    #[test]
    fn a_pool_gives_each_its_own_and_leaves_it_to_it() {
        let with = |name: &str, ip: &str| {
            service(name, 80, json!({"status": {"loadBalancer": {"ingress": [{"ip": ip}]}}}))
        };
        let (a, b, c) = (with("a", "10.9.0.1"), with("b", "10.9.0.2"), service("c", 80, json!({})));
        let all = [a.clone(), b.clone(), c.clone()];
        assert_eq!(decide("10.9.0.0/29", &b, &all, &[]), Ok(vec!["10.9.0.2".to_owned()]));
        assert_eq!(decide("10.9.0.0/29", &c, &all, &[]), Ok(vec!["10.9.0.3".to_owned()]));
        assert!(decide("10.9.0.1/32", &c, &all, &[]).unwrap_err().contains("no free IPv4 address"));
        assert_eq!(decide("10.9.0.9/32", &c, &all, &[]), Ok(vec!["10.9.0.9".to_owned()]));
        let asks = service("asks", 80, json!({"spec": {"loadBalancerIP": "10.9.0.5"}}));
        assert_eq!(decide("10.9.0.0/29", &asks, &all, &[]), Ok(vec!["10.9.0.5".to_owned()]));
        let greedy = service("greedy", 80, json!({"spec": {"loadBalancerIP": "10.9.0.1"}}));
        assert!(decide("10.9.0.0/29", &greedy, &all, &[]).unwrap_err().contains("another service"));
        let dual = service("dual", 80, json!({"spec": {"ipFamilies": ["IPv6", "IPv4"]}}));
        assert_eq!(
            decide("10.9.0.0/29,fd00::/64", &dual, &all, &[]),
            Ok(vec!["fd00::1".to_owned(), "10.9.0.3".to_owned()])
        );
    }

    #[test]
    fn classes_and_finalizers_say_whose_a_service_is() {
        assert!(wants(&service("a", 80, json!({}))));
        assert!(wants(&service("a", 80, json!({"spec": {"loadBalancerClass": CLASS}}))));
        assert!(!wants(&service("a", 80, json!({"spec": {"loadBalancerClass": "metallb"}}))));
        assert!(!wants(&service("a", 80, json!({"spec": {"type": "NodePort"}}))));
        let changed =
            service("a", 80, json!({"spec": {"type": "ClusterIP"}, "metadata": {"finalizers": [FINALIZER]}}));
        assert!(is_released(&changed));
        assert!(Source::parse("somewhere").is_err());
    }
}
