//! Why a pod has no node: the scheduler's own checks, run here on what the API server shows.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use scheduler::cache::Cache;
use scheduler::config::Configuration;
use scheduler::explain::{Explanation, Objection, explain as hold_against};
use scheduler::framework::Profile;
use scheduler::model::{Labels, convert};
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::api::resources::{array, text};
use crate::api::rest::{Rest, query};
use crate::print::format::items;

/// Nodes named per group at most.
const NAMED: usize = 8;

/// What stands between a pod and the nodes.
pub async fn explain(rest: &Rest, pod: &Value) -> anyhow::Result<Vec<String>> {
    let node = text(&pod["spec"]["nodeName"]);
    if !node.is_empty() {
        return Ok(on_node(pod, &node));
    }
    let mut out = Vec::new();
    let told = array(&pod["status"]["conditions"]).iter().find(|c| c["type"] == "PodScheduled");
    match told {
        Some(c) => out.push(format!("the scheduler says: {}", text(&c["message"]))),
        None => out.push(format!(
            "no scheduler has looked at it yet: does one named {} run?",
            text(&pod["spec"]["schedulerName"])
        )),
    }
    let parsed = serde_json::from_value(pod.clone()).context("reading the pod")?;
    let cache = cache(rest, &text(&pod["metadata"]["namespace"])).await?;
    let mut config = Configuration::default();
    config.set_defaults();
    let profile = config.profiles.first().context("the default profile is missing")?;
    let profile = Profile::new(profile, 0).map_err(anyhow::Error::msg)?;
    out.extend(lines(&hold_against(&cache, &profile, &convert::pod(&parsed))));
    Ok(out)
}

fn on_node(pod: &Value, node: &str) -> Vec<String> {
    let mut out = vec![format!("it is on node {node}, phase {}", text(&pod["status"]["phase"]))];
    let conditions = array(&pod["status"]["conditions"]).iter().filter(|c| c["status"] == "False");
    out.extend(
        conditions.map(|c| {
            format!("{} is False: {} {}", text(&c["type"]), text(&c["reason"]), text(&c["message"]))
        }),
    );
    for list in ["initContainerStatuses", "containerStatuses"] {
        for c in array(&pod["status"][list]) {
            let waiting = &c["state"]["waiting"];
            if waiting.is_object() {
                let (reason, message) = (text(&waiting["reason"]), text(&waiting["message"]));
                out.push(format!("container {} waits: {reason} {message}", text(&c["name"])));
            }
        }
    }
    out
}

fn objection(o: &Objection) -> String {
    if o.change.is_empty() { o.reason.clone() } else { format!("{}: {}", o.reason, o.change) }
}

/// The explanation with nodes that object alike put together.
fn lines(e: &Explanation) -> Vec<String> {
    let mut out: Vec<String> = e.held_back.iter().chain(&e.everywhere).map(objection).collect();
    if e.nodes.is_empty() {
        out.push("there are no nodes".into());
    }
    let mut groups: BTreeMap<Vec<String>, Vec<&str>> = BTreeMap::new();
    for v in &e.nodes {
        groups.entry(v.objections.iter().map(objection).collect()).or_default().push(&v.node);
    }
    let free = out.is_empty();
    for (objections, nodes) in groups {
        let more = nodes.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let names = nodes.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
        if objections.is_empty() {
            let then = if free {
                "it fits now: the scheduler will try it again"
            } else {
                "nothing else is against it"
            };
            out.push(format!("{names}{more}: {then}"));
            continue;
        }
        out.push(format!("{names}{more}:"));
        out.extend(objections.into_iter().map(|o| format!("  {o}")));
    }
    out
}

async fn all<T: DeserializeOwned>(rest: &Rest, path: &str) -> anyhow::Result<Vec<T>> {
    let list = rest.get(path).await?;
    items(&list)
        .into_iter()
        .map(|o| serde_json::from_value(o).with_context(|| format!("reading an object of {path}")))
        .collect()
}

/// What the scheduler knows of the cluster, as far as its checks use it.
async fn cache(rest: &Rest, namespace: &str) -> anyhow::Result<Cache> {
    let mut c = Cache::default();
    for n in all(rest, "/api/v1/nodes").await? {
        c.set_node(convert::node(&n));
    }
    let live = query("spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed");
    for p in all(rest, &format!("/api/v1/pods?fieldSelector={live}")).await? {
        c.set_pod(Arc::new(convert::pod(&p)));
    }
    for n in all::<k8s_openapi::api::core::v1::Namespace>(rest, "/api/v1/namespaces").await? {
        let name = n.metadata.name.as_deref().unwrap_or_default();
        c.namespaces.insert(name.into(), Labels::new(n.metadata.labels.as_ref()));
    }
    let storage = &mut c.storage;
    for x in all(rest, &format!("/api/v1/namespaces/{namespace}/persistentvolumeclaims")).await? {
        let x = convert::claim(&x);
        storage.claims.insert((x.namespace.clone(), x.name.clone()), x);
    }
    for x in all(rest, "/api/v1/persistentvolumes").await? {
        let x = convert::volume(&x);
        storage.volumes.insert(x.name.clone(), x);
    }
    for x in all(rest, "/apis/storage.k8s.io/v1/storageclasses").await? {
        let x = convert::class(&x);
        storage.classes.insert(x.name.clone(), x);
    }
    for x in all(rest, "/apis/resource.k8s.io/v1/resourceclaims").await? {
        // Nothing is known yet that could be newer.
        let _ = c.dra.claims.set(Arc::new(x));
    }
    for x in all(rest, "/apis/resource.k8s.io/v1/resourceslices").await? {
        c.dra.slices.set(scheduler::dra::model::slice(&x));
    }
    for x in all(rest, "/apis/resource.k8s.io/v1/deviceclasses").await? {
        let x = scheduler::dra::model::class(&x);
        c.dra.classes.insert(x.name.clone(), x);
    }
    Ok(c)
}

#[cfg(test)]
mod tests {
    use scheduler::explain::Verdict;

    use super::*;

    #[test]
    fn nodes_that_object_alike_are_told_together() {
        let taint =
            Objection { plugin: "TaintToleration", reason: "tainted".into(), change: "untaint".into() };
        let verdict = |n: &str, o: &[Objection]| Verdict { node: n.into(), objections: o.to_vec() };
        let e = Explanation {
            nodes: vec![
                verdict("a", std::slice::from_ref(&taint)),
                verdict("b", std::slice::from_ref(&taint)),
                verdict("c", &[]),
            ],
            ..Explanation::default()
        };
        assert_eq!(
            lines(&e),
            ["c: it fits now: the scheduler will try it again", "a, b:", "  tainted: untaint"]
        );
    }
}
