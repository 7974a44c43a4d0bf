//! nftables elements and chains.

use std::collections::BTreeMap;

use serde_json::json;

use crate::model::state::State;
use crate::nftables::rules::{Rules, service};
use crate::nftables::script::{full, partial};
use crate::testing::{nftables_config, put_service, put_slice, service_name};

fn rules(s: &State, name: &str) -> Rules {
    let c = nftables_config();
    let name = service_name(name);
    s.service(&name).map_or_else(Rules::default, |x| service(&c, &name, x, |p| s.endpoints(&name, p)))
}

fn users<'a>(all: impl Iterator<Item = &'a Rules>) -> BTreeMap<(&'static str, String), usize> {
    let mut out = BTreeMap::new();
    for key in all.flat_map(|r| r.elements.keys()) {
        *out.entry(key.clone()).or_default() += 1;
    }
    out
}

#[test]
fn maps_lead_to_chains() {
    let mut s = State::default();
    let ports = json!([{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30080}]);
    put_service(&mut s, "web", json!({"type": "NodePort", "ports": ports}), json!({}));
    put_slice(&mut s, "web", "x", &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
    let r = rules(&s, "web");
    let value = |map: &'static str, key: &str| r.elements.get(&(map, key.to_owned())).map(String::as_str);
    let chain =
        value("service-ips", "10.96.0.1 . tcp . 80").and_then(|v| v.strip_prefix("goto ")).expect("element");
    assert!(chain.starts_with("service-") && chain.ends_with("-ns/web/tcp/p"), "{chain}");
    let spread = &r.chains[chain];
    assert!(spread[0].starts_with("numgen random mod 2 vmap { 0 : goto endpoint-"), "{spread:?}");
    let external =
        value("service-nodeports", "tcp . 30080").and_then(|v| v.strip_prefix("goto ")).expect("element");
    assert_eq!(r.chains[external], ["mark set mark or 0x4000".to_owned(), format!("goto {chain}")]);
    assert_eq!(value("cluster-ips", "10.96.0.1"), Some(""));
    assert_eq!(value("hairpin-connections", "10.1.0.1 . 10.1.0.1 . tcp . 8080"), Some(""));
    let endpoint = r.chains.iter().find(|(n, _)| n.ends_with("__10.1.0.2/8080")).expect("chain").1;
    assert_eq!(endpoint, &["meta l4proto tcp dnat to 10.1.0.2:8080"]);
}

#[test]
fn no_endpoints_affinity_and_source_ranges() {
    let mut s = State::default();
    put_service(&mut s, "none", json!({}), json!({}));
    let r = rules(&s, "none");
    assert_eq!(r.elements[&("no-endpoint-services", "10.96.0.1 . tcp . 80".to_owned())], "goto reject-chain");
    put_service(
        &mut s,
        "lb",
        json!({"type": "LoadBalancer", "sessionAffinity": "ClientIP", "loadBalancerSourceRanges": ["172.16.0.0/12"],
            "externalTrafficPolicy": "Local"}),
        json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}),
    );
    put_slice(&mut s, "lb", "y", &[("10.1.0.2", "there")]);
    let r = rules(&s, "lb");
    assert_eq!(r.elements[&("no-endpoint-services", "1.2.3.4 . tcp . 80".to_owned())], "drop");
    let firewall = r.chains.iter().find(|(n, _)| n.starts_with("firewall-")).expect("chain").1;
    assert_eq!(firewall, &["ip saddr != { 172.16.0.0/12 } drop"]);
    assert!(r.affinity.values().all(|t| *t == 10_800) && r.affinity.len() == 1);
    let endpoint = r.chains.iter().find(|(n, _)| n.starts_with("endpoint-")).expect("chain").1;
    assert!(
        endpoint[0].starts_with("update @affinity-") && endpoint[0].ends_with("{ ip saddr }"),
        "{endpoint:?}"
    );
}

#[test]
fn a_change_costs_what_it_changes_and_shared_elements_stay() {
    let c = nftables_config();
    let mut s = State::default();
    for i in 0..200 {
        let (name, ip) = (format!("s{i}"), format!("10.96.1.{}", i + 1));
        put_service(&mut s, &name, json!({"clusterIP": ip, "clusterIPs": [ip]}), json!({}));
        put_slice(&mut s, &name, &name, &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
    }
    let installed: BTreeMap<_, _> = s.services().map(|(n, _)| (n.clone(), rules(&s, &n.name))).collect();
    let used = users(installed.values());
    assert!(
        full(&c, installed.values())
            .text
            .starts_with("add table ip kube-proxy\ndelete table ip kube-proxy\n")
    );
    put_slice(&mut s, "s5", "s5", &[("10.1.0.1", "here")]);
    let wanted = BTreeMap::from([(service_name("s5"), Some(rules(&s, "s5")))]);
    let t = partial(&c, &installed, &wanted, &used);
    assert_eq!(t.rules, 1, "{}", t.text);
    assert!(!t.text.contains("hairpin-connections"), "other services still use the address:\n{}", t.text);
    let gone = partial(&c, &installed, &BTreeMap::from([(service_name("s5"), None)]), &used);
    assert!(
        gone.text.contains("delete element ip kube-proxy service-ips { 10.96.1.6 . tcp . 80 }"),
        "{}",
        gone.text
    );
    // From endpoints to none and back, the address changes maps.
    put_slice(&mut s, "s5", "s5", &[]);
    let none = partial(&c, &installed, &BTreeMap::from([(service_name("s5"), Some(rules(&s, "s5")))]), &used);
    assert!(
        none.text.contains("delete element ip kube-proxy service-ips { 10.96.1.6 . tcp . 80 }"),
        "{}",
        none.text
    );
    assert!(
        none.text.contains(
            "add element ip kube-proxy no-endpoint-services { 10.96.1.6 . tcp . 80 : goto reject-chain }"
        ),
        "{}",
        none.text
    );
}
