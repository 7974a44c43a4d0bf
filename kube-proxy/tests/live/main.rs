//! The proxy at work in a network namespace: real rules, real packets, both modes. Needs root, `ip`, `busybox`,
//! `iptables` and `nft`.

// Helpers of a test may stop it as the test itself may.
#![allow(clippy::unwrap_used)]

mod api;
mod net;

use std::collections::BTreeSet;
use std::fs::File;
use std::process::Child;
use std::time::{Duration, Instant};

use api::Api;
use net::Net;
use serde_json::{Value, json};

struct Proxy<'a> {
    net: &'a Net,
    mode: &'static str,
    kubeconfig: String,
    child: Child,
}

impl<'a> Proxy<'a> {
    fn start(net: &'a Net, mode: &'static str, api: &Api) -> Self {
        let listener = net.listen("node");
        let port = listener.local_addr().unwrap().port();
        api.serve(listener);
        let kubeconfig = net.dir().join("kubeconfig");
        let file = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "x",
            "clusters": [{"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}}],
            "users": [{"name": "u", "user": {}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        });
        std::fs::write(&kubeconfig, file.to_string()).unwrap();
        let kubeconfig = kubeconfig.to_str().unwrap().to_owned();
        let child = Self::spawn(net, mode, &kubeconfig);
        let proxy = Self { net, mode, kubeconfig, child };
        proxy.wait("healthz", || proxy.get(10256, "healthz").is_some_and(|t| t.contains("lastUpdated")));
        proxy
    }

    fn spawn(net: &Net, mode: &str, kubeconfig: &str) -> Child {
        let log = File::options().create(true).append(true).open(net.dir().join("log")).unwrap();
        let args = [
            format!("--kubeconfig={kubeconfig}"),
            format!("--proxy-mode={mode}"),
            "--hostname-override=node1".into(),
            "--cluster-cidr=10.77.0.0/24".into(),
            "--iptables-sync-period=1s".into(),
            "--iptables-min-sync-period=10ms".into(),
            "--conntrack-max-per-core=0".into(),
        ];
        net.start(env!("CARGO_BIN_EXE_kube-proxy"), &args, log)
    }

    fn get(&self, port: u16, path: &str) -> Option<String> {
        let (ok, text) = self.net.exec("node", &format!("busybox wget -qO- http://127.0.0.1:{port}/{path}"));
        ok.then_some(text)
    }

    /// Rules written by the last sync.
    fn written(&self) -> u64 {
        let text = self.get(10249, "metrics").expect("metrics");
        let name = format!("kubeproxy_sync_proxy_rules_{}_last{{ip_family=\"IPv4\"}} ", self.mode);
        let line = text.lines().find_map(|l| l.strip_prefix(name.as_str())).expect("metric of rules written");
        line.trim().parse().expect("number")
    }

    fn wait(&self, what: &str, done: impl Fn() -> bool) {
        let start = Instant::now();
        while !done() {
            let log = || std::fs::read_to_string(self.net.dir().join("log")).unwrap_or_default();
            assert!(
                start.elapsed() < Duration::from_secs(15),
                "{}: waited in vain for: {what}\n{}\n{}",
                self.mode,
                log(),
                self.net.exec("node", "iptables-save -t nat; nft list table ip kube-proxy").1
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn answers(&self, from: &str, address: &str, times: usize) -> BTreeSet<String> {
        (0..times)
            .map(|_| {
                self.net.get(from, address).unwrap_or_else(|| {
                    panic!(
                        "{}: no answer from {address} to {from}\n{}",
                        self.mode,
                        self.net.exec("node", "iptables-save; nft list table ip kube-proxy").1
                    )
                })
            })
            .collect()
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Proxy<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn service(name: &str, ip: &str, extra: &Value) -> Value {
    let mut spec = json!({
        "clusterIP": ip, "clusterIPs": [ip], "type": "ClusterIP",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}],
    });
    for (k, v) in extra.as_object().unwrap() {
        spec[k] = v.clone();
    }
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec})
}

fn slice(service: &str, pods: &[&str]) -> Value {
    let endpoints: Vec<Value> = pods
        .iter()
        .map(|p| {
            let last = if *p == "a" { 2 } else { 3 };
            json!({"addresses": [format!("10.77.0.{last}")], "conditions": {"ready": true}, "nodeName": "node1"})
        })
        .collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": format!("{service}-x"), "namespace": "default",
            "labels": {"kubernetes.io/service-name": service}},
        "endpoints": endpoints,
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    })
}

fn set(pods: &[&str]) -> BTreeSet<String> {
    pods.iter().map(|p| (*p).to_owned()).collect()
}

fn scenario(mode: &'static str) {
    let net = Net::new(mode);
    let api = Api::default();
    api.put(
        "nodes",
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "node1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "10.88.0.1"}]}}),
    );
    let node_port = json!({"type": "NodePort",
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30080}]});
    api.put("services", service("web", "10.96.0.10", &node_port));
    api.put("endpointslices", slice("web", &["a", "b"]));
    let sticky =
        json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}});
    api.put("services", service("sticky", "10.96.0.11", &sticky));
    api.put("endpointslices", slice("sticky", &["a", "b"]));
    api.put("services", service("self", "10.96.0.12", &json!({})));
    api.put("endpointslices", slice("self", &["a"]));
    api.put("services", service("empty", "10.96.0.13", &json!({})));
    let local = json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30999,
        "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080, "nodePort": 30081}]});
    api.put("services", service("local", "10.96.0.14", &local));
    api.put("endpointslices", slice("local", &["b"]));
    for i in 0..50 {
        let name = format!("many{i}");
        api.put("services", service(&name, &format!("10.96.1.{i}"), &json!({})));
        api.put("endpointslices", slice(&name, &["a", "b"]));
    }
    let mut proxy = Proxy::start(&net, mode, &api);

    // Both endpoints serve the cluster IP, from a pod, from the node, and from outside through the node port.
    proxy.wait("the first rules", || net.get("node", "10.96.0.10").is_some());
    for (from, address) in [("a", "10.96.0.10"), ("node", "10.96.0.10"), ("ext", "10.88.0.1:30080")] {
        assert_eq!(proxy.answers(from, address, 24), set(&["a", "b"]), "{mode}: {from} to {address}");
    }
    assert_eq!(proxy.answers("ext", "10.96.1.49", 24), set(&["a", "b"]));
    assert_eq!(proxy.answers("ext", "10.96.0.11", 12).len(), 1, "{mode}: affinity");
    assert_eq!(proxy.answers("a", "10.96.0.12", 3), set(&["a"]), "{mode}: a pod reaches itself");
    // Refused, rather than left to time out.
    for from in ["ext", "node"] {
        let (ok, text) = net.exec(from, "timeout 5 busybox wget -qO- http://10.96.0.13/");
        assert!(
            !ok && text.contains("refused"),
            "{mode}: a service without endpoints, from {from}: {text:?}"
        );
    }
    // The local policy keeps the client's address and tells load balancers whether to come here.
    assert_eq!(proxy.answers("ext", "10.88.0.1:30081", 3), set(&["b"]));
    let health = proxy.get(30999, "").expect("health check");
    assert!(health.contains("\"localEndpoints\":1"), "{health}");

    // A change writes what it changes, not what there is.
    api.put("endpointslices", slice("web", &["a"]));
    proxy
        .wait("the lost endpoint", || (0..12).all(|_| net.get("node", "10.96.0.10").as_deref() == Some("a")));
    let written = proxy.written();
    assert!((1..=20).contains(&written), "{mode}: {written} rules written for one endpoint of one service");
    api.put("endpointslices", slice("local", &[]));
    proxy.wait("no more local endpoints", || proxy.get(30999, "").is_none());
    assert_eq!(net.get("ext", "10.88.0.1:30081"), None);
    api.delete("services", "many7");
    proxy.wait("the deleted service", || net.get("ext", "10.96.1.7").is_none());
    assert!(proxy.written() <= 20, "{mode}: {} rules written for one deletion", proxy.written());

    // Somebody flushes everything.
    net.exec(
        "node",
        "iptables -t nat -F; iptables -t nat -X; iptables -t mangle -X; nft delete table ip kube-proxy",
    );
    proxy.wait("rules again after a flush", || net.get("node", "10.96.0.10").is_some());

    // Killed, the rules serve on; started again, it takes them over without a gap.
    proxy.kill();
    assert_eq!(proxy.answers("ext", "10.88.0.1:30080", 3), set(&["a"]));
    api.delete("services", "many8");
    proxy.child = Proxy::spawn(&net, mode, &proxy.kubeconfig);
    proxy.wait("the service deleted meanwhile is gone", || {
        assert!(net.get("ext", "10.88.0.1:30080").is_some(), "{mode}: a gap while taking over");
        net.get("ext", "10.96.1.8").is_none()
    });

    // Nothing of ours remains. The kubelet's chain is not ours.
    proxy.kill();
    let program = env!("CARGO_BIN_EXE_kube-proxy");
    let (ok, text) = net.exec("node", &format!("{program} --cleanup"));
    assert!(ok, "{text}");
    let left = net.exec("node", "iptables-save; ip6tables-save; nft list tables").1;
    let ours: Vec<&str> = left
        .lines()
        .filter(|l| (l.contains("KUBE-") && !l.contains("KUBE-FIREWALL")) || l.contains("kube-proxy"))
        .collect();
    assert!(ours.is_empty(), "{mode}: left behind: {ours:?}");
}

#[test]
fn iptables_mode() {
    scenario("iptables");
}

#[test]
fn nftables_mode() {
    scenario("nftables");
}
