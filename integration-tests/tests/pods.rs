//! What a pod can be: the narrow path, volumes, environment, init containers, probes, restarts, limits, streams.

use integration_tests::{TestCluster, eventually};

/// A pod manifest of one busybox container that runs `script`; `extra` goes into the pod's spec, `more` into the
/// container.
fn busybox(name: &str, script: &str, more: &str, extra: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  terminationGracePeriodSeconds: 1\n{extra}\n  containers:\n  - name: main\n    image: busybox:1.35\n    command: [sh, -c, {script:?}]\n{more}\n"
    )
}

const SLEEP: &str = "trap exit TERM; while :; do sleep 1 & wait $!; done";

#[test]
fn a_pod_runs_logs_and_ends() {
    let c = TestCluster::start();
    c.ctl(&["create", "-f", concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/pod.yaml")]).ok();
    c.wait_field("pod/hello", "{.status.phase}", "Running", 30);
    c.wait_ready("hello", 10);
    let ip = c.field("pod/hello", "{.status.podIP}");
    let log = eventually("a line in the log", 10, || {
        let log = c.ctl(&["logs", "hello"]).ok();
        if log.is_empty() { Err("empty".into()) } else { Ok(log) }
    });
    assert_eq!(log, format!("hello from hello, pod IP {ip} on node1\n"));
    assert_eq!(c.kubectl("1.36", &["logs", "hello"], None).ok(), log);
    assert_eq!(c.kubectl("system", &["logs", "hello", "--tail=1"], None).ok(), log);

    // Into the container, through every client: v5 WebSocket, and SPDY where kubectl is told to use it.
    assert_eq!(c.ctl(&["exec", "hello", "--", "cat", "/etc/hostname"]).ok(), "hello\n");
    let piped = c.ctl_with_input(&["exec", "-i", "hello", "--", "wc", "-c"], Some("12345"));
    assert_eq!(piped.ok().trim(), "5");
    assert_eq!(c.ctl(&["exec", "hello", "--", "sh", "-c", "echo out; echo err >&2; exit 7"]).code, 7);
    for which in ["1.36", "system"] {
        let out = c.kubectl(
            which,
            &["exec", "-i", "hello", "--", "sh", "-c", "cat; echo done; exit 3"],
            Some("abc\n"),
        );
        assert_eq!((out.stdout.as_str(), out.code), ("abc\ndone\n", 3), "{}", out.stderr);
    }

    c.ctl(&["delete", "pod", "hello", "--grace-period=1"]).ok();
    assert!(c.ctl(&["get", "pod", "hello"]).fails().contains("pods \"hello\" not found"));
}

#[test]
fn volumes_and_environment_reach_the_container() {
    let c = TestCluster::start();
    c.ctl(&["create", "configmap", "settings", "--from-literal=color=blue", "--from-literal=size=7"]).ok();
    c.ctl(&["create", "secret", "generic", "keys", "--from-literal=password=s3cret"]).ok();
    let volumes = r#"  volumes:
  - {name: scratch, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
  - {name: settings, configMap: {name: settings, items: [{key: color, path: sub/color}]}}
  - {name: keys, secret: {secretName: keys, defaultMode: 256}}
  - {name: info, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
  - {name: host, hostPath: {path: /etc/debian_version, type: File}}
  - name: all
    projected:
      sources:
      - configMap: {name: settings}
      - serviceAccountToken: {path: token, audience: here, expirationSeconds: 3600}"#;
    let container = r#"    resources: {limits: {cpu: 200m, memory: 32Mi}}
    envFrom: [{prefix: CFG_, configMapRef: {name: settings}}]
    env:
    - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
    - {name: LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
    - {name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
    - {name: BOTH, value: "$(POD)-$(PASSWORD)"}
    volumeMounts:
    - {name: scratch, mountPath: /scratch}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: keys, mountPath: /keys, readOnly: true}
    - {name: info, mountPath: /info}
    - {name: host, mountPath: /version}
    - {name: all, mountPath: /all}"#;
    c.create(&busybox("v", SLEEP, container, volumes));
    c.wait_ready("v", 30);
    let sh = |script: &str| c.ctl(&["exec", "v", "--", "sh", "-c", script]).ok();
    assert_eq!(sh("echo x > /scratch/f && cat /scratch/f"), "x\n");
    assert!(sh("grep /memory /proc/mounts").contains("tmpfs"));
    assert_eq!(sh("cat /settings/sub/color; ls /settings"), "bluesub\n");
    assert_eq!(sh("cat /keys/password; stat -L -c %a /keys/password"), "s3cret400\n");
    assert_eq!(sh("cat /info/labels").trim(), "app=\"v\"");
    assert_eq!(sh("cat /version"), std::fs::read_to_string("/etc/debian_version").unwrap());
    assert_eq!(sh("cat /all/size; cut -d. -f2 /all/token | wc -w"), "71\n");
    assert_eq!(sh("echo $CFG_color $CFG_size $PASSWORD $LIMIT $BOTH"), "blue 7 s3cret 33554432 v-s3cret\n");
    assert!(sh("env").contains("KUBERNETES_SERVICE_HOST=10.96.0.1"), "service variables");
    assert!(sh("cat /var/run/secrets/kubernetes.io/serviceaccount/namespace").contains("default"));
    let limit =
        sh("cat /sys/fs/cgroup/memory/memory.limit_in_bytes 2>/dev/null || cat /sys/fs/cgroup/memory.max");
    assert_eq!(limit.trim(), "33554432");

    // A changed config map reaches the file without a restart.
    c.ctl(&["patch", "configmap", "settings", "-p", r#"{"data":{"color":"red"}}"#]).ok();
    eventually("the new value in the volume", 100, || {
        let now = sh("cat /settings/sub/color");
        if now == "red" { Ok(()) } else { Err(now) }
    });
}

#[test]
fn init_containers_probes_and_restarts_follow_their_rules() {
    let c = TestCluster::start();
    let init = r#"  initContainers:
  - {name: first, image: "busybox:1.35", command: [sh, -c, "echo one > /w/log; echo \"SAID='one'\" > /w/env"], volumeMounts: [{name: w, mountPath: /w}]}
  - {name: side, image: "busybox:1.35", restartPolicy: Always, command: [sh, -c, "echo side >> /w/log; trap exit TERM; while :; do sleep 1 & wait $!; done"], volumeMounts: [{name: w, mountPath: /w}]}
  - {name: second, image: "busybox:1.35", command: [sh, -c, "until grep -q side /w/log; do sleep 0.1; done; echo two >> /w/log"], volumeMounts: [{name: w, mountPath: /w}]}
  volumes: [{name: w, emptyDir: {}}]"#;
    let main = r#"    volumeMounts: [{name: w, mountPath: /w}]
    env: [{name: SAID, valueFrom: {fileKeyRef: {volumeName: w, path: env, key: SAID}}}]"#;
    c.create(&busybox("ordered", SLEEP, main, init));
    c.wait_ready("ordered", 40);
    assert_eq!(c.ctl(&["exec", "ordered", "-c", "main", "--", "cat", "/w/log"]).ok(), "one\nside\ntwo\n");
    let said = c.ctl(&["exec", "ordered", "-c", "main", "--", "sh", "-c", "echo $SAID"]).ok();
    assert_eq!(said, "one\n", "a variable from a file of the first container");
    assert_eq!(c.field("pod/ordered", "{.status.initContainerStatuses[*].ready}"), "true true true");

    let probes = r#"    readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}
    livenessProbe: {exec: {command: [test, "!", -e, /tmp/dead]}, periodSeconds: 1, failureThreshold: 1}
    startupProbe: {exec: {command: ["true"]}, periodSeconds: 1}"#;
    c.create(&busybox("probed", SLEEP, probes, ""));
    c.wait_field("pod/probed", "{.status.containerStatuses[0].started}", "true", 30);
    assert_eq!(c.field("pod/probed", "{.status.containerStatuses[0].ready}"), "false");
    c.ctl(&["exec", "probed", "--", "touch", "/tmp/ready"]).ok();
    c.wait_ready("probed", 10);
    c.ctl(&["exec", "probed", "--", "touch", "/tmp/dead"]).ok();
    c.wait_field("pod/probed", "{.status.containerStatuses[0].restartCount}", "1", 20);
    let events = c.ctl(&["describe", "pod", "probed"]).ok();
    assert!(events.contains("Unhealthy") && events.contains("Killing"), "{events}");

    c.create(&busybox("crash", "echo boom; exit 3", "", ""));
    c.wait_field("pod/crash", "{.status.containerStatuses[0].state.waiting.reason}", "CrashLoopBackOff", 40);
    assert_eq!(c.field("pod/crash", "{.status.containerStatuses[0].lastState.terminated.exitCode}"), "3");
    assert_eq!(c.ctl(&["logs", "crash", "--previous"]).ok(), "boom\n");
    assert!(c.ctl(&["get", "pod", "crash"]).ok().contains("CrashLoopBackOff"));

    c.create(&busybox("once", "echo done", "", "  restartPolicy: Never"));
    c.wait_field("pod/once", "{.status.phase}", "Succeeded", 20);
    assert_eq!(c.field("pod/once", "{.status.containerStatuses[0].state.terminated.reason}"), "Completed");
    c.create(
        &busybox("no-image", SLEEP, "    imagePullPolicy: Never", "")
            .replace("busybox:1.35", "nowhere.test/none:1"),
    );
    c.wait_field(
        "pod/no-image",
        "{.status.containerStatuses[0].state.waiting.reason}",
        "ErrImageNeverPull",
        20,
    );
}

#[test]
fn a_static_pod_runs_and_shows_in_the_api() {
    let c = TestCluster::start();
    let manifest = busybox("fixed", SLEEP, "", "");
    let path = c.layout().node(1).join("manifests/fixed.yaml");
    std::fs::write(&path, manifest).unwrap();
    c.wait_ready("fixed-node1", 40);
    std::fs::remove_file(path).unwrap();
    eventually("the mirror pod goes", 40, || match c.ctl(&["get", "pod", "fixed-node1"]).code {
        0 => Err("it is still there".into()),
        _ => Ok(()),
    });
}

#[test]
fn a_port_is_forwarded() {
    use std::io::{BufRead, BufReader, Read, Write};
    let c = TestCluster::start();
    let probe = "    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}";
    c.create(&busybox("web", "mkdir /w; echo hi > /w/index.html; exec httpd -f -p 8080 -h /w", probe, ""));
    c.wait_ready("web", 30);
    for program in ["ctl", "kubectl"] {
        let path = if program == "ctl" {
            integration_tests::binaries::folder().join("ctl")
        } else {
            integration_tests::binaries::kubectl("1.36")
        };
        let mut child = std::process::Command::new(path)
            .arg("--kubeconfig")
            .arg(c.layout().kubeconfig("admin"))
            .args(["port-forward", "pod/web", ":8080"])
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        // Kept open: a program whose output nobody reads is ended.
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let address = line.split(' ').nth(2).unwrap_or_default().to_owned();
        for _ in 0..2 {
            let mut s = std::net::TcpStream::connect(&address).unwrap_or_else(|e| panic!("{line}: {e}"));
            s.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            let mut answer = String::new();
            s.read_to_string(&mut answer).unwrap();
            assert!(answer.ends_with("hi\n"), "{program}: {answer}");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
