//! Each daemon is killed and exchanged for upstream's, and back, while workloads run.
//!
//! `COXSWAIN_UPSTREAM` names a folder with upstream's daemons of this release; without it this says that it was left
//! out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};

use futures::StreamExt as _;
use integration_tests::{TestCluster, binaries, eventually};
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::runtime::{WatchStreamExt as _, watcher};

const WORKLOADS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: bystander}
spec:
  terminationGracePeriodSeconds: 1
  containers: [{name: c, image: "busybox:1.35", command: [sleep, "100000"]}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 4
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: web
        image: busybox:1.35
        command: [sh, -c, "mkdir /w; echo $V > /w/index.html; exec httpd -f -p 8080 -h /w"]
        env: [{name: V, value: "0"}]
        readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{port: 80, targetPort: 8080}]
"#;

const JOB: &str = r#"
apiVersion: batch/v1
kind: Job
metadata: {name: NAME, labels: {kind: counted}}
spec:
  completionMode: Indexed
  completions: 12
  parallelism: 3
  template:
    metadata: {labels: {kind: counted}}
    spec:
      restartPolicy: Never
      terminationGracePeriodSeconds: 1
      containers: [{name: c, image: "busybox:1.35", command: [sh, -c, "sleep 2"]}]
"#;

/// At most one pod more than wanted may be up while a deployment of four rolls out: a quarter of it.
const MOST: usize = 5;

/// What the watch has seen of pods.
#[derive(Default)]
struct Seen {
    /// Pods of each job and index: one each, for none of them fails.
    made: BTreeMap<(String, String), Vec<String>>,
    /// Pods of the deployment that nobody has deleted.
    web: BTreeSet<String>,
    most: usize,
    /// The container that each pod has been seen to run.
    ran: BTreeMap<String, String>,
    /// Pods that ran another container later.
    restarted: Vec<String>,
}

impl Seen {
    fn pod(&mut self, p: &Pod, gone: bool) {
        let label = |name: &str| p.metadata.labels.as_ref().and_then(|l| l.get(name)).cloned();
        let uid = p.metadata.uid.clone().unwrap_or_default();
        // What was only created when its kubelet was killed is made anew, by either kubelet.
        let status = p.status.as_ref().and_then(|s| s.container_statuses.as_ref()?.first());
        let running = status.filter(|s| s.state.as_ref().is_some_and(|s| s.running.is_some()));
        if let Some(id) = running.and_then(|s| s.container_id.clone())
            && self.ran.insert(uid.clone(), id.clone()).is_some_and(|before| before != id)
        {
            self.restarted.push(p.metadata.name.clone().unwrap_or_default());
        }
        if let (Some(job), Some(index)) =
            (label("batch.kubernetes.io/job-name"), label("batch.kubernetes.io/job-completion-index"))
        {
            let made = self.made.entry((job, index)).or_default();
            if !made.contains(&uid) {
                made.push(uid);
            }
        } else if label("app").as_deref() == Some("web") {
            if gone || p.metadata.deletion_timestamp.is_some() {
                self.web.remove(&uid);
            } else {
                self.web.insert(uid);
            }
            self.most = self.most.max(self.web.len());
        }
    }
}

fn watch(c: &TestCluster) -> Arc<Mutex<Seen>> {
    let seen = Arc::new(Mutex::new(Seen::default()));
    let (shared, client) = (seen.clone(), c.client());
    c.block_on(async move {
        tokio::spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client, "default");
            let mut events = std::pin::pin!(watcher(pods, watcher::Config::default()).default_backoff());
            while let Some(event) = events.next().await {
                let mut seen = shared.lock().expect("no panic");
                match event {
                    Ok(watcher::Event::Apply(p) | watcher::Event::InitApply(p)) => seen.pod(&p, false),
                    Ok(watcher::Event::Delete(p)) => seen.pod(&p, true),
                    _ => {}
                }
            }
        });
    });
    seen
}

fn exchanged(c: &TestCluster, daemon: &str, to: Option<&Path>, round: u32) {
    let name = format!("job{round}");
    c.create(&JOB.replace("NAME", &name));
    c.ctl(&["set", "env", "deployment/web", &format!("V={round}")]).ok();
    // In the middle: some are done, some run, some are not there yet.
    eventually("the job is at work", 60, || {
        let done = c.field(&format!("job/{name}"), "{.status.succeeded}");
        if done.parse::<u32>().unwrap_or(0) >= 3 {
            Ok(())
        } else {
            Err(format!("{done} pods have succeeded"))
        }
    });
    c.exchange(daemon, to);
    c.wait_field(&format!("job/{name}"), "{.status.succeeded}", "12", 150);
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=120s"]).ok();
    let address = c.field("service/web", "{.spec.clusterIP}");
    for _ in 0..8 {
        // An endpoint of the old version may be in the rules for a moment.
        eventually("the service answers with the new version", 30, || {
            let out =
                c.on_node(1, "wget", &["-q", "-T", "2", "-t", "1", "-O", "-", &format!("http://{address}/")]);
            if out.stdout.trim() == round.to_string() {
                Ok(())
            } else {
                Err(format!("{:?} {}", out.stdout, out.stderr))
            }
        });
    }
}

#[test]
fn daemons_are_exchanged_while_workloads_run() {
    let Some(program) = binaries::upstream("kube-controller-manager") else { return };
    let upstream = program.parent().expect("it is in a folder");
    let c = TestCluster::start();
    c.create(WORKLOADS);
    c.wait_ready("bystander", 60);
    c.ctl(&["rollout", "status", "deployment", "web", "--timeout=60s"]).ok();
    let container = c.field("pod/bystander", "{.status.containerStatuses[0].containerID}");
    let seen = watch(&c);
    let mut round = 0;
    for daemon in ["kube-controller-manager", "kube-scheduler", "kubelet-node1", "kube-proxy-node1"] {
        for to in [Some(upstream), None] {
            round += 1;
            exchanged(&c, daemon, to, round);
        }
    }
    assert_eq!(c.field("pod/bystander", "{.status.containerStatuses[0].containerID}"), container);
    let seen = seen.lock().expect("no panic");
    assert!(seen.restarted.is_empty(), "running containers were restarted: {:?}", seen.restarted);
    let twice: Vec<_> = seen.made.iter().filter(|(_, pods)| pods.len() > 1).collect();
    assert!(twice.is_empty(), "indexes with more than one pod: {twice:?}");
    assert_eq!(seen.made.len(), 8 * 12);
    assert!(seen.most <= MOST, "{} pods of the deployment at a time", seen.most);
    assert_eq!(seen.web.len(), 4);
}
