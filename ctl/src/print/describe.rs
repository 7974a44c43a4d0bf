//! The text of `describe`. Pure: objects in, text out.

use std::fmt::Write;

use serde_json::Value;

use super::table::align;
use super::time::{long, since};
use crate::api::resources::{array, text};

/// Objects that are shown with the one described.
#[derive(Debug, Default)]
pub struct Related {
    /// None: events are not shown.
    pub events: Option<Vec<Value>>,
    /// Endpoint slices of a service, pods of a node, replica sets of a deployment.
    pub others: Vec<Value>,
}

/// Column at which values begin.
const WIDTH: usize = 18;

/// An object and what belongs to it, as text.
pub fn describe(o: &Value, related: &Related) -> String {
    let mut out = String::new();
    let m = &o["metadata"];
    line(&mut out, 0, "Name", &text(&m["name"]));
    if m["namespace"].is_string() {
        line(&mut out, 0, "Namespace", &text(&m["namespace"]));
    }
    match text(&o["kind"]).as_str() {
        "Pod" => pod(&mut out, o),
        "Node" => node(&mut out, o, &related.others),
        "Service" => service(&mut out, o, &related.others),
        "Deployment" => deployment(&mut out, o, &related.others),
        "ReplicaSet" | "ReplicationController" | "StatefulSet" | "DaemonSet" | "Job" => workload(&mut out, o),
        "Secret" => secret(&mut out, o),
        "ConfigMap" => config_map(&mut out, o),
        _ => other(&mut out, o),
    }
    if let Some(list) = &related.events {
        events(&mut out, list);
    }
    out
}

fn line(out: &mut String, indent: usize, key: &str, value: &str) {
    let key = format!("{}{key}:", " ".repeat(indent));
    // A long key pushes its value to the right. Writing to a String cannot fail.
    let width = WIDTH.max(key.chars().count() + 2);
    let _ = writeln!(out, "{key:<width$}{value}");
}

fn heading(out: &mut String, indent: usize, key: &str) {
    let _ = writeln!(out, "{}{key}:", " ".repeat(indent));
}

/// `a=b` lines under one key.
fn map(out: &mut String, key: &str, v: &Value) {
    let entries: Vec<String> =
        v.as_object().into_iter().flatten().map(|(k, v)| format!("{k}={}", plain(v))).collect();
    many(out, 0, key, &entries);
}

fn many(out: &mut String, indent: usize, key: &str, values: &[String]) {
    line(out, indent, key, values.first().map_or("<none>", String::as_str));
    for v in values.iter().skip(1) {
        let _ = writeln!(out, "{:WIDTH$}{v}", "");
    }
}

fn plain(v: &Value) -> String {
    match v {
        Value::String(s) => s.clone(),
        Value::Null => "<none>".into(),
        other => other.to_string(),
    }
}

fn or_none(v: &Value) -> String {
    let t = text(v);
    if t.is_empty() { "<none>".into() } else { t }
}

fn metadata(out: &mut String, o: &Value) {
    map(out, "Labels", &o["metadata"]["labels"]);
    let mut annotations = o["metadata"]["annotations"].clone();
    if let Some(a) = annotations.as_object_mut() {
        // The whole object again: of no use to a reader.
        a.remove("kubectl.kubernetes.io/last-applied-configuration");
    }
    map(out, "Annotations", &annotations);
}

fn owner(out: &mut String, o: &Value) {
    if let Some(c) = array(&o["metadata"]["ownerReferences"]).iter().find(|r| r["controller"] == true) {
        line(out, 0, "Controlled By", &format!("{}/{}", text(&c["kind"]), text(&c["name"])));
    }
}

fn pod(out: &mut String, o: &Value) {
    let (spec, status) = (&o["spec"], &o["status"]);
    line(out, 0, "Priority", &plain(spec.get("priority").unwrap_or(&Value::from(0))));
    line(out, 0, "Service Account", &or_none(&spec["serviceAccountName"]));
    let node = text(&spec["nodeName"]);
    let node = if node.is_empty() { "<none>".into() } else { format!("{node}/{}", text(&status["hostIP"])) };
    line(out, 0, "Node", &node);
    if status["startTime"].is_string() {
        line(out, 0, "Start Time", &long(&text(&status["startTime"])));
    }
    metadata(out, o);
    if o["metadata"]["deletionTimestamp"].is_string() {
        line(
            out,
            0,
            "Status",
            &format!("Terminating (lasts {})", since(&text(&o["metadata"]["deletionTimestamp"]))),
        );
        line(
            out,
            0,
            "Termination Grace Period",
            &format!("{}s", plain(&o["metadata"]["deletionGracePeriodSeconds"])),
        );
    } else {
        line(out, 0, "Status", &text(&status["phase"]));
    }
    for (key, field) in [("Reason", "reason"), ("Message", "message")] {
        if status[field].is_string() {
            line(out, 0, key, &text(&status[field]));
        }
    }
    line(out, 0, "IP", &text(&status["podIP"]));
    heading(out, 0, "IPs");
    for ip in array(&status["podIPs"]) {
        line(out, 2, "IP", &text(&ip["ip"]));
    }
    owner(out, o);
    for (title, list, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
        ("Ephemeral Containers", "ephemeralContainers", "ephemeralContainerStatuses"),
    ] {
        let containers = array(&spec[list]);
        if containers.is_empty() {
            continue;
        }
        heading(out, 0, title);
        for c in containers {
            let state = array(&status[statuses]).iter().find(|s| s["name"] == c["name"]);
            container(out, c, state);
        }
    }
    conditions(out, status, false);
    volumes(out, spec);
    line(out, 0, "QoS Class", &or_none(&status["qosClass"]));
    map(out, "Node-Selectors", &spec["nodeSelector"]);
    let tolerations: Vec<String> = array(&spec["tolerations"]).iter().map(toleration).collect();
    many(out, 0, "Tolerations", &tolerations);
}

fn container(out: &mut String, c: &Value, status: Option<&Value>) {
    heading(out, 2, &text(&c["name"]));
    if let Some(s) = status {
        line(out, 4, "Container ID", &text(&s["containerID"]));
    }
    line(out, 4, "Image", &text(&c["image"]));
    if let Some(s) = status {
        line(out, 4, "Image ID", &text(&s["imageID"]));
    }
    let ports: Vec<String> = array(&c["ports"])
        .iter()
        .map(|p| {
            format!(
                "{}/{}",
                p["containerPort"],
                Some(text(&p["protocol"])).filter(|x| !x.is_empty()).unwrap_or("TCP".into())
            )
        })
        .collect();
    line(out, 4, "Port", &if ports.is_empty() { "<none>".into() } else { ports.join(", ") });
    for (key, field) in [("Command", "command"), ("Args", "args")] {
        if !array(&c[field]).is_empty() {
            heading(out, 4, key);
            array(&c[field]).iter().for_each(|a| {
                let _ = writeln!(out, "      {}", text(a));
            });
        }
    }
    if let Some(s) = status {
        state(out, "State", &s["state"]);
        if s["lastState"].as_object().is_some_and(|m| !m.is_empty()) {
            state(out, "Last State", &s["lastState"]);
        }
        line(out, 4, "Ready", if s["ready"] == true { "True" } else { "False" });
        line(out, 4, "Restart Count", &plain(&s["restartCount"]));
    }
    for (key, field) in [("Limits", "limits"), ("Requests", "requests")] {
        if let Some(m) = c["resources"][field].as_object().filter(|m| !m.is_empty()) {
            heading(out, 4, key);
            m.iter().for_each(|(k, v)| line(out, 6, k, &plain(v)));
        }
    }
    for (key, field) in
        [("Liveness", "livenessProbe"), ("Readiness", "readinessProbe"), ("Startup", "startupProbe")]
    {
        if c[field].is_object() {
            line(out, 4, key, &probe(&c[field]));
        }
    }
    let env: Vec<Value> = array(&c["env"]).to_vec();
    if env.is_empty() {
        line(out, 4, "Environment", "<none>");
    } else {
        heading(out, 4, "Environment");
        env.iter().for_each(|e| line(out, 6, &text(&e["name"]), &env_value(e)));
    }
    let mounts: Vec<String> = array(&c["volumeMounts"])
        .iter()
        .map(|m| {
            format!(
                "{} from {} ({})",
                text(&m["mountPath"]),
                text(&m["name"]),
                if m["readOnly"] == true { "ro" } else { "rw" }
            )
        })
        .collect();
    if mounts.is_empty() {
        line(out, 4, "Mounts", "<none>");
    } else {
        heading(out, 4, "Mounts");
        mounts.iter().for_each(|m| {
            let _ = writeln!(out, "      {m}");
        });
    }
}

fn state(out: &mut String, key: &str, s: &Value) {
    if s["running"].is_object() {
        line(out, 4, key, "Running");
        line(out, 6, "Started", &long(&text(&s["running"]["startedAt"])));
    } else if s["terminated"].is_object() {
        let t = &s["terminated"];
        line(out, 4, key, "Terminated");
        line(out, 6, "Reason", &text(&t["reason"]));
        if t["message"].is_string() {
            line(out, 6, "Message", &text(&t["message"]));
        }
        line(out, 6, "Exit Code", &plain(&t["exitCode"]));
        line(out, 6, "Started", &long(&text(&t["startedAt"])));
        line(out, 6, "Finished", &long(&text(&t["finishedAt"])));
    } else {
        line(out, 4, key, "Waiting");
        if s["waiting"]["reason"].is_string() {
            line(out, 6, "Reason", &text(&s["waiting"]["reason"]));
        }
    }
}

fn probe(p: &Value) -> String {
    let how = if let Some(h) = p.get("httpGet") {
        let scheme = text(&h["scheme"]).to_ascii_lowercase();
        format!("http-get {scheme}://{}:{}{}", text(&h["host"]), plain(&h["port"]), text(&h["path"]))
    } else if let Some(e) = p.get("exec") {
        let words: Vec<String> = array(&e["command"]).iter().map(text).collect();
        format!("exec [{}]", words.join(" "))
    } else if let Some(t) = p.get("tcpSocket") {
        format!("tcp-socket {}:{}", text(&t["host"]), plain(&t["port"]))
    } else {
        format!("grpc <pod>:{} {}", plain(&p["grpc"]["port"]), text(&p["grpc"]["service"]))
    };
    let n = |f: &str| p[f].as_i64().unwrap_or(0);
    format!(
        "{how} delay={}s timeout={}s period={}s #success={} #failure={}",
        n("initialDelaySeconds"),
        n("timeoutSeconds"),
        n("periodSeconds"),
        n("successThreshold"),
        n("failureThreshold")
    )
}

fn env_value(e: &Value) -> String {
    let from = &e["valueFrom"];
    if let Some(f) = from.get("fieldRef") {
        return format!(
            "({}:{})",
            Some(text(&f["apiVersion"])).filter(|v| !v.is_empty()).unwrap_or("v1".into()),
            text(&f["fieldPath"])
        );
    }
    if let Some(r) = from.get("resourceFieldRef") {
        return format!("({})", text(&r["resource"]));
    }
    for (kind, field) in [("secret", "secretKeyRef"), ("config map", "configMapKeyRef")] {
        if let Some(r) = from.get(field) {
            let optional = r["optional"].as_bool().unwrap_or(false);
            return format!(
                "<set to the key '{}' in {kind} '{}'>  Optional: {optional}",
                text(&r["key"]),
                text(&r["name"])
            );
        }
    }
    text(&e["value"])
}

fn toleration(t: &Value) -> String {
    let mut s = text(&t["key"]);
    if t["value"].is_string() {
        let _ = write!(s, "={}", text(&t["value"]));
    }
    if t["effect"].is_string() {
        let _ = write!(s, ":{}", text(&t["effect"]));
    }
    if t["operator"] == "Exists" {
        s.push_str(if s.is_empty() { "op=Exists" } else { " op=Exists" });
    }
    if let Some(n) = t["tolerationSeconds"].as_i64() {
        let _ = write!(s, " for {n}s");
    }
    s
}

fn conditions(out: &mut String, status: &Value, detailed: bool) {
    let list = array(&status["conditions"]);
    if list.is_empty() {
        return;
    }
    heading(out, 0, "Conditions");
    let mut header = vec!["  Type", "Status"];
    if detailed {
        header.extend(["LastTransitionTime", "Reason", "Message"]);
    }
    let mut rows: Vec<Vec<String>> = vec![header.into_iter().map(str::to_owned).collect()];
    for c in list {
        let mut row = vec![format!("  {}", text(&c["type"])), text(&c["status"])];
        if detailed {
            row.extend([long(&text(&c["lastTransitionTime"])), text(&c["reason"]), text(&c["message"])]);
        }
        rows.push(row);
    }
    out.push_str(&align(&rows, 3));
}

fn volumes(out: &mut String, spec: &Value) {
    let list = array(&spec["volumes"]);
    if list.is_empty() {
        return line(out, 0, "Volumes", "<none>");
    }
    heading(out, 0, "Volumes");
    for v in list {
        heading(out, 2, &text(&v["name"]));
        for (kind, source) in v.as_object().into_iter().flatten().filter(|(k, _)| *k != "name") {
            line(out, 4, "Type", kind);
            for (k, x) in source.as_object().into_iter().flatten() {
                line(out, 4, k, &plain(x));
            }
        }
    }
}

fn node(out: &mut String, o: &Value, pods: &[Value]) {
    let (spec, status) = (&o["spec"], &o["status"]);
    let roles: Vec<String> = o["metadata"]["labels"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(k, _)| k.strip_prefix("node-role.kubernetes.io/").map(str::to_owned))
        .collect();
    line(out, 0, "Roles", &if roles.is_empty() { "<none>".into() } else { roles.join(",") });
    metadata(out, o);
    line(out, 0, "CreationTimestamp", &long(&text(&o["metadata"]["creationTimestamp"])));
    let taints: Vec<String> = array(&spec["taints"]).iter().map(toleration).collect();
    many(out, 0, "Taints", &taints);
    line(out, 0, "Unschedulable", &plain(spec.get("unschedulable").unwrap_or(&Value::Bool(false))));
    conditions(out, status, true);
    heading(out, 0, "Addresses");
    for a in array(&status["addresses"]) {
        line(out, 2, &text(&a["type"]), &text(&a["address"]));
    }
    for (key, field) in
        [("Capacity", "capacity"), ("Allocatable", "allocatable"), ("System Info", "nodeInfo")]
    {
        heading(out, 0, key);
        for (k, v) in status[field].as_object().into_iter().flatten() {
            line(out, 2, k, &plain(v));
        }
    }
    line(out, 0, "PodCIDR", &or_none(&spec["podCIDR"]));
    let _ = writeln!(out, "Non-terminated Pods: ({} in total)", pods.len());
    let mut rows = vec![["  Namespace", "Name", "Age"].map(str::to_owned).to_vec()];
    for p in pods {
        let m = &p["metadata"];
        rows.push(vec![
            format!("  {}", text(&m["namespace"])),
            text(&m["name"]),
            since(&text(&m["creationTimestamp"])),
        ]);
    }
    out.push_str(&align(&rows, 3));
}

fn service(out: &mut String, o: &Value, slices: &[Value]) {
    let spec = &o["spec"];
    metadata(out, o);
    map(out, "Selector", &spec["selector"]);
    line(out, 0, "Type", &text(&spec["type"]));
    line(out, 0, "IP Family Policy", &or_none(&spec["ipFamilyPolicy"]));
    line(out, 0, "IP", &or_none(&spec["clusterIP"]));
    for p in array(&spec["ports"]) {
        let name = Some(text(&p["name"])).filter(|n| !n.is_empty()).unwrap_or("<unset>".into());
        line(out, 0, "Port", &format!("{name}  {}/{}", p["port"], text(&p["protocol"])));
        line(out, 0, "TargetPort", &format!("{}/{}", plain(&p["targetPort"]), text(&p["protocol"])));
        if p["nodePort"].is_number() {
            line(out, 0, "NodePort", &format!("{name}  {}/{}", p["nodePort"], text(&p["protocol"])));
        }
        let endpoints: Vec<String> = slices.iter().flat_map(|s| endpoints(s, &p["name"])).collect();
        line(out, 0, "Endpoints", &endpoints.join(","));
    }
    line(out, 0, "Session Affinity", &text(&spec["sessionAffinity"]));
    line(out, 0, "Internal Traffic Policy", &or_none(&spec["internalTrafficPolicy"]));
}

fn endpoints(slice: &Value, port_name: &Value) -> Vec<String> {
    let named = |p: &&Value| text(&p["name"]) == text(port_name);
    let Some(port) = array(&slice["ports"]).iter().find(named) else { return Vec::new() };
    array(&slice["endpoints"])
        .iter()
        .filter(|e| e["conditions"]["ready"] != false)
        .flat_map(|e| array(&e["addresses"]))
        .map(|a| format!("{}:{}", text(a), plain(&port["port"])))
        .collect()
}

fn template(out: &mut String, spec: &Value) {
    let t = &spec["template"];
    if !t.is_object() {
        return;
    }
    heading(out, 0, "Pod Template");
    line(out, 2, "Labels", &super::table::labels(&t["metadata"]["labels"]));
    heading(out, 2, "Containers");
    for c in array(&t["spec"]["containers"]) {
        container(out, c, None);
    }
}

fn deployment(out: &mut String, o: &Value, sets: &[Value]) {
    let (spec, status) = (&o["spec"], &o["status"]);
    line(out, 0, "CreationTimestamp", &long(&text(&o["metadata"]["creationTimestamp"])));
    metadata(out, o);
    line(out, 0, "Selector", &super::table::labels(&spec["selector"]["matchLabels"]));
    let n = |v: &Value| v.as_i64().unwrap_or(0);
    line(
        out,
        0,
        "Replicas",
        &format!(
            "{} desired | {} updated | {} total | {} available | {} unavailable",
            n(&spec["replicas"]),
            n(&status["updatedReplicas"]),
            n(&status["replicas"]),
            n(&status["availableReplicas"]),
            n(&status["unavailableReplicas"])
        ),
    );
    line(out, 0, "StrategyType", &text(&spec["strategy"]["type"]));
    line(out, 0, "MinReadySeconds", &n(&spec["minReadySeconds"]).to_string());
    if let Some(r) = spec["strategy"].get("rollingUpdate") {
        let text =
            format!("{} max unavailable, {} max surge", plain(&r["maxUnavailable"]), plain(&r["maxSurge"]));
        line(out, 0, "RollingUpdateStrategy", &text);
    }
    template(out, spec);
    conditions(out, status, true);
    let revision = |s: &Value| {
        text(&s["metadata"]["annotations"]["deployment.kubernetes.io/revision"]).parse::<i64>().unwrap_or(0)
    };
    let newest = sets.iter().map(revision).max();
    let show = |s: &&Value| {
        let (name, have, want) =
            (text(&s["metadata"]["name"]), n(&s["status"]["replicas"]), n(&s["spec"]["replicas"]));
        format!("{name} ({have}/{want} replicas created)")
    };
    let (new, old): (Vec<&Value>, Vec<&Value>) = sets.iter().partition(|s| Some(revision(s)) == newest);
    let old: Vec<String> = old.iter().map(show).collect();
    line(out, 0, "OldReplicaSets", &if old.is_empty() { "<none>".into() } else { old.join(", ") });
    line(out, 0, "NewReplicaSet", &new.first().map_or("<none>".into(), show));
}

fn workload(out: &mut String, o: &Value) {
    let (spec, status) = (&o["spec"], &o["status"]);
    let labels = spec["selector"].get("matchLabels").unwrap_or(&spec["selector"]);
    line(out, 0, "Selector", &super::table::labels(labels));
    metadata(out, o);
    owner(out, o);
    for (k, v) in status.as_object().into_iter().flatten().filter(|(_, v)| v.is_number()) {
        line(out, 0, k, &plain(v));
    }
    template(out, spec);
    conditions(out, status, true);
}

fn secret(out: &mut String, o: &Value) {
    metadata(out, o);
    line(out, 0, "Type", &text(&o["type"]));
    out.push_str("\nData\n====\n");
    for (k, v) in o["data"].as_object().into_iter().flatten() {
        // Base64 without its padding, back to bytes.
        let encoded = text(v);
        let bytes = encoded.trim_end_matches('=').len() * 3 / 4;
        let _ = writeln!(out, "{k}:  {bytes} bytes");
    }
}

fn config_map(out: &mut String, o: &Value) {
    metadata(out, o);
    out.push_str("\nData\n====\n");
    for (k, v) in o["data"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{k}:\n----\n{}\n", text(v));
    }
    out.push_str("\nBinaryData\n====\n");
    for (k, v) in o["binaryData"].as_object().into_iter().flatten() {
        let _ = writeln!(out, "{k}: {} bytes", text(v).trim_end_matches('=').len() * 3 / 4);
    }
    out.push('\n');
}

/// Kinds without a form of their own: every field, indented.
fn other(out: &mut String, o: &Value) {
    metadata(out, o);
    line(out, 0, "API Version", &text(&o["apiVersion"]));
    line(out, 0, "Kind", &text(&o["kind"]));
    for (k, v) in o.as_object().into_iter().flatten() {
        if !matches!(k.as_str(), "apiVersion" | "kind" | "metadata") {
            tree(out, 0, &title(k), v);
        }
    }
}

fn tree(out: &mut String, indent: usize, key: &str, v: &Value) {
    match v {
        Value::Object(m) => {
            heading(out, indent, key);
            m.iter().for_each(|(k, v)| tree(out, indent + 2, &title(k), v));
        }
        Value::Array(items) => {
            heading(out, indent, key);
            for i in items {
                match i {
                    Value::Object(m) => m.iter().for_each(|(k, v)| tree(out, indent + 2, &title(k), v)),
                    other => {
                        let _ = writeln!(out, "{}{}", " ".repeat(indent + 2), plain(other));
                    }
                }
            }
        }
        other => line(out, indent, key, &plain(other)),
    }
}

/// `maxSurge` as `Max Surge`.
fn title(field: &str) -> String {
    let mut out = String::new();
    for (i, c) in field.chars().enumerate() {
        if i == 0 {
            out.extend(c.to_uppercase());
        } else {
            if c.is_uppercase() && !out.ends_with(char::is_uppercase) {
                out.push(' ');
            }
            out.push(c);
        }
    }
    out
}

fn events(out: &mut String, list: &[Value]) {
    if list.is_empty() {
        return line(out, 0, "Events", "<none>");
    }
    heading(out, 0, "Events");
    let mut rows = vec![["  Type", "Reason", "Age", "From", "Message"].map(str::to_owned).to_vec()];
    rows.push(["  ----", "------", "----", "----", "-------"].map(str::to_owned).to_vec());
    for e in list {
        let first =
            |fields: &[&Value]| fields.iter().map(|f| text(f)).find(|t| !t.is_empty()).unwrap_or_default();
        let last_seen = first(&[
            &e["series"]["lastObservedTime"],
            &e["lastTimestamp"],
            &e["eventTime"],
            &e["metadata"]["creationTimestamp"],
        ]);
        let count = e["series"]["count"].as_i64().or(e["count"].as_i64()).unwrap_or(1);
        let age = if count > 1 {
            let began = first(&[&e["firstTimestamp"], &e["eventTime"]]);
            format!("{} (x{count} over {})", since(&last_seen), since(&began))
        } else {
            since(&last_seen)
        };
        let from = first(&[&e["source"]["component"], &e["reportingComponent"]]);
        rows.push(vec![
            format!("  {}", text(&e["type"])),
            text(&e["reason"]),
            age,
            from,
            text(&e["message"]).trim().to_owned(),
        ]);
    }
    out.push_str(&align(&rows, 2));
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_shows_its_containers_and_events() {
        let o = json!({
            "kind": "Pod", "metadata": {"name": "a", "namespace": "b"},
            "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 2,
                "state": {"terminated": {"exitCode": 3, "reason": "Error"}}}]},
        });
        let related = Related {
            events: Some(vec![json!({"type": "Normal", "reason": "Started", "message": "m", "count": 1})]),
            ..Related::default()
        };
        let text = describe(&o, &related);
        for part in ["Name:             a\n", "Exit Code:      3", "Restart Count:  2", "80/TCP", "Started"] {
            let squeezed = |s: &str| s.split_whitespace().collect::<Vec<_>>().join(" ");
            assert!(squeezed(&text).contains(&squeezed(part)), "{part} in\n{text}");
        }
        assert_eq!(title("maxSurgeIP"), "Max Surge IP");
    }
}
