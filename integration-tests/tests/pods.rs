//! The narrow path and what a pod can be: create, run, log, exec, volumes, probes, restarts.

use integration_tests::TestCluster;

#[test]
fn a_pod_runs_logs_and_ends() {
    let c = TestCluster::start();
    c.ctl(&["create", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pod.yaml")]).ok();
    c.wait_field("pod/hello", "{.status.phase}", "Running", 30);
    c.wait_ready("hello", 10);
    let ip = c.field("pod/hello", "{.status.podIP}");
    let log = integration_tests::eventually("a line in the log", 10, || {
        let log = c.ctl(&["logs", "hello"]).ok();
        if log.is_empty() { Err("empty".into()) } else { Ok(log) }
    });
    assert_eq!(log, format!("hello from hello, pod IP {ip} on node1\n"));
    assert_eq!(c.kubectl("1.36", &["logs", "hello"], None).ok(), log);
    c.ctl(&["delete", "pod", "hello", "--grace-period=1"]).ok();
    assert!(c.ctl(&["get", "pod", "hello"]).fails().contains("pods \"hello\" not found"));
}
