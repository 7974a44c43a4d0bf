//! iptables rules.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use crate::iptables::rules::{Config, Rules, Table, service};
use crate::iptables::script::{chains, full, partial};
use crate::model::ServiceName;
use crate::model::state::State;
use crate::testing::{iptables_config, put_service, put_slice, service_name};

fn rules(c: &Config, s: &State, name: &str) -> Rules {
    let name = service_name(name);
    match s.service(&name) {
        Some(svc) => service(c, &name, svc, |p| s.endpoints(&name, p)),
        None => Rules::default(),
    }
}

/// All rules, as `iptables-save` shows them, without hashes so that they can be read.
fn text(r: &Rules) -> String {
    let mut names: BTreeMap<String, String> = BTreeMap::new();
    let mut lines: Vec<String> = Vec::new();
    for (t, chain, rule) in &r.shared {
        lines.push(format!("{} {chain} {rule}", if *t == Table::Nat { "nat" } else { "filter" }));
    }
    for (chain, list) in &r.chains {
        lines.extend(list.iter().map(|rule| format!("nat {chain} {rule}")));
    }
    // An endpoint's chain is shown by the address it leads to.
    for (chain, list) in &r.chains {
        if let Some((_, to)) = list.last().and_then(|l| l.split_once("--to-destination ")) {
            names.insert(chain.clone(), format!("SEP({to})"));
        } else {
            let kind = chain.split('-').nth(1).unwrap_or("");
            names.insert(chain.clone(), kind.to_owned());
        }
    }
    let mut out = lines.join("\n");
    for (chain, name) in names {
        out = out.replace(&chain, &name);
    }
    out.replace("-m comment --comment ", "# ")
}

#[test]
fn a_cluster_ip_with_two_endpoints() {
    let mut s = State::default();
    put_service(&mut s, "web", json!({}), json!({}));
    put_slice(&mut s, "web", "x", &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
    let got = text(&rules(&iptables_config(), &s, "web"));
    let mut lines: Vec<&str> = got.lines().collect();
    lines.sort_unstable();
    assert_eq!(
        lines,
        [
            "nat KUBE-SERVICES # \"ns/web:p cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j SVC",
            "nat SEP(10.1.0.1:8080) # \"ns/web:p\" -m tcp -p tcp -j DNAT --to-destination 10.1.0.1:8080",
            "nat SEP(10.1.0.1:8080) # \"ns/web:p\" -s 10.1.0.1 -j KUBE-MARK-MASQ",
            "nat SEP(10.1.0.2:8080) # \"ns/web:p\" -m tcp -p tcp -j DNAT --to-destination 10.1.0.2:8080",
            "nat SEP(10.1.0.2:8080) # \"ns/web:p\" -s 10.1.0.2 -j KUBE-MARK-MASQ",
            "nat SVC # \"ns/web:p -> 10.1.0.1:8080\" -m statistic --mode random --probability 0.5000000000 -j SEP(10.1.0.1:8080)",
            "nat SVC # \"ns/web:p -> 10.1.0.2:8080\" -j SEP(10.1.0.2:8080)",
            "nat SVC # \"ns/web:p cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 ! -s 10.0.0.0/8 -j KUBE-MARK-MASQ",
        ]
    );
}

#[test]
fn a_load_balancer_with_local_policy_source_ranges_and_affinity() {
    let mut s = State::default();
    put_service(
        &mut s,
        "lb",
        json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31000,
            "loadBalancerSourceRanges": ["192.168.0.0/24"], "externalIPs": ["5.5.5.5"],
            "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30080}]}),
        json!({"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}, {"ip": "9.9.9.9", "ipMode": "Proxy"}]}}),
    );
    put_slice(&mut s, "lb", "x", &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
    let got = text(&rules(&iptables_config(), &s, "lb"));
    for line in [
        "nat KUBE-SERVICES # \"ns/lb:p external IP\" -m tcp -p tcp -d 5.5.5.5 --dport 80 -j EXT",
        "nat KUBE-SERVICES # \"ns/lb:p loadbalancer IP\" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j FW",
        "filter KUBE-PROXY-FIREWALL # \"ns/lb:p traffic not accepted by FW\" -m tcp -p tcp -d 1.2.3.4 --dport 80 -j DROP",
        "nat KUBE-NODEPORTS # \"ns/lb:p\" -m tcp -p tcp --dport 30080 -j EXT",
        "filter KUBE-NODEPORTS # \"ns/lb health check node port\" -m tcp -p tcp --dport 31000 -j ACCEPT",
        "nat FW # \"ns/lb:p loadbalancer IP\" -s 192.168.0.0/24 -j EXT",
        "nat FW # \"ns/lb:p loadbalancer IP\" -s 1.2.3.4 -j EXT",
        "nat EXT # \"pod traffic for ns/lb:p external destinations\" -s 10.0.0.0/8 -j SVC",
        "nat EXT # \"masquerade LOCAL traffic for ns/lb:p external destinations\" -m addrtype --src-type LOCAL -j KUBE-MARK-MASQ",
        "nat EXT # \"route LOCAL traffic for ns/lb:p external destinations\" -m addrtype --src-type LOCAL -j SVC",
        "nat EXT -j SVL",
        "nat SVL # \"ns/lb:p -> 10.1.0.1:8080\" -m recent --name SEP(10.1.0.1:8080) --rcheck --seconds 60 --reap -j SEP(10.1.0.1:8080)",
        "nat SVL # \"ns/lb:p -> 10.1.0.1:8080\" -j SEP(10.1.0.1:8080)",
        "nat SEP(10.1.0.1:8080) # \"ns/lb:p\" -m recent --name SEP(10.1.0.1:8080) --set -m tcp -p tcp -j DNAT --to-destination 10.1.0.1:8080",
    ] {
        assert!(got.lines().any(|l| l == line), "missing: {line}\nin:\n{got}");
    }
    assert!(!got.contains("9.9.9.9"), "a proxied address is not ours:\n{got}");
}

#[test]
fn without_endpoints_traffic_is_refused_or_dropped() {
    let mut s = State::default();
    let node_port = json!({"type": "NodePort", "externalTrafficPolicy": "Local",
        "ports": [{"name": "p", "port": 80, "protocol": "TCP", "nodePort": 30080}]});
    put_service(&mut s, "none", node_port, json!({}));
    let got = text(&rules(&iptables_config(), &s, "none"));
    assert_eq!(
        got,
        "filter KUBE-SERVICES # \"ns/none:p has no endpoints\" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j REJECT\n\
         filter KUBE-EXTERNAL-SERVICES # \"ns/none:p has no endpoints\" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j REJECT"
    );
    put_slice(&mut s, "none", "x", &[("10.1.0.2", "there")]);
    let got = text(&rules(&iptables_config(), &s, "none"));
    assert!(got.contains("\"ns/none:p has no local endpoints\" -m addrtype --dst-type LOCAL -m tcp -p tcp --dport 30080 -j DROP"), "{got}");
    assert!(got.contains("cluster IP\" -m tcp -p tcp -d 10.96.0.1 --dport 80 -j SVC"), "{got}");
}

#[test]
fn masquerade_all_and_other_detectors() {
    let mut s = State::default();
    put_service(&mut s, "web", json!({}), json!({}));
    put_slice(&mut s, "web", "x", &[("10.1.0.1", "here")]);
    let mark = |c: &Config| {
        let r = text(&rules(c, &s, "web"));
        r.lines().find(|l| l.contains("nat SVC") && l.ends_with("KUBE-MARK-MASQ")).map(str::to_owned)
    };
    let mut c = iptables_config();
    c.masquerade_all = true;
    assert!(mark(&c).expect("rule").ends_with("--dport 80 -j KUBE-MARK-MASQ"));
    c.masquerade_all = false;
    c.detector = crate::model::LocalDetector::Prefix("veth".into());
    assert!(mark(&c).expect("rule").ends_with("--dport 80 ! -i veth+ -j KUBE-MARK-MASQ"));
    c.detector = crate::model::LocalDetector::None;
    assert_eq!(mark(&c), None);
}

fn many(n: usize) -> (State, BTreeMap<ServiceName, Rules>) {
    let mut s = State::default();
    for i in 0..n {
        let name = format!("s{i}");
        let ip = format!("10.96.{}.{}", i / 250, i % 250 + 1);
        put_service(&mut s, &name, json!({"clusterIP": ip, "clusterIPs": [ip]}), json!({}));
        put_slice(
            &mut s,
            &name,
            &name,
            &[("10.1.0.1", "here"), ("10.1.0.2", "there"), ("10.1.0.3", "there")],
        );
    }
    let c = iptables_config();
    let all = s.services().map(|(n, _)| (n.clone(), rules(&c, &s, &n.name))).collect();
    s.take_dirty();
    (s, all)
}

#[test]
fn a_change_costs_what_it_changes() {
    let c = iptables_config();
    for n in [10, 1000] {
        let (mut s, installed) = many(n);
        let all = full(&c, installed.values(), &BTreeSet::new());
        assert!(all.rules >= n * 11, "{} rules for {n} services", all.rules);
        put_slice(&mut s, "s5", "s5", &[("10.1.0.1", "here"), ("10.1.0.2", "there")]);
        let wanted = s.take_dirty().into_iter().map(|x| (x.clone(), Some(rules(&c, &s, &x.name)))).collect();
        let script = partial(&installed, &wanted);
        // The service's chain with a mark and two endpoints, and the lost endpoint's chain.
        assert_eq!(script.rules, 4, "{}", script.text);
        assert!(!script.text.contains("KUBE-SERVICES"), "shared chains are left alone:\n{}", script.text);
    }
}

#[test]
fn services_come_and_go_by_single_rules() {
    let c = iptables_config();
    let (mut s, mut installed) = many(3);
    let old = installed.remove(&service_name("s1")).expect("rules");
    let wanted = BTreeMap::from([(service_name("s1"), Some(old.clone()))]);
    let add = partial(&installed, &wanted).text;
    assert!(add.contains("\n-I KUBE-SERVICES -m comment --comment \"ns/s1:p cluster IP\""), "{add}");
    assert!(add.starts_with("*nat\n:KUBE-SEP-") && add.ends_with("COMMIT\n"), "{add}");
    installed.insert(service_name("s1"), old.clone());
    s.set_service(&service_name("s1"), None);
    let remove = partial(&installed, &BTreeMap::from([(service_name("s1"), None)])).text;
    assert!(remove.contains("\n-D KUBE-SERVICES -m comment --comment \"ns/s1:p cluster IP\""), "{remove}");
    for chain in old.chains.keys() {
        let (flush, delete) = (format!(":{chain} - [0:0]\n"), format!("-X {chain}\n"));
        assert!(remove.find(&flush) < remove.find(&delete), "{remove}");
    }
    assert_eq!(
        partial(
            &installed,
            &BTreeMap::from([(service_name("s2"), installed.get(&service_name("s2")).cloned())])
        )
        .text,
        ""
    );
    // What an earlier process left behind and nobody needs goes with the next full write.
    let existing = chains(":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n:POSTROUTING ACCEPT [0:0]\n-A X -j Y\n");
    let all = full(&c, installed.values(), &existing).text;
    assert!(
        all.contains(":KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n")
            && all.contains("-X KUBE-SVC-AAAAAAAAAAAAAAAA\n")
    );
    let last = all.lines().rfind(|l| l.starts_with("-A KUBE-SERVICES")).expect("rule");
    assert!(last.contains("must be the last rule"), "{last}");
}
