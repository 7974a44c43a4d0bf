//! Patches that a v1.36 API server was asked for, with its answers: ours must own the same fields, give the
//! same objects (defaults aside) and refuse with the same words.

use std::collections::BTreeMap;

use proto::json::Strictness;
use proto::resources::split_api_version;
use proto::schema::{TypeDef, by_gvk};
use serde_json::{Value, json};

use super::apply::{Writer, apply, track_update};
use super::{PatchType, patched, reset_fields};
use crate::status::ApiError;

const NOW: &str = "2026-01-01T00:00:00Z";

fn text<'a>(v: &'a Value, k: &str) -> &'a str {
    v[k].as_str().unwrap_or_default()
}

/// The entries with times reduced to whether there is one.
fn entries(v: &Value) -> Vec<Value> {
    let mut list = v["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    for e in &mut list {
        if e.get("time").is_some() {
            e["time"] = true.into();
        }
    }
    list.sort_by_key(Value::to_string);
    list
}

/// Everything in `part` is in `whole`; defaults may be there besides.
fn assert_within(part: &Value, whole: &Value, path: &str) {
    match (part, whole) {
        (Value::Object(a), Value::Object(b)) => {
            for (k, x) in a {
                if !["managedFields", "resourceVersion", "generation"].contains(&k.as_str()) {
                    let y = b.get(k).unwrap_or_else(|| panic!("{path}.{k} is not in the recorded object"));
                    assert_within(x, y, &format!("{path}.{k}"));
                }
            }
        }
        (Value::Array(a), Value::Array(b)) => {
            assert_eq!(a.len(), b.len(), "{path}");
            for (i, (x, y)) in a.iter().zip(b).enumerate() {
                assert_within(x, y, &format!("{path}[{i}]"));
            }
        }
        _ => assert_eq!(part, whole, "{path}"),
    }
}

struct Case<'a> {
    v: &'a Value,
    before: Option<Value>,
    def: &'static TypeDef,
    group: String,
    resource: String,
}

impl Case<'_> {
    fn run(&self) -> Result<Value, ApiError> {
        let c = self.v;
        let (sub, manager) = (text(c, "subresource"), text(c, "manager"));
        let reset = reset_fields(
            &self.group,
            &self.resource,
            sub,
            self.resource.ends_with('s') && self.resource != "configmaps" && self.resource != "roles",
        );
        let api_version = proto::resources::api_version(&self.group, "v1");
        let w = Writer {
            def: Some(self.def),
            manager,
            api_version: &api_version,
            subresource: sub,
            reset: &reset,
            now: NOW,
        };
        let body = match &c["body"] {
            Value::String(s) => s.clone().into_bytes(),
            v => serde_json::to_vec(v).unwrap(),
        };
        // Tracking happens on the defaulted object: the recorded one stands in for it.
        let tracked = |claims: Option<&Value>| {
            let mut new = c["after"].clone();
            let meta = new["metadata"].as_object_mut().unwrap();
            meta.remove("managedFields");
            if let Some(m) = claims.and_then(|v| v.pointer("/metadata/managedFields")) {
                meta.insert("managedFields".into(), m.clone());
            }
            track_update(self.before.as_ref(), &mut new, &w);
            new
        };
        if text(c, "method") == "POST" {
            return Ok(tracked(None));
        }
        let kind = PatchType::from_content_type(text(c, "type")).unwrap();
        if kind == PatchType::Apply {
            let out = apply(self.before.as_ref(), &c["body"], &w, c["force"] == true)?;
            let after = &c["after"];
            // Without its defaults the object is no more than what the server made of it.
            assert_within(&out["spec"], &after["spec"], "spec");
            assert_within(&out["metadata"], &after["metadata"], "metadata");
            return Ok(out);
        }
        let live = self.before.as_ref().unwrap();
        let strictness = if text(c, "path").contains("status") || text(c, "name") != "strict merge" {
            Strictness::Warn
        } else {
            Strictness::Strict
        };
        let d = patched(kind, live, &body, Some(self.def), strictness)?;
        if sub.is_empty() {
            assert_within(&d.value, &c["after"], "");
        }
        Ok(tracked(Some(&d.value)))
    }
}

/// Messages that show the whole patched object: its fields come in another order here.
fn plain_patch(status: &mut Value) {
    let after_object =
        |m: &Value| m.as_str().and_then(|m| m.rsplit_once("}\": ")).map(|(_, why)| why.to_owned());
    if let Some(why) = after_object(&status["message"]) {
        status["message"] = why.into();
    }
    if let Some(why) = after_object(&status["details"]["causes"][0]["message"]) {
        status["details"]["causes"][0]["message"] = why.into();
    }
}

#[test]
fn as_recorded() {
    let cases: Vec<Value> = serde_json::from_str(include_str!("testdata/recorded.json")).unwrap();
    let mut last: BTreeMap<String, Value> = BTreeMap::new();
    let mut failed = Vec::new();
    for c in &cases {
        let parts: Vec<&str> = text(c, "path").split('/').collect();
        let group = if parts[1] == "api" { "" } else { parts[2] };
        let at = parts.iter().position(|p| *p == "default").unwrap() + 1;
        let name = parts.get(at + 1).copied().unwrap_or_else(|| text(&c["body"]["metadata"], "name"));
        let key = format!("{}/{name}", parts[at]);
        let before = match &c["before"] {
            Value::Null => None,
            Value::String(_) => last.get(&key).cloned(),
            v => Some(v.clone()),
        };
        let sample = before.as_ref().unwrap_or(&c["after"]);
        let (g, v) = split_api_version(text(sample, "apiVersion"));
        let def = by_gvk(g, v, text(sample, "kind")).unwrap();
        let case = Case { v: c, before, def, group: group.into(), resource: parts[at].into() };
        // Admission adds to pods after tracking: what a pod starts with is not all its creator's.
        let skip = text(c, "name") == "create pod";
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| case.run()));
        let ok = c["status"].as_u64().unwrap() < 300;
        match result {
            Err(_) => failed.push(format!("{}: the object differs", text(c, "name"))),
            Ok(Ok(out)) if ok => {
                let (want, got) = (entries(&c["after"]), entries(&out));
                if want != got && !skip {
                    failed.push(format!(
                        "{}:\n  want {}\n  got  {}",
                        text(c, "name"),
                        json!(want),
                        json!(got)
                    ));
                }
            }
            Ok(Ok(_)) => failed.push(format!("{}: not refused", text(c, "name"))),
            Ok(Err(e)) => {
                let mut s = e.to_status();
                let mut want = c["after"].clone();
                for m in [&mut s, &mut want] {
                    plain_patch(m);
                }
                if s["message"] != want["message"]
                    || s["code"] != want["code"]
                    || s["reason"] != want["reason"]
                    || s["details"]["causes"] != want["details"]["causes"]
                {
                    failed.push(format!("{}:\n  want {want}\n  got  {s}", text(c, "name")));
                }
            }
        }
        if ok {
            last.insert(key, c["after"].clone());
        }
    }
    assert!(failed.is_empty(), "{} of {}:\n{}", failed.len(), cases.len(), failed.join("\n"));
}
