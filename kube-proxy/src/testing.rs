//! Services and slices for tests, written as the API writes them.

use serde_json::{Value, json};

use crate::model::state::State;
use crate::model::{Family, Here, LocalDetector, ServiceName, convert};

/// A service called `ns/NAME` with one port 80 called `p`.
pub fn put_service(state: &mut State, name: &str, spec: Value, status: Value) {
    let mut s = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"],
        "ports": [{"name": "p", "port": 80, "protocol": "TCP"}]});
    for (k, v) in spec.as_object().into_iter().flatten() {
        s[k] = v.clone();
    }
    let object = json!({"metadata": {"name": name, "namespace": "ns"}, "spec": s, "status": status});
    let service = convert::service(&serde_json::from_value(object).expect("service"), Family::V4);
    state.set_service(&service_name(name), service);
}

/// A slice of that service; endpoints on node `here` are local.
pub fn put_slice(state: &mut State, service: &str, slice: &str, endpoints: &[(&str, &str)]) {
    let list: Vec<Value> = endpoints
        .iter()
        .map(|(ip, node)| json!({"addresses": [ip], "conditions": {"ready": true}, "nodeName": node}))
        .collect();
    let object = json!({"addressType": "IPv4", "endpoints": list,
        "metadata": {"name": slice, "namespace": "ns", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}]});
    let parsed = convert::slice(&serde_json::from_value(object).expect("slice"), "here");
    let (name, _, ports) = parsed.expect("a slice of a service");
    state.set_slice(&name, slice, Some(ports));
}

pub fn service_name(name: &str) -> ServiceName {
    ServiceName { namespace: "ns".into(), name: name.into() }
}

pub fn iptables_config() -> crate::iptables::rules::Config {
    crate::iptables::rules::Config {
        family: Family::V4,
        here: Here { node: "here".into(), zone: "".into() },
        masquerade_all: false,
        mark: 0x4000,
        detector: LocalDetector::Cidrs(vec!["10.0.0.0/8".parse().expect("cidr")]),
        node_port_ips: None,
        localhost_node_ports: true,
        random_fully: true,
        tcp_be_liberal: false,
        node_ips: vec!["192.168.0.1".parse().expect("ip")],
    }
}

pub fn nftables_config() -> crate::nftables::rules::Config {
    let c = iptables_config();
    crate::nftables::rules::Config {
        family: c.family,
        here: c.here,
        masquerade_all: false,
        mark: c.mark,
        detector: c.detector,
        node_port_ips: None,
        node_ips: c.node_ips,
    }
}
