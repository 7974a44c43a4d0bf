//! Recorded requests through the rules of their kind: what a v1.36 API server answered to a create, but for
//! what other parts of the server add (admission plugins, allocators, managed fields), which [`Admission`]
//! stands in for.

use serde_json::{Value, json};

use super::{names, strategy, validate};
use crate::field::{ErrorList, Path};
use crate::registry::strategy::Context;
use crate::status::ApiError;

/// Where a create went.
struct Target {
    group: String,
    resource: String,
    namespaced: bool,
}

fn target(path: &str) -> Target {
    let path = path.split('?').next().unwrap_or_default();
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let (group, rest) = if parts[0] == "api" { ("", &parts[2..]) } else { (parts[1], &parts[3..]) };
    let (namespaced, resource) = match rest {
        ["namespaces", _, resource] => (true, *resource),
        [resource] => (false, *resource),
        _ => (false, ""),
    };
    Target { group: group.to_owned(), resource: resource.to_owned(), namespaced }
}

/// What the default admission plugins and the allocators do to an object.
fn admission(t: &Target, o: &mut Value) {
    let push = |list: &mut Value, item: Value| match list.as_array_mut() {
        Some(a) => a.push(item),
        None => *list = json!([item]),
    };
    match t.resource.as_str() {
        "pods" => {
            let s = &mut o["spec"];
            s["serviceAccountName"] = json!("default");
            s["serviceAccount"] = json!("default");
            s["priority"] = json!(0);
            s["preemptionPolicy"] = json!("PreemptLowerPriority");
            for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
                let t = json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300});
                push(&mut s["tolerations"], t);
            }
            let name = "kube-api-access-abcde";
            let volume = json!({"name": name, "projected": {"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [{"path": "namespace",
                    "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}}]}});
            push(&mut s["volumes"], volume);
            let mount = json!({"name": name, "readOnly": true,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"});
            for list in ["containers", "initContainers"] {
                for c in s[list].as_array_mut().into_iter().flatten() {
                    push(&mut c["volumeMounts"], mount.clone());
                }
            }
        }
        "nodes" => {
            let taint = json!({"key": "node.kubernetes.io/not-ready", "effect": "NoSchedule"});
            push(&mut o["spec"]["taints"], taint);
        }
        "persistentvolumeclaims" => o["metadata"]["finalizers"] = json!(["kubernetes.io/pvc-protection"]),
        "volumeattributesclasses" => {
            o["metadata"]["finalizers"] = json!(["kubernetes.io/vac-protection"]);
        }
        "persistentvolumes" => o["metadata"]["finalizers"] = json!(["kubernetes.io/pv-protection"]),
        _ => {}
    }
}

/// Answer of the rules to one create.
fn create(t: &Target, body: &Value) -> (u16, Value, Vec<String>) {
    let rules = strategy(&t.group, &t.resource).expect("a strategy");
    let mut o = body.clone();
    let mut cx = Context { now: Some(jiff::Timestamp::now()), ..Context::default() };
    if t.namespaced {
        o["metadata"]["namespace"] = json!("default");
    }
    o["metadata"]["uid"] = json!("12345678-1234-1234-1234-123456789abc");
    rules.default(&mut o).expect("default");
    let generate = o["metadata"]["generateName"].as_str().unwrap_or_default().to_owned();
    if o["metadata"]["name"].as_str().unwrap_or_default().is_empty() && !generate.is_empty() {
        o["metadata"]["name"] = json!(format!("{generate}abcde"));
    }
    admission(t, &mut o);
    let (mut once, mut whole) = (Context { now: cx.now, ..Context::default() }, o.clone());
    let wrong = rules.create(&mut once, &mut whole).expect("create");
    rules.prepare_create(&mut cx, &mut o).expect("prepare_create");
    let typed = serde_json::from_value(o["metadata"].clone()).expect("metadata");
    let name_fn = names::name_fn(&t.group, &t.resource);
    let mut errors: ErrorList = validate::object_meta(&typed, t.namespaced, name_fn, &Path::new("metadata"));
    let found = rules.validate(&mut cx, &o).expect("validate");
    assert_eq!(
        (whole, format!("{wrong:?}"), &once.warnings),
        (o.clone(), format!("{found:?}"), &cx.warnings),
        "in one step and in two"
    );
    errors.extend(found);
    if !errors.is_empty() {
        let kind = body["kind"].as_str().unwrap_or_default();
        let name = o["metadata"]["name"].as_str().unwrap_or_default();
        // The server warns only of what is valid.
        return (422, ApiError::invalid(&t.group, kind, name, &errors).to_status(), Vec::new());
    }
    if t.resource == "services" && o["spec"]["type"] != "ExternalName" && o["spec"]["clusterIP"].is_null() {
        o["spec"]["clusterIP"] = json!("10.96.0.9");
        o["spec"]["clusterIPs"] = json!(["10.96.0.9"]);
    }
    (201, o, cx.warnings)
}

/// As the recorder left them: without ids, times and random suffixes; empty values count as absent.
fn plain(v: &Value) -> Value {
    match v {
        Value::Object(m) => {
            let mut out = serde_json::Map::new();
            for (k, x) in m {
                let volatile = [
                    "uid",
                    "creationTimestamp",
                    "resourceVersion",
                    "time",
                    "nodePort",
                    "healthCheckNodePort",
                    "managedFields",
                ];
                let generated = k == "name"
                    && m.get("generateName")
                        .and_then(Value::as_str)
                        .is_some_and(|g| x.as_str().is_some_and(|x| x.starts_with(g) || x == "<generated>"));
                let x = if generated { json!("<generated>") } else { plain(x) };
                let empty = x.is_null() || x == "" || x.as_array().is_some_and(Vec::is_empty);
                if !volatile.contains(&k.as_str()) && !empty {
                    out.insert(k.clone(), x);
                }
            }
            Value::Object(out)
        }
        Value::Array(a) => Value::Array(a.iter().map(plain).collect()),
        Value::String(s) => Value::String(plain_text(s)),
        _ => v.clone(),
    }
}

fn plain_text(s: &str) -> String {
    let is_age = s.len() > 1
        && s.split_inclusive(['s', 'm', 'h', 'd']).count() <= 2
        && s.split_inclusive(['s', 'm', 'h', 'd'])
            .all(|p| p.len() > 1 && p[..p.len() - 1].bytes().all(|b| b.is_ascii_digit()))
        && s.ends_with(['s', 'm', 'h', 'd']);
    let is_time = s.parse::<jiff::Timestamp>().is_ok();
    if is_age {
        return "<age>".to_owned();
    }
    if is_time {
        return "<time>".to_owned();
    }
    if s.starts_with("10.96.") && !s.starts_with("10.96.200.") && s.len() < 14 {
        return "<allocated>".to_owned();
    }
    s.replace("12345678-1234-1234-1234-123456789abc", "<uid>")
        .replace("kube-api-access-abcde", "kube-api-access-<suffix>")
}

fn differences(want: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            let keys: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            for k in keys {
                match (a.get(k), b.get(k)) {
                    (Some(x), Some(y)) => differences(x, y, &format!("{path}.{k}"), out),
                    (x, y) => out.push(format!("{path}.{k}: want {x:?}, got {y:?}")),
                }
            }
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                differences(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ if want != got => out.push(format!("{path}: want {want}, got {got}")),
        _ => {}
    }
}

/// Answers that come from elsewhere in the server.
const ELSEWHERE: [&str; 2] = ["namespace not found", "unknown field warned"];

fn check(data: &str) {
    let all: Vec<Value> = serde_json::from_str(data).expect("vectors");
    let mut failed = Vec::new();
    let mut checked = 0;
    for v in &all {
        let status = v["status"].as_u64().unwrap_or(0);
        let name = v["name"].as_str().unwrap_or_default();
        if v["method"] != "POST" || !matches!(status, 201 | 422) || ELSEWHERE.contains(&name) {
            continue;
        }
        let t = target(v["path"].as_str().unwrap_or_default());
        // Rules see objects in the form in which they are stored.
        let path = v["path"].as_str().unwrap_or_default();
        let stored = crate::registry::rules::storage_group_version(&t.group, &t.resource);
        if stored.is_some_and(|(g, version)| g != t.group || !path.contains(&format!("/{g}/{version}/"))) {
            continue;
        }
        if strategy(&t.group, &t.resource).is_none() {
            // Reviews are answered, not stored: they have no rules here.
            assert!(t.resource.ends_with("reviews"), "{name}: no rules for {}/{}", t.group, t.resource);
            continue;
        }
        checked += 1;
        let (code, got, mut warnings) = create(&t, &v["body"]);
        if t.resource == "endpoints" {
            // Of the resource, not of the object: the server's filters tell it.
            let deprecated = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
            warnings.insert(0, deprecated.to_owned());
        }
        let mut diff = Vec::new();
        if u64::from(code) != status {
            diff.push(format!("status: want {status}, got {code}: {}", got["message"]));
            if status == 422 {
                diff.push(v["answer"]["message"].to_string());
            }
        } else {
            differences(&plain(&v["answer"]), &plain(&got), "", &mut diff);
            let told: Vec<String> = warnings.iter().map(|w| format!("299 - {w:?}")).collect();
            let want: Vec<&str> =
                v["warnings"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
            if told != want {
                diff.push(format!("warnings: want {want:?}, got {told:?}"));
            }
        }
        if !diff.is_empty() {
            failed.push(format!("{name}:\n    {}", diff.join("\n    ")));
        }
    }
    assert!(checked > 40, "only {checked} vectors were checked");
    assert!(failed.is_empty(), "{} of {checked} differ:\n{}", failed.len(), failed.join("\n"));
}

#[test]
fn recorded_creates_are_answered_as_recorded() {
    check(include_str!("../../tests/data/vectors.json"));
}

#[test]
fn more_recorded_creates_are_answered_as_recorded() {
    check(include_str!("../../tests/data/creates.json"));
}
