//! Whether an API service is available: a decision on what is known of its service, made without I/O.

use serde_json::{Value, json};

use crate::lookup::{items, text};
use crate::webhook::services::is_ready;

/// A verdict: status, reason and message of the condition `Available`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    pub status: &'static str,
    pub reason: &'static str,
    pub message: String,
}

impl Verdict {
    fn no(reason: &'static str, message: String) -> Self {
        Self { status: "False", reason, message }
    }

    /// This server serves it.
    pub fn local() -> Self {
        let message = "Local APIServices are always available".to_owned();
        Self { status: "True", reason: "Local", message }
    }

    /// Everything is in order.
    pub fn passed() -> Self {
        Self { status: "True", reason: "Passed", message: "all checks passed".to_owned() }
    }

    /// The server did not answer as it must.
    pub fn failed_discovery(message: String) -> Self {
        Self::no("FailedDiscoveryCheck", message)
    }
}

/// What the objects of the cluster say against a backend `namespace`/`name`:`port`; none where its server should be
/// asked.
pub fn obstacle(
    (namespace, name, port): (&str, &str, u16),
    service: Option<&Value>,
    slices: &[Value],
) -> Option<Verdict> {
    let Some(service) = service else {
        let m = format!("service/{name} in {namespace:?} is not present");
        return Some(Verdict::no("ServiceNotFound", m));
    };
    if text(service, "/spec/type") != "ClusterIP" {
        return None;
    }
    let found = items(service, "/spec/ports").iter().find(|p| p["port"].as_u64() == Some(u64::from(port)));
    let Some(found) = found else {
        let m = format!("service/{name} in {namespace:?} is not listening on port {port}");
        return Some(Verdict::no("ServicePortError", m));
    };
    if slices.is_empty() {
        let m = format!("cannot find endpointslices for service/{name} in {namespace:?}");
        return Some(Verdict::no("EndpointsNotFound", m));
    }
    let port_name = text(found, "/name");
    let serves = |s: &Value| {
        items(s, "/endpoints").iter().any(is_ready)
            && items(s, "/ports").iter().any(|p| text(p, "/name") == port_name && p["port"].is_u64())
    };
    if slices.iter().any(serves) {
        return None;
    }
    let m = format!(
        "endpointslices for service/{name} in {namespace:?} have no addresses with port name {port_name:?}"
    );
    Some(Verdict::no("MissingEndpoints", m))
}

/// The conditions of an `APIService` with the verdict in, or none where they say so already.
pub fn conditions(api_service: &Value, verdict: &Verdict, now: &str) -> Option<Value> {
    let mut list = items(api_service, "/status/conditions").to_vec();
    let old = list.iter().position(|c| text(c, "/type") == "Available");
    let mut new = json!({
        "type": "Available", "status": verdict.status, "lastTransitionTime": now, "reason": verdict.reason,
        "message": verdict.message,
    });
    match old {
        Some(i) => {
            let o = &list[i];
            if text(o, "/status") == verdict.status {
                let same = text(o, "/reason") == verdict.reason && text(o, "/message") == verdict.message;
                if same {
                    return None;
                }
                new["lastTransitionTime"] = o["lastTransitionTime"].clone();
            }
            list[i] = new;
        }
        None => list.push(new),
    }
    Some(Value::Array(list))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn obstacles() {
        let of = |s: Option<&Value>, slices: &[Value]| {
            obstacle(("ns", "api", 443), s, slices).map(|v| (v.reason, v.message))
        };
        let why = |r: &'static str, m: &str| Some((r, m.to_owned()));
        assert_eq!(of(None, &[]), why("ServiceNotFound", "service/api in \"ns\" is not present"));
        let s = |port: u16| json!({"spec": {"type": "ClusterIP", "ports": [{"name": "web", "port": port}]}});
        assert_eq!(
            of(Some(&s(80)), &[]),
            why("ServicePortError", "service/api in \"ns\" is not listening on port 443")
        );
        assert_eq!(
            of(Some(&s(443)), &[]),
            why("EndpointsNotFound", "cannot find endpointslices for service/api in \"ns\"")
        );
        let slice = |ready: Value, name: &str| json!({"ports": [{"name": name, "port": 6443}], "endpoints": [{"addresses": ["10.0.0.1"], "conditions": {"ready": ready}}]});
        let missing = why(
            "MissingEndpoints",
            "endpointslices for service/api in \"ns\" have no addresses with port name \"web\"",
        );
        assert_eq!(of(Some(&s(443)), &[slice(json!(false), "web"), slice(json!(true), "x")]), missing);
        assert_eq!(of(Some(&s(443)), &[slice(json!(true), "web")]), None);
        assert_eq!(of(Some(&s(443)), &[slice(Value::Null, "web")]), None, "unknown counts as ready");
        let external = json!({"spec": {"type": "ExternalName", "externalName": "e"}});
        assert_eq!(of(Some(&external), &[]), None);
    }

    #[test]
    fn transitions() {
        let other = json!({"type": "Other", "status": "True"});
        let a = json!({"status": {"conditions": [other]}});
        let c = conditions(&a, &Verdict::passed(), "T1").unwrap();
        assert_eq!((&c[0], &c[1]["lastTransitionTime"]), (&other, &json!("T1")), "others are left alone");
        let b = json!({"status": {"conditions": c}});
        assert_eq!(conditions(&b, &Verdict::passed(), "T2"), None, "nothing to write");
        let failed = Verdict::failed_discovery("why".into());
        let c = conditions(&b, &failed, "T3").unwrap();
        assert_eq!((&c[1]["status"], &c[1]["lastTransitionTime"]), (&json!("False"), &json!("T3")));
        let b = json!({"status": {"conditions": c}});
        let c = conditions(&b, &Verdict::failed_discovery("other".into()), "T4").unwrap();
        assert_eq!((&c[1]["message"], &c[1]["lastTransitionTime"]), (&json!("other"), &json!("T3")));
    }
}
