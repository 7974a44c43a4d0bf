//! `LimitRanger`: default requests and limits of containers, and the bounds of a namespace's `LimitRange` objects.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::pod_resources::{Amounts, amounts, pod_total};
use crate::admission::{Attributes, Environment, Operation, Plugin};
use crate::kinds::quantity::Amount;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::ApiResult;

const ANNOTATION: &str = "kubernetes.io/limit-ranger";

struct LimitRanger {
    objects: Arc<dyn ObjectLookup>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(LimitRanger { objects: env.objects.clone() })
}

fn concerns(attrs: &Attributes<'_>) -> bool {
    let dying = attrs.old.is_some_and(|o| !text(o, "/metadata/deletionTimestamp").is_empty());
    let create = attrs.operation == Operation::Create;
    let update = attrs.operation == Operation::Update;
    !dying
        && match (attrs.group, attrs.resource, attrs.subresource) {
            ("", "pods", "") => create,
            ("", "pods", "resize") => update,
            ("", "persistentvolumeclaims", "") => create || update,
            _ => false,
        }
}

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let Some(pod) = object.filter(|_| concerns(attrs) && attrs.resource == "pods") else { return Ok(()) };
        for range in self.objects.list(lookup::LIMIT_RANGES, attrs.namespace).await? {
            set_defaults(&range, pod);
        }
        Ok(())
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object.filter(|_| concerns(attrs)) else { return Ok(()) };
        for range in self.objects.list(lookup::LIMIT_RANGES, attrs.namespace).await? {
            let mut problems: Vec<String> = Vec::new();
            for limit in items(&range, "/spec/limits") {
                match (text(limit, "/type"), attrs.resource) {
                    ("Container", "pods") => {
                        for list in ["/spec/containers", "/spec/initContainers"] {
                            for c in items(object, list) {
                                let part = |p: &str| amounts(&c["resources"][p]);
                                bounds(limit, &part("requests"), &part("limits"), &mut problems);
                            }
                        }
                    }
                    ("Pod", "pods") => {
                        let (requests, limits) = (pod_total(object, "requests"), pod_total(object, "limits"));
                        bounds(limit, &requests, &limits, &mut problems);
                    }
                    ("PersistentVolumeClaim", "persistentvolumeclaims") => {
                        claim_bounds(
                            limit,
                            &amounts(&object["spec"]["resources"]["requests"]),
                            &mut problems,
                        );
                    }
                    _ => {}
                }
            }
            let mut seen: Vec<String> = Vec::new();
            for p in problems {
                if !seen.contains(&p) {
                    seen.push(p);
                }
            }
            match seen.len() {
                0 => {}
                1 => return Err(attrs.forbidden(Some(object), &seen[0])),
                _ => return Err(attrs.forbidden(Some(object), format!("[{}]", seen.join(", ")))),
            }
        }
        Ok(())
    }
}

/// Fills what containers leave open, and notes it in an annotation.
fn set_defaults(range: &Value, pod: &mut Value) {
    let mut defaults: [(&str, BTreeMap<String, Value>); 2] =
        [("requests", BTreeMap::new()), ("limits", BTreeMap::new())];
    for limit in items(range, "/spec/limits").iter().filter(|l| text(l, "/type") == "Container") {
        for (i, field) in ["defaultRequest", "default"].iter().enumerate() {
            for (k, v) in limit[*field].as_object().into_iter().flatten() {
                defaults[i].1.insert(k.clone(), v.clone());
            }
        }
    }
    let mut notes: Vec<String> = Vec::new();
    for (list, word) in [("containers", "container"), ("initContainers", "init container")] {
        let Some(containers) = pod["spec"].get_mut(list).and_then(Value::as_array_mut) else { continue };
        for c in containers {
            let name = text(c, "/name").to_owned();
            for (field, values) in &defaults {
                let missing: Vec<&String> =
                    values.keys().filter(|k| c["resources"][*field].get(k.as_str()).is_none()).collect();
                if missing.is_empty() {
                    continue;
                }
                for k in &missing {
                    c["resources"][*field][k.as_str()] = values[*k].clone();
                }
                let kind = if *field == "requests" { "request" } else { "limit" };
                let keys: Vec<&str> = missing.iter().map(|k| k.as_str()).collect();
                notes.push(format!("{} {kind} for {word} {name}", keys.join(", ")));
            }
        }
    }
    if !notes.is_empty() {
        if pod["metadata"]["annotations"].is_null() {
            pod["metadata"]["annotations"] = json!({});
        }
        pod["metadata"]["annotations"][ANNOTATION] =
            format!("LimitRanger plugin set: {}", notes.join("; ")).into();
    }
}

fn bounds(limit: &Value, requests: &Amounts, limits: &Amounts, problems: &mut Vec<String>) {
    let kind = text(limit, "/type");
    for (name, min) in amounts(&limit["min"]) {
        let start = format!("minimum {name} usage per {kind} is {min}");
        match (requests.get(&name), limits.get(&name)) {
            (None, _) => problems.push(format!("{start}.  No request is specified")),
            (Some(r), _) if *r < min => problems.push(format!("{start}, but request is {r}")),
            (_, Some(l)) if *l < min => problems.push(format!("{start}, but limit is {l}")),
            _ => {}
        }
    }
    for (name, max) in amounts(&limit["max"]) {
        let start = format!("maximum {name} usage per {kind} is {max}");
        match (requests.get(&name), limits.get(&name)) {
            (_, None) => problems.push(format!("{start}.  No limit is specified")),
            (_, Some(l)) if *l > max => problems.push(format!("{start}, but limit is {l}")),
            (Some(r), _) if *r > max => problems.push(format!("{start}, but request is {r}")),
            _ => {}
        }
    }
    for (name, ratio) in amounts(&limit["maxLimitRequestRatio"]) {
        let start = format!("{name} max limit to request ratio per {kind} is {ratio}");
        let value = |m: &Amounts| m.get(&name).filter(|a| !a.is_zero()).map(|a| a.milli() as f64);
        match (value(requests), value(limits)) {
            (None, _) => problems.push(format!("{start}, but no request is specified or request is 0")),
            (_, None) => problems.push(format!("{start}, but no limit is specified or limit is 0")),
            (Some(r), Some(l)) if l / r * 1000.0 > ratio.milli() as f64 => {
                problems.push(format!("{start}, but provided ratio is {:.6}", l / r));
            }
            _ => {}
        }
    }
}

fn claim_bounds(limit: &Value, requests: &Amounts, problems: &mut Vec<String>) {
    let kind = text(limit, "/type");
    let mut check = |word: &str, name: &str, bound: Amount, breaks: fn(Amount, Amount) -> bool| {
        let start = format!("{word} {name} usage per {kind} is {bound}");
        match requests.get(name) {
            None => problems.push(format!("{start}.  No request is specified")),
            Some(r) if breaks(*r, bound) => problems.push(format!("{start}, but request is {r}")),
            _ => {}
        }
    };
    for (name, min) in amounts(&limit["min"]) {
        check("minimum", &name, min, |r, b| r < b);
    }
    for (name, max) in amounts(&limit["max"]) {
        check("maximum", &name, max, |r, b| r > b);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::{Write, environment};

    fn plugin(limit: Value) -> Arc<dyn Plugin> {
        let range = json!({"metadata":{"name":"l","namespace":"ns"},"spec":{"limits":[limit]}});
        build(&environment([(lookup::LIMIT_RANGES, range)]).0)
    }

    async fn run(p: &Arc<dyn Plugin>, resources: Value) -> Result<Value, String> {
        let pod = json!({"metadata":{"name":"p"},"spec":{"containers":[{"name":"a","resources":resources}]}});
        match Write::create(lookup::PODS, "ns").run(&**p, Some(pod)).await {
            Ok(o) => Ok(o.unwrap()),
            Err(e) => Err(e.message.strip_prefix("pods \"p\" is forbidden: ").unwrap().to_owned()),
        }
    }

    #[tokio::test]
    async fn defaults() {
        let p = plugin(
            json!({"type":"Container","default":{"cpu":"1","memory":"1Gi"},"defaultRequest":{"cpu":"100m"}}),
        );
        let pod = run(&p, json!({"limits":{"cpu":"2"}})).await.unwrap();
        assert_eq!(
            pod["spec"]["containers"][0]["resources"],
            json!({"limits":{"cpu":"2","memory":"1Gi"},"requests":{"cpu":"100m"}})
        );
        assert_eq!(
            pod["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; memory limit for container a"
        );
    }

    #[tokio::test]
    async fn bounds_and_ratios() {
        let p = plugin(json!({"type":"Container","min":{"cpu":"200m"},"max":{"cpu":"1"}}));
        assert!(run(&p, json!({"requests":{"cpu":"0.5"},"limits":{"cpu":"1000m"}})).await.is_ok());
        assert_eq!(
            run(&p, json!({"requests":{"cpu":"100m"},"limits":{"cpu":"2"}})).await.unwrap_err(),
            "[minimum cpu usage per Container is 200m, but request is 100m, maximum cpu usage per Container is 1, but limit is 2]"
        );
        assert_eq!(
            run(&p, json!({"requests":{"cpu":"300m"}})).await.unwrap_err(),
            "maximum cpu usage per Container is 1.  No limit is specified"
        );
        let p = plugin(json!({"type":"Pod","maxLimitRequestRatio":{"cpu":"2"}}));
        assert_eq!(
            run(&p, json!({"requests":{"cpu":"1"},"limits":{"cpu":"3"}})).await.unwrap_err(),
            "cpu max limit to request ratio per Pod is 2, but provided ratio is 3.000000"
        );
        let p = plugin(json!({"type":"PersistentVolumeClaim","max":{"storage":"1Gi"}}));
        let claim = json!({"metadata":{"name":"c"},"spec":{"resources":{"requests":{"storage":"2Gi"}}}});
        let e =
            Write::create(lookup::PERSISTENT_VOLUME_CLAIMS, "ns").run(&*p, Some(claim)).await.unwrap_err();
        assert!(
            e.message.ends_with("maximum storage usage per PersistentVolumeClaim is 1Gi, but request is 2Gi")
        );
    }
}
