//! Any daemon may be killed at any time: containers go on, no acknowledged write is lost, and the cluster converges.

use std::sync::atomic::{AtomicBool, Ordering};

use integration_tests::{TestCluster, eventually};
use nix::sys::signal::Signal;

const POD: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: steady}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "busybox:1.35", command: [sh, -c, "trap exit TERM; while :; do sleep 1 & wait $!; done"]}]
"#;

#[test]
fn killed_daemons_leave_containers_alone_and_come_back() {
    let c = TestCluster::start();
    c.create(POD);
    c.wait_ready("steady", 30);
    let id = c.field("pod/steady", "{.status.containerStatuses[0].containerID}");
    for daemon in
        ["kubelet-node1", "kube-apiserver", "kube-scheduler", "kube-controller-manager", "kube-proxy-node1"]
    {
        c.signal(daemon, Signal::SIGKILL);
        c.start_daemons();
    }
    c.ctl(&["create", "deployment", "after", "--image=busybox:1.35", "--replicas=2", "--", "sleep", "3600"])
        .ok();
    c.ctl(&["rollout", "status", "deployment", "after", "--timeout=60s"]).ok();
    assert_eq!(c.field("pod/steady", "{.status.containerStatuses[0].containerID}"), id);
    assert_eq!(c.field("pod/steady", "{.status.containerStatuses[0].restartCount}"), "0");
    assert_eq!(c.ctl(&["exec", "steady", "--", "echo", "alive"]).ok(), "alive\n");
}

#[test]
fn every_daemon_ends_cleanly_on_sigterm() {
    let c = TestCluster::start();
    for daemon in
        ["kube-proxy-node1", "kubelet-node1", "kube-controller-manager", "kube-scheduler", "kube-apiserver"]
    {
        c.signal(daemon, Signal::SIGTERM);
        let log = std::fs::read_to_string(c.layout().log(daemon)).unwrap();
        assert!(
            log.contains("stopped") && !log.contains("panicked"),
            "{daemon}: {}",
            c.layout().log_tail(daemon)
        );
    }
    c.start_daemons();
    c.create(POD);
    c.wait_ready("steady", 40);
}

#[test]
fn an_acknowledged_write_survives_kill_9_of_the_api_server() {
    let c = TestCluster::start();
    for round in 0..3 {
        let stop = AtomicBool::new(false);
        let acknowledged = std::thread::scope(|scope| {
            let writers: Vec<_> = (0..4)
                .map(|w| {
                    let (c, stop) = (&c, &stop);
                    scope.spawn(move || {
                        let mut done = Vec::new();
                        for i in 0.. {
                            if stop.load(Ordering::Relaxed) {
                                break;
                            }
                            let name = format!("r{round}-w{w}-{i}");
                            let value = format!("--from-literal=v={name}");
                            if c.ctl(&["create", "configmap", &name, &value, "-o", "name"]).code == 0 {
                                done.push(name);
                            }
                        }
                        done
                    })
                })
                .collect();
            std::thread::sleep(std::time::Duration::from_millis(700));
            c.signal("kube-apiserver", Signal::SIGKILL);
            stop.store(true, Ordering::Relaxed);
            writers.into_iter().flat_map(|w| w.join().unwrap()).collect::<Vec<_>>()
        });
        c.start_daemons();
        assert!(!acknowledged.is_empty(), "nothing was written in round {round}");
        let there = eventually("reading config maps", 10, || {
            let out = c.ctl(&[
                "get",
                "configmaps",
                "-o",
                "jsonpath={range .items[*]}{.metadata.name}={.data.v} {end}",
            ]);
            if out.code == 0 { Ok(out.stdout) } else { Err(out.stderr) }
        });
        for name in &acknowledged {
            assert!(
                there.split(' ').any(|x| x == format!("{name}={name}")),
                "{name} was acknowledged and is lost"
            );
        }
    }
}
