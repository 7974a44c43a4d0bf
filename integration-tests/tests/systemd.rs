//! The unit files, under a real systemd: start, notification, restart after kill -9, journal.

use integration_tests::eventually;
use integration_tests::machine::{DAEMONS, Machine};

const POD: &str = "apiVersion: v1\\nkind: Pod\\nmetadata: {name: unit}\\nspec:\\n  terminationGracePeriodSeconds: 1\\n  containers: [{name: c, image: busybox:1.35, command: [sleep, infinity]}]\\n";

#[test]
fn units_start_a_cluster_and_bring_killed_daemons_back() {
    let m = Machine::boot();
    for d in DAEMONS {
        let unit = format!("/etc/systemd/system/{d}.service");
        let out = m.run("systemd-analyze", &["verify", "--man=no", &unit]);
        assert!(out.code == 0 && out.stderr.is_empty(), "{d}: {out:?}");
    }
    m.run("systemctl", &["daemon-reload"]).ok();
    m.run("systemctl", &["restart", "containerd"]).ok();
    m.run(
        "ctl",
        &[
            "image",
            "import",
            "/usr/share/coxswain-images.tar",
            "--containerd",
            "/run/containerd/containerd.sock",
        ],
    )
    .ok();
    // Type=notify: start returns when the daemon serves.
    for d in DAEMONS {
        m.run("systemctl", &["start", d]).ok();
        assert_eq!(m.property(d, "ActiveState"), "active", "{d}");
    }
    let ctl = |args: &[&str]| m.run("ctl", &[&["--kubeconfig", "/etc/kubernetes/admin.conf"], args].concat());
    eventually("the node is Ready and the pod can be made", 60, || {
        let out = m.sh(&format!("printf '{POD}' | ctl --kubeconfig /etc/kubernetes/admin.conf apply -f -"));
        if out.code == 0 { Ok(()) } else { Err(out.stderr) }
    });
    let phase = || {
        ctl(&[
            "get",
            "pod",
            "unit",
            "-o",
            "jsonpath={.status.phase} {.status.containerStatuses[0].containerID}",
        ])
        .stdout
    };
    let running = eventually("the pod runs", 60, || {
        let now = phase();
        if now.starts_with("Running ") {
            Ok(now)
        } else {
            Err(format!("{now}\n{}", ctl(&["describe", "pod", "unit"]).stdout))
        }
    });
    for d in DAEMONS {
        let pid = m.property(d, "MainPID");
        m.run("kill", &["-9", &pid]).ok();
        eventually(&format!("{d} is back"), 30, || {
            let (state, now) = (m.property(d, "ActiveState"), m.property(d, "MainPID"));
            // The two are read one after the other: a daemon without a process has just been seen to end.
            if state == "active" && now != pid && now != "0" {
                Ok(())
            } else {
                Err(format!("{state}, pid {now}"))
            }
        });
        assert_eq!(m.property(d, "NRestarts"), "1", "{d}");
    }
    eventually("the pod still runs in the same container", 30, || {
        let now = phase();
        if now == running { Ok(()) } else { Err(now) }
    });
    for d in DAEMONS {
        let journal = m.run("journalctl", &["-u", d, "--no-pager", "-q"]).ok();
        assert!(journal.matches("starting").count() >= 2, "{d}: {journal}");
        m.run("systemctl", &["stop", d]).ok();
        assert_eq!(m.property(d, "Result"), "success", "{d}");
    }
}
