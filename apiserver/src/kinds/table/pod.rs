//! The row of a pod: one word for its state, out of phase, conditions and all of its containers.

use serde_json::{Value, json};

use super::cells::{Row, list, or, text};

/// What the containers tell.
#[derive(Default)]
struct Tally<'a> {
    reason: String,
    ready: usize,
    restarts: i64,
    last_restart: Option<&'a str>,
    /// The same for restartable init containers alone.
    sidecar_restarts: i64,
    sidecar_last_restart: Option<&'a str>,
}

fn later<'a>(a: Option<&'a str>, b: &'a str) -> Option<&'a str> {
    // Timestamps of the API sort as text: same zone, same precision.
    if b.is_empty() { a } else { Some(a.map_or(b, |a| a.max(b))) }
}

fn condition_is_true(pod: &Value, kind: &str) -> bool {
    list(&pod["status"]["conditions"]).iter().any(|c| text(c, "type") == kind && text(c, "status") == "True")
}

/// Why a container ended, where it says nothing itself.
fn end_reason(terminated: &Value) -> String {
    match (text(terminated, "reason"), terminated["signal"].as_i64().unwrap_or(0)) {
        ("", 0) => format!("ExitCode:{}", terminated["exitCode"].as_i64().unwrap_or(0)),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// Goes over the init containers; true if one of them still keeps the pod from starting.
fn count_init<'a>(pod: &'a Value, t: &mut Tally<'a>) -> bool {
    let specs = list(&pod["spec"]["initContainers"]);
    let is_sidecar =
        |name: &str| specs.iter().any(|c| text(c, "name") == name && text(c, "restartPolicy") == "Always");
    for (i, c) in list(&pod["status"]["initContainerStatuses"]).iter().enumerate() {
        let count = c["restartCount"].as_i64().unwrap_or(0);
        let finished = text(&c["lastState"]["terminated"], "finishedAt");
        let sidecar = is_sidecar(text(c, "name"));
        t.restarts += count;
        t.last_restart = later(t.last_restart, finished);
        if sidecar {
            t.sidecar_restarts += count;
            t.sidecar_last_restart = later(t.sidecar_last_restart, finished);
        }
        let terminated = &c["state"]["terminated"];
        let waiting = text(&c["state"]["waiting"], "reason");
        if terminated.is_object() && terminated["exitCode"].as_i64().unwrap_or(0) == 0 {
            continue;
        }
        if sidecar && c["started"] == true {
            t.ready += usize::from(c["ready"] == true);
            continue;
        }
        t.reason = if terminated.is_object() {
            format!("Init:{}", end_reason(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", specs.len())
        };
        return true;
    }
    false
}

fn count_containers<'a>(pod: &'a Value, t: &mut Tally<'a>) {
    t.restarts = t.sidecar_restarts;
    t.last_restart = t.sidecar_last_restart;
    let mut running = false;
    let mut failure = None;
    for c in list(&pod["status"]["containerStatuses"]).iter().rev() {
        t.restarts += c["restartCount"].as_i64().unwrap_or(0);
        t.last_restart = later(t.last_restart, text(&c["lastState"]["terminated"], "finishedAt"));
        let waiting = text(&c["state"]["waiting"], "reason");
        let terminated = &c["state"]["terminated"];
        if !waiting.is_empty() {
            t.reason = waiting.to_owned();
        } else if terminated.is_object() {
            t.reason = end_reason(terminated);
            if terminated["exitCode"].as_i64().unwrap_or(0) != 0 {
                failure = Some(t.reason.clone());
            }
        } else if c["ready"] == true && c["state"]["running"].is_object() {
            running = true;
            t.ready += 1;
        }
    }
    if t.reason == "Completed" {
        // Some containers ended well while others run on, or one of them failed.
        if running && condition_is_true(pod, "Ready") {
            t.reason = "Running".to_owned();
        } else if let Some(f) = failure {
            t.reason = f;
        } else if running {
            t.reason = "NotReady".to_owned();
        }
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = list(&pod["spec"]["readinessGates"]);
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let met = gates.iter().filter(|g| condition_is_true(pod, text(g, "conditionType"))).count();
    format!("{met}/{}", gates.len())
}

pub fn pod(row: &Row<'_>) -> Vec<Value> {
    let pod = row.object;
    let phase = row.text("/status/phase");
    let status_reason = row.text("/status/reason");
    let mut t = Tally { reason: or(status_reason, phase).to_owned(), ..Tally::default() };
    for c in row.list("/status/conditions") {
        if text(c, "type") == "PodScheduled" && text(c, "reason") == "SchedulingGated" {
            t.reason = "SchedulingGated".to_owned();
        }
    }
    let sidecars =
        row.list("/spec/initContainers").iter().filter(|c| text(c, "restartPolicy") == "Always").count();
    let total = row.list("/spec/containers").len() + sidecars;
    let initializing = count_init(pod, &mut t);
    if !initializing || condition_is_true(pod, "Initialized") {
        count_containers(pod, &mut t);
    }
    if row.is_deleted() {
        if status_reason == "NodeLost" {
            t.reason = "Unknown".to_owned();
        } else if !matches!(phase, "Succeeded" | "Failed") {
            t.reason = "Terminating".to_owned();
        }
    }
    let restarts = match t.last_restart {
        Some(when) if t.restarts != 0 => format!("{} ({} ago)", t.restarts, row.since(when)),
        _ => t.restarts.to_string(),
    };
    let ip = row.list("/status/podIPs").first().map_or("", |p| text(p, "ip"));
    vec![
        row.name(),
        json!(format!("{}/{total}", t.ready)),
        json!(t.reason),
        json!(restarts),
        row.age(),
        json!(or(ip, "<none>")),
        json!(or(row.text("/spec/nodeName"), "<none>")),
        json!(or(row.text("/status/nominatedNodeName"), "<none>")),
        json!(readiness_gates(pod)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(mut p: Value) -> Vec<String> {
        p["metadata"]["name"] = json!("p");
        let now = "2026-01-01T00:10:00Z".parse().unwrap();
        pod(&Row { object: &p, now }).iter().map(|v| v.as_str().unwrap_or_default().to_owned()).collect()
    }

    #[test]
    fn crash_loop_tells_restarts_and_when() {
        let c = cells(json!({
            "spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Running", "containerStatuses": [{
                "name": "a", "restartCount": 3, "ready": false,
                "state": {"waiting": {"reason": "CrashLoopBackOff"}},
                "lastState": {"terminated": {"exitCode": 1, "finishedAt": "2026-01-01T00:05:00Z"}}}]}}));
        assert_eq!(c[1..4], ["0/1", "CrashLoopBackOff", "3 (5m ago)"]);
    }

    #[test]
    fn init_containers_show_their_progress() {
        let spec = json!({"initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}]});
        let c = cells(json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 0, "state": {"running": {}}}]}}));
        assert_eq!(c[1..3], ["0/2", "Init:0/2"]);
        let c = cells(json!({"spec": spec, "status": {"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "restartCount": 0, "state": {"terminated": {"exitCode": 2}}}]}}));
        assert_eq!(c[2], "Init:ExitCode:2");
    }

    #[test]
    fn ends_and_deletion() {
        let done = json!({"name": "a", "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let c = cells(json!({"spec": {"containers": [{"name": "a"}]},
            "status": {"phase": "Succeeded", "containerStatuses": [done]}}));
        assert_eq!(c[2], "Completed");
        let c = cells(json!({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"containers": [{"name": "a"}]}, "status": {"phase": "Running"}}));
        assert_eq!(c[2], "Terminating");
    }
}
