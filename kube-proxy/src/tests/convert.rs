//! What is taken from API objects.

use serde_json::json;

use crate::model::state::State;
use crate::model::{Family, convert};
use crate::testing::{put_service, put_slice, service_name};

#[test]
fn only_what_can_be_proxied_is_taken() {
    let parse = |spec: serde_json::Value, family| {
        let v = json!({"metadata": {"name": "x"}, "spec": spec});
        convert::service(&serde_json::from_value(v).expect("service"), family)
    };
    assert!(parse(json!({"clusterIP": "None", "clusterIPs": ["None"]}), Family::V4).is_none());
    assert!(parse(json!({"type": "ExternalName", "clusterIP": "10.0.0.1"}), Family::V4).is_none());
    let dual = json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "fd00::1"],
        "externalIPs": ["1.2.3.4", "fd00::9"], "sessionAffinity": "ClientIP"});
    let six = parse(dual, Family::V6).expect("dual stack");
    assert_eq!(six.cluster_ip.to_string(), "fd00::1");
    assert_eq!(six.external_ips.len(), 1);
    assert_eq!(six.sticky, Some(10_800));
    // Health is checked where the policy is local.
    let lb = json!({"type": "LoadBalancer", "clusterIP": "10.0.0.1", "healthCheckNodePort": 30000,
        "loadBalancerSourceRanges": ["10.0.0.0/8 ", "0.0.0.0/0"]});
    let open = parse(lb, Family::V4).expect("service");
    assert_eq!((open.health_check_node_port, open.source_ranges.len()), (0, 0));
}

#[test]
fn only_real_changes_make_a_service_dirty() {
    let mut s = State::default();
    put_service(&mut s, "a", json!({}), json!({}));
    put_slice(&mut s, "a", "a-1", &[("10.1.0.1", "here")]);
    assert_eq!(s.take_dirty().len(), 1);
    put_service(&mut s, "a", json!({}), json!({}));
    put_slice(&mut s, "a", "a-1", &[("10.1.0.1", "here")]);
    assert!(!s.is_dirty());
    assert_eq!(s.local_ready(&service_name("a")), 1);
    // An address in two slices is one endpoint.
    put_slice(&mut s, "a", "a-2", &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
    let port = s.service(&service_name("a")).expect("service").ports[0].clone();
    assert_eq!(s.endpoints(&service_name("a"), &port).len(), 2);
    s.take_dirty();
    s.set_slice(&service_name("a"), "a-2", None);
    s.set_slice(&service_name("a"), "nope", None);
    assert_eq!(s.take_dirty().len(), 1);
    assert_eq!(s.endpoints(&service_name("a"), &port).len(), 1);
}
