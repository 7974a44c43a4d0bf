//! Which endpoints of a service port are used, by kind of traffic: traffic policies, topology hints, and the
//! fallback to endpoints that are shutting down.

use super::{Endpoint, Here, Service, ServicePort};

/// The endpoints of a service port, by use. All lists are sorted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice<'a> {
    /// For traffic that any endpoint may serve.
    pub cluster: Vec<&'a Endpoint>,
    /// For traffic that only endpoints on this node may serve.
    pub local: Vec<&'a Endpoint>,
    /// Every endpoint that some rule leads to.
    pub reachable: Vec<&'a Endpoint>,
    /// There is an endpoint somewhere in the cluster.
    pub any: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Hint {
    Ignore,
    Node,
    Zone,
}

/// Hints count only when every ready endpoint has them and some are meant for this node or zone.
fn hint(endpoints: &[Endpoint], here: &Here) -> Hint {
    let ready = || endpoints.iter().filter(|e| e.ready);
    if ready().next().is_none() {
        return Hint::Ignore;
    }
    if ready().all(|e| !e.nodes.is_empty()) && ready().any(|e| e.nodes.contains(&here.node)) {
        return Hint::Node;
    }
    if !here.zone.is_empty()
        && ready().all(|e| !e.zones.is_empty())
        && ready().any(|e| e.zones.contains(&here.zone))
    {
        return Hint::Zone;
    }
    Hint::Ignore
}

/// Chooses among the endpoints of a port.
#[must_use]
pub fn choose<'a>(
    endpoints: &'a [Endpoint],
    service: &Service,
    port: &ServicePort,
    here: &Here,
) -> Choice<'a> {
    let leaving = |e: &Endpoint| e.serving && e.terminating;
    let mut out = Choice::default();
    if service.uses_cluster(port) {
        let mode = hint(endpoints, here);
        let near = |e: &Endpoint| match mode {
            Hint::Ignore => true,
            Hint::Node => e.nodes.contains(&here.node),
            Hint::Zone => e.zones.contains(&here.zone),
        };
        out.cluster = endpoints.iter().filter(|e| e.ready && near(e)).collect();
        if out.cluster.is_empty() {
            out.cluster = endpoints.iter().filter(|e| leaving(e)).collect();
        }
        out.any = !out.cluster.is_empty();
    }
    if service.uses_local(port) {
        out.any |= endpoints.iter().any(|e| e.ready || leaving(e));
        out.local = endpoints.iter().filter(|e| e.local && e.ready).collect();
        if out.local.is_empty() {
            out.local = endpoints.iter().filter(|e| e.local && leaving(e)).collect();
        }
    }
    out.cluster.sort_unstable();
    out.local.sort_unstable();
    out.reachable = out.cluster.iter().chain(&out.local).copied().collect();
    out.reachable.sort_unstable();
    out.reachable.dedup();
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn service(internal_local: bool, external_local: bool) -> Service {
        Service {
            cluster_ip: "10.0.0.1".parse().expect("ip"),
            external_ips: vec![],
            load_balancer_ips: vec![],
            source_ranges: vec![],
            sticky: None,
            internal_local,
            external_local,
            health_check_node_port: 0,
            ports: vec![],
        }
    }

    fn port(node_port: u16) -> ServicePort {
        ServicePort { name: "p".into(), protocol: Protocol::Tcp, port: 80, node_port }
    }

    fn ep(last: u8, flags: &str) -> Endpoint {
        let set =
            |prefix: &str| flags.split(' ').filter_map(|f| f.strip_prefix(prefix)).map(Into::into).collect();
        let has = |f: &str| flags.split(' ').any(|x| x == f);
        Endpoint {
            ip: [10, 1, 0, last].into(),
            port: 80,
            local: has("local"),
            ready: has("ready"),
            serving: has("ready") || has("serving"),
            terminating: has("terminating"),
            zones: set("zone="),
            nodes: set("node="),
        }
    }

    fn here() -> Here {
        Here { node: "n1".into(), zone: "a".into() }
    }

    fn last(list: &[&Endpoint]) -> Vec<u8> {
        list.iter()
            .map(|e| match e.ip {
                std::net::IpAddr::V4(a) => a.octets()[3],
                std::net::IpAddr::V6(_) => 0,
            })
            .collect()
    }

    #[test]
    fn ready_endpoints_serve_and_leaving_ones_only_when_alone() {
        let eps = [ep(1, "ready"), ep(2, "serving terminating"), ep(3, "")];
        let s = service(false, false);
        assert_eq!(last(&choose(&eps, &s, &port(0), &here()).cluster), [1]);
        let c = choose(&eps[1..], &s, &port(0), &here());
        assert_eq!(last(&c.cluster), [2]);
        assert!(c.any);
        assert!(!choose(&eps[2..], &s, &port(0), &here()).any);
    }

    #[test]
    fn local_policy_keeps_to_the_node() {
        let eps = [ep(1, "ready"), ep(2, "ready local")];
        let c = choose(&eps, &service(true, false), &port(0), &here());
        assert_eq!((last(&c.cluster), last(&c.local), last(&c.reachable)), (vec![], vec![2], vec![2]));
        let c = choose(&eps, &service(false, true), &port(30000), &here());
        assert_eq!((last(&c.cluster), last(&c.local)), (vec![1, 2], vec![2]));
        let c = choose(&eps[..1], &service(true, false), &port(0), &here());
        assert!(c.any && c.local.is_empty());
    }

    #[test]
    fn hints_are_used_when_complete() {
        let eps = [ep(1, "ready zone=a"), ep(2, "ready zone=b")];
        let s = service(false, false);
        assert_eq!(last(&choose(&eps, &s, &port(0), &here()).cluster), [1]);
        let incomplete = [ep(1, "ready zone=a"), ep(2, "ready")];
        assert_eq!(last(&choose(&incomplete, &s, &port(0), &here()).cluster), [1, 2]);
        let elsewhere = [ep(1, "ready zone=b"), ep(2, "ready zone=c")];
        assert_eq!(last(&choose(&elsewhere, &s, &port(0), &here()).cluster), [1, 2]);
        let same_node = [ep(1, "ready zone=a node=n1"), ep(2, "ready zone=a node=n2")];
        assert_eq!(last(&choose(&same_node, &s, &port(0), &here()).cluster), [1]);
    }
}
