use serde_json::json;

use super::client::*;
use super::config::*;
use super::kubeconfig::*;
use super::services::*;

#[test]
fn configurations() {
    let c = ClientConfig::from_value(
        &json!({"service": {"namespace": "n", "name": "s", "path": "/p", "port": 8443},
        "caBundle": "Zm9v"}),
    )
    .unwrap();
    assert_eq!(c.url(), "https://s.n.svc:8443/p");
    assert_eq!(c.service_host().as_deref(), Some("s.n.svc"));
    assert_eq!(c.ca_bundle, b"foo");
    let c = ClientConfig::from_value(&json!({"service": {"namespace": "n", "name": "s"}})).unwrap();
    assert_eq!(c.url(), "https://s.n.svc:443");
    assert_eq!(ClientConfig::from_value(&json!({"url": "https://a/b"})).unwrap().url(), "https://a/b");
    assert!(ClientConfig::from_value(&json!({})).unwrap_err().contains("either service or URL"));
    assert!(ClientConfig::from_value(&json!({"url": "https://a", "caBundle": "%"})).is_err());
}

fn service(kind: &str) -> serde_json::Value {
    json!({"metadata": {"name": "s"}, "spec": {"type": kind, "clusterIP": "10.0.0.1", "externalName": "e.example",
        "ipFamilies": ["IPv6"], "ports": [{"name": "web", "port": 443}]}})
}

#[test]
fn cluster_addresses() {
    assert_eq!(cluster_address(&service("ClusterIP"), 443).unwrap(), "10.0.0.1:443");
    assert_eq!(cluster_address(&service("ExternalName"), 8443).unwrap(), "e.example:8443");
    let e = cluster_address(&service("ClusterIP"), 80).unwrap_err();
    assert_eq!(e, "no service port 80 found for service \"s\"");
    let mut none = service("ClusterIP");
    none["spec"]["clusterIP"] = json!("None");
    assert_eq!(cluster_address(&none, 443).unwrap_err(), "cannot route to service with ClusterIP \"None\"");
}

#[test]
fn endpoint_addresses() {
    let slice = |family: &str, ip: &str, ready: bool| {
        json!({"addressType": family, "ports": [{"name": "web", "port": 6443}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": ready}}]})
    };
    let first = |_: usize| 0;
    let of = |slices: &[serde_json::Value]| endpoint_address(&service("ClusterIP"), 443, slices, first);
    let both = [slice("IPv4", "10.1.0.1", true), slice("IPv6", "fd00::1", true)];
    assert_eq!(of(&both).unwrap(), "[fd00::1]:6443", "the primary family first");
    let unready = [slice("IPv4", "10.1.0.1", true), slice("IPv6", "fd00::1", false)];
    assert_eq!(of(&unready).unwrap(), "10.1.0.1:6443");
    assert_eq!(of(&[]).unwrap_err(), "no endpoints available for service \"s\"");
    assert!(
        endpoint_address(&service("ExternalName"), 443, &both, first).unwrap_err().contains("unsupported")
    );
}

#[test]
fn users_are_chosen_by_host() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("k");
    let yaml = "users:\n- {name: 'hook.ns.svc', user: {token: exact}}\n- {name: '*.ns.svc', user: {token: domain}}\n\
                - {name: 'other.ns.svc:8443', user: {username: u, password: p}}\n- {name: '*', user: {token: all}}\n\
                - {name: 'plugin.ns.svc', user: {exec: {command: x}}}\n";
    std::fs::write(&file, yaml).unwrap();
    let users = Identities::read(&file).unwrap();
    let of = |target: &str| {
        let mut h = http::HeaderMap::new();
        users.for_target(target).unwrap().apply(&mut h).unwrap();
        h.get("authorization").map(|v| v.to_str().unwrap().to_owned()).unwrap_or_default()
    };
    assert_eq!(of("hook.ns.svc:443"), "Bearer exact");
    assert_eq!(of("b.ns.svc:443"), "Bearer domain");
    assert_eq!(of("hook.ns.svc:8443"), "Bearer all", "the port is part of the name but for 443");
    assert_eq!(of("other.ns.svc:8443"), "Basic dTpw");
    assert_eq!(of("a.example:443"), "Bearer all");
    assert!(users.for_target("plugin.ns.svc:443").unwrap_err().contains("exec is not supported"));
}

#[test]
fn token_files_are_read() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("t"), "secret\n").unwrap();
    let file = dir.path().join("k");
    let yaml = "current-context: c\ncontexts: [{name: c, context: {cluster: x, user: u}}]\n\
                clusters: [{name: x, cluster: {server: 'https://h:1/p', insecure-skip-tls-verify: true}}]\n\
                users: [{name: u, user: {tokenFile: t}}]\n";
    std::fs::write(&file, yaml).unwrap();
    let s = Server::read(&file).unwrap();
    assert!(s.insecure && s.url == "https://h:1/p");
    let mut h = http::HeaderMap::new();
    s.credentials.apply(&mut h).unwrap();
    assert_eq!(h["authorization"], "Bearer secret");
    assert_eq!(Client::from_kubeconfig(&file).unwrap().url(), "https://h:1/p");
    std::fs::write(&file, "current-context: nope\n").unwrap();
    assert!(Server::read(&file).err().unwrap().contains("context \"nope\" does not exist"));
}
