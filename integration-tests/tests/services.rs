//! Services through kube-proxy, in both of its modes.

use integration_tests::{Config, TestCluster, eventually};

const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1.35
        command: [sh, -c, "mkdir /w; hostname > /w/index.html; exec httpd -f -p 8080 -h /w"]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {tcpSocket: {port: http}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  type: NodePort
  selector: {app: web}
  ports: [{port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: sticky}
spec:
  selector: {app: web}
  sessionAffinity: ClientIP
  ports: [{port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "busybox:1.35", command: [sleep, "3600"]}]
"#;

fn services_are_reached(mode: &'static str) {
    let c = TestCluster::with(Config { proxy_mode: mode, ..Config::default() });
    c.create(WEB);
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    c.wait_ready("client", 20);
    // A connection that begins before the rules are there goes nowhere, for minutes: another one is tried instead.
    let get = |url: &str| c.ctl(&["exec", "client", "--", "timeout", "3", "wget", "-q", "-O", "-", url]);
    let ip = c.field("service/web", "{.spec.clusterIP}");
    let fetch = |url: &str| {
        eventually(url, 20, || {
            let out = get(url);
            if out.code == 0 { Ok(out.stdout) } else { Err(out.stderr) }
        })
    };
    // The proxy hears of the second endpoint a moment after the deployment is done.
    eventually("both pods answer", 20, || {
        let mut seen: Vec<String> = (0..20).map(|_| fetch(&format!("http://{ip}/"))).collect();
        seen.sort();
        seen.dedup();
        if seen.len() == 2 { Ok(()) } else { Err(format!("{seen:?}")) }
    });

    let sticky = c.field("service/sticky", "{.spec.clusterIP}");
    let mut seen: Vec<String> = (0..10).map(|_| fetch(&format!("http://{sticky}/"))).collect();
    seen.dedup();
    assert_eq!(seen.len(), 1, "one pod answers a client with affinity: {seen:?}");

    // From outside the node, by node port; from the node itself, by cluster IP.
    let port = c.field("service/web", "{.spec.ports[0].nodePort}");
    let node = c.layout().node_ip(1);
    fetch(&format!("http://{node}:{port}/"));
    let from_host = std::process::Command::new("busybox")
        .args(["wget", "-q", "-O", "-", &format!("http://{node}:{port}/")])
        .output()
        .expect("busybox runs");
    assert!(from_host.status.success(), "{from_host:?}");
    c.on_node(1, "busybox", &["wget", "-q", "-O", "-", &format!("http://{ip}/")]).ok();

    // The API itself, from a pod with its own token.
    let script = "wget -q -O - --no-check-certificate --header \"Authorization: Bearer $(cat /var/run/secrets/kubernetes.io/serviceaccount/token)\" https://10.96.0.1/version || nc -w 2 10.96.0.1 443 </dev/null";
    c.ctl(&["exec", "client", "--", "sh", "-c", script]).ok();

    // Without endpoints, connections are refused at once.
    c.ctl(&["scale", "deployment", "web", "--replicas=0"]).ok();
    eventually("the service refuses", 20, || {
        let out = get(&format!("http://{ip}/"));
        if out.stderr.contains("refused") { Ok(()) } else { Err(format!("{out:?}")) }
    });
}

#[test]
fn services_are_reached_through_iptables() {
    services_are_reached("iptables");
}

#[test]
fn services_are_reached_through_nftables() {
    services_are_reached("nftables");
}
