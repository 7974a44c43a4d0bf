//! The API as a v1.36 server has it, fact by fact: recorded requests with their answers, the objects of a fresh
//! control plane, and the columns of tables.

mod common;

use std::collections::BTreeMap;

use common::{Client, TestServer};
use http::Method;
use regex::Regex;
use serde_json::{Map, Value, json};

const VECTORS: [&str; 2] = [include_str!("data/vectors.json"), include_str!("data/creates.json")];
const BOOTSTRAP: &str = include_str!("../data/bootstrap-v1.36.json");
const COLUMNS: &str = include_str!("../../proto/data/table-columns-v1.36.json");

/// Fields whose values are each server's own.
const OWN: [&str; 7] =
    ["uid", "creationTimestamp", "resourceVersion", "time", "selfLink", "nodePort", "healthCheckNodePort"];

/// Text with what differs between two servers, or two times of the day, replaced by what it is.
struct Plain {
    rules: Vec<(Regex, &'static str)>,
    age: Regex,
    /// The service range is 10.96.0.0/16; what is in 10.96.200 is asked for by name.
    allocated: Regex,
    requested: Regex,
}

impl Plain {
    fn new() -> Self {
        let r = |s: &str| Regex::new(s).expect("a pattern");
        Self {
            rules: vec![
                (r(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "<time>"),
                (r(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<uid>"),
                (r(r"current: \d+"), "current: <version>"),
                (r(r"kube-api-access-[a-z0-9]{5}"), "kube-api-access-<suffix>"),
            ],
            age: r(r"^(\d+[smhd]){1,2}$"),
            allocated: r(r"^10\.96\.\d+\.\d+$"),
            requested: r(r"^10\.96\.200\.\d+$"),
        }
    }

    fn text(&self, s: &str) -> String {
        let mut s = s.to_owned();
        for (pattern, with) in &self.rules {
            s = pattern.replace_all(&s, *with).into_owned();
        }
        if self.age.is_match(&s) {
            return "<age>".to_owned();
        }
        if self.allocated.is_match(&s) && !self.requested.is_match(&s) {
            return "<allocated>".to_owned();
        }
        s
    }

    fn value(&self, v: &Value) -> Value {
        match v {
            Value::Object(m) => {
                let base = m.get("generateName").and_then(Value::as_str).filter(|b| !b.is_empty());
                let mut out = Map::new();
                for (k, v) in m.iter().filter(|(k, _)| !OWN.contains(&k.as_str())) {
                    let generated =
                        k == "name" && base.is_some_and(|b| v.as_str().is_some_and(|n| n.starts_with(b)));
                    let plain = match k.as_str() {
                        _ if generated => "<generated>".into(),
                        // The prose of a table's columns is free.
                        "columnDefinitions" => self.value(&without(v, "description")),
                        _ => self.value(v),
                    };
                    out.insert(k.clone(), plain);
                }
                out.into()
            }
            Value::Array(a) => a.iter().map(|v| self.value(v)).collect(),
            Value::String(s) => self.text(s).into(),
            other => other.clone(),
        }
    }
}

fn without(list: &Value, field: &str) -> Value {
    let strip = |v: &Value| {
        let mut v = v.clone();
        if let Some(m) = v.as_object_mut() {
            m.remove(field);
        }
        v
    };
    list.as_array().into_iter().flatten().map(strip).collect()
}

/// Where two values differ, by path.
fn differences(want: &Value, got: &Value, path: &str, out: &mut Vec<String>) {
    match (want, got) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, v) in a {
                match b.get(k) {
                    Some(x) => differences(v, x, &format!("{path}.{k}"), out),
                    None => out.push(format!("{path}.{k}: missing {v}")),
                }
            }
            for (k, v) in b.iter().filter(|(k, _)| !a.contains_key(*k)) {
                out.push(format!("{path}.{k}: unexpected {v}"));
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            if a.len() != b.len() {
                out.push(format!("{path}: want {} items, got {}", a.len(), b.len()));
            }
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                differences(x, y, &format!("{path}[{i}]"), out);
            }
        }
        _ if want != got => out.push(format!("{path}: want {want}, got {got}")),
        _ => {}
    }
}

/// Sends a recorded request.
async fn replay(c: &Client, v: &Value) -> Value {
    let text = |k: &str| v[k].as_str().unwrap_or_default();
    let method = Method::from_bytes(text("method").as_bytes()).expect("a method");
    let json_type = |k: &str| v[k].as_str().unwrap_or("application/json").to_owned();
    let (content, accept) = (json_type("type"), json_type("accept"));
    let headers = [("content-type", content.as_str()), ("accept", accept.as_str())];
    let body = match (v.get("raw"), v.get("body")) {
        (Some(raw), _) => raw.as_str().unwrap_or_default().to_owned(),
        (None, Some(body)) => body.to_string(),
        (None, None) => String::new(),
    };
    let a = c.send(method, text("path"), &headers, body).await;
    let answer = serde_json::from_slice(&a.body)
        .unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&a.body).into_owned()));
    let mut out = json!({"status": a.code, "answer": answer});
    let warnings: Vec<&str> = a.headers.get_all("warning").iter().filter_map(|w| w.to_str().ok()).collect();
    if !warnings.is_empty() {
        out["warnings"] = json!(warnings);
    }
    out
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recorded_requests_are_answered_as_recorded() {
    let s = TestServer::start(&[]).await;
    let account = json!({"metadata": {"name": "default"}});
    s.admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let plain = Plain::new();
    let (mut count, mut failed) = (0, Vec::new());
    for v in VECTORS.iter().flat_map(|t| serde_json::from_str::<Vec<Value>>(t).expect("vectors")) {
        count += 1;
        let mut want = json!({"status": v["status"], "answer": v["answer"]});
        if let Some(w) = v.get("warnings") {
            want["warnings"] = w.clone();
        }
        let mut got = replay(&s.admin, &v).await;
        if v.pointer("/answer/metadata/managedFields").is_none()
            && let Some(m) = got.pointer_mut("/answer/metadata").and_then(Value::as_object_mut)
        {
            // Some were recorded without.
            m.remove("managedFields");
        }
        let mut diff = Vec::new();
        differences(&plain.value(&want), &plain.value(&got), "", &mut diff);
        if !diff.is_empty() {
            failed.push(format!("{}:\n    {}", v["name"], diff.join("\n    ")));
        }
    }
    assert!(count > 250, "only {count} requests");
    assert!(failed.is_empty(), "{} of {count} differ:\n{}", failed.len(), failed.join("\n"));
}

/// Applying an object that is not there makes what creating it makes; only its ownership differs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applies_make_what_creates_make() {
    let s = TestServer::start(&[]).await;
    let account = json!({"metadata": {"name": "default"}});
    s.admin.post("/api/v1/namespaces/default/serviceaccounts", &account).await.expect(201);
    let plain = Plain::new();
    let (mut count, mut failed) = (0, Vec::new());
    for v in VECTORS.iter().flat_map(|t| serde_json::from_str::<Vec<Value>>(t).expect("vectors")) {
        let name = v.pointer("/body/metadata/name").and_then(Value::as_str);
        let path = v["path"].as_str().unwrap_or_default();
        let (Some(name), true) =
            (name, v["status"] == 201 && v["method"] == "POST" && v.get("raw").is_none())
        else {
            continue;
        };
        if path.contains("reviews") || v["body"].get("apiVersion").is_none() {
            continue;
        }
        count += 1;
        let (path, query) = path.split_once('?').expect("a query");
        let kind = [("content-type", "application/apply-patch+yaml")];
        let path = format!("{path}/{name}?{query}&force=true");
        let a = s.admin.send(Method::PATCH, &path, &kind, v["body"].to_string()).await;
        let mut diff = Vec::new();
        if a.code == 201 {
            let (mut want, mut got) = (plain.value(&v["answer"]), plain.value(&a.json()));
            for o in [&mut want, &mut got] {
                if let Some(m) = o["metadata"].as_object_mut() {
                    m.remove("managedFields");
                }
            }
            differences(&want, &got, "", &mut diff);
        } else if !String::from_utf8_lossy(&a.body).contains("failed to create typed patch object") {
            // Unknown fields and doubled entries can be created, but not applied.
            diff.push(format!("{}: {}", a.code, String::from_utf8_lossy(&a.body)));
        }
        if !diff.is_empty() {
            failed.push(format!("{}:\n    {}", v["name"], diff.join("\n    ")));
        }
    }
    assert!(count > 90, "only {count} objects");
    assert!(failed.is_empty(), "{} of {count} differ:\n{}", failed.len(), failed.join("\n"));
}

/// An object as it is written by hand: without what the server adds.
fn by_hand(o: &Value) -> Value {
    let mut o = o.clone();
    if let Some(m) = o["metadata"].as_object_mut() {
        m.retain(|k, _| matches!(k.as_str(), "name" | "namespace" | "labels" | "annotations"));
    }
    if let Some(m) = o.as_object_mut() {
        m.remove("status");
    }
    o
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fresh_control_plane_holds_what_it_should() {
    let s = TestServer::start(&[]).await;
    let all: BTreeMap<String, Vec<Value>> = serde_json::from_str(BOOTSTRAP).expect("facts");
    let mut failed = Vec::new();
    for (section, wanted) in &all {
        let (version, kind) = (&wanted[0]["apiVersion"], &wanted[0]["kind"]);
        let version = version.as_str().expect("a version");
        let base = if version == "v1" { "/api/v1".to_owned() } else { format!("/apis/{version}") };
        let list = s.admin.get(&format!("{base}/{section}")).await.expect(200);
        let mut by_name: BTreeMap<String, Value> = BTreeMap::new();
        let key = |o: &Value| format!("{}/{}", o["metadata"]["namespace"], o["metadata"]["name"]);
        for o in list["items"].as_array().expect("items") {
            let mut o = by_hand(o);
            o["apiVersion"] = version.into();
            o["kind"] = kind.clone();
            by_name.insert(key(&o), o);
        }
        for w in wanted {
            match by_name.remove(&key(w)) {
                Some(got) => {
                    let mut diff = Vec::new();
                    differences(w, &got, "", &mut diff);
                    failed.extend(diff.iter().map(|d| format!("{section} {}{d}", key(w))));
                }
                None => failed.push(format!("{section} {} is not there", key(w))),
            }
        }
        failed.extend(by_name.keys().map(|k| format!("{section} {k} is not upstream's")));
    }
    assert!(failed.is_empty(), "{} differences:\n{}", failed.len(), failed.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_have_upstreams_columns() {
    let s = TestServer::start(&["--runtime-config=api/all=true"]).await;
    let facts: BTreeMap<String, Value> = serde_json::from_str(COLUMNS).expect("facts");
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut failed = Vec::new();
    for (kind, wanted) in &facts {
        let name = match kind.as_str() {
            // Shown by clients themselves, and what the facts call otherwise.
            "Scale" | "Status" => continue,
            "DeviceTaint" => "DeviceTaintRule",
            "MutatingWebhook" => "MutatingWebhookConfiguration",
            "ValidatingWebhook" => "ValidatingWebhookConfiguration",
            name => name,
        };
        let resource = proto::resources().iter().find(|r| r.kind == name && r.verbs.contains(&"list"));
        let Some(r) = resource else {
            failed.push(format!("{kind}: no such resource"));
            continue;
        };
        let base =
            if r.group.is_empty() { "/api/v1".to_owned() } else { format!("/apis/{}", r.api_version()) };
        let answer = s.admin.get_as(&format!("{base}/{}", r.resource), accept).await;
        if answer.code != 200 {
            failed.push(format!("{kind}: {} {}", answer.code, String::from_utf8_lossy(&answer.body)));
            continue;
        }
        let columns = answer.json()["columnDefinitions"].clone();
        let mut bare = without(&columns, "description");
        // The facts leave zeros out, and columns whose text is that of a field, such as the age.
        for c in bare.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
            c.retain(|_, v| *v != json!(0) && *v != json!(""));
        }
        let mut ours = bare.as_array().into_iter().flatten();
        for w in wanted.as_array().into_iter().flatten() {
            if !ours.any(|c| c == w) {
                failed.push(format!("{kind}: {w} is not there, or not in its place"));
            }
        }
    }
    assert!(failed.is_empty(), "{} differences:\n{}", failed.len(), failed.join("\n"));
}
