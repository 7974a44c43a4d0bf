//! `preemptVerb`: extenders choose among the nodes where evictions make room, and among the pods to evict there.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use anyhow::{Context, bail};
use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client};
use serde_json::{Map, Value, json};
use tracing::info;

use super::Extender;
use crate::model::{PodInfo, Str};
use crate::preempt::Candidate;

/// Pods read at a time for extenders that don't know them.
const READS: usize = 16;

/// A way to make room that extenders may agree to, change or refuse.
pub struct Offer {
    proposal: Proposal,
    /// All pods of the node: an extender may name others than the scheduler did.
    pods: Vec<Arc<PodInfo>>,
}

/// Which pods have to leave which node.
#[derive(Clone, Debug, PartialEq)]
pub struct Proposal {
    pub node: Str,
    /// UIDs.
    pub victims: Vec<Str>,
    /// How many of them a disruption budget protects.
    pub violations: usize,
}

impl Offer {
    /// Offers a candidate; `pods` are all that run on its node.
    #[must_use]
    pub fn new(c: &Candidate, pods: &[Arc<PodInfo>]) -> Self {
        let victims = c.victims.iter().map(|p| p.uid.clone()).collect();
        let proposal = Proposal { node: c.node.clone(), victims, violations: c.violations };
        Self { proposal, pods: pods.to_vec() }
    }
}

/// Asks all extenders that have a say, one after the other; each sees what the one before left.
///
/// # Errors
/// An extender failed that may not be ignored.
pub async fn preempt(
    api: &Client,
    extenders: &[Extender],
    pod: &PodInfo,
    offers: Vec<Offer>,
) -> anyhow::Result<Vec<Proposal>> {
    let mut left: Vec<Proposal> = offers.iter().map(|o| o.proposal.clone()).collect();
    let pods: HashMap<Str, Vec<Arc<PodInfo>>> =
        offers.into_iter().map(|o| (o.proposal.node, o.pods)).collect();
    let incoming: Api<Pod> = Api::namespaced(api.clone(), &pod.namespace);
    let incoming = incoming.get(&pod.name).await.context("reading the pod for its extenders")?;
    let incoming = serde_json::to_value(incoming)?;
    for e in extenders.iter().filter(|e| e.preempts() && e.is_interested(pod)) {
        if left.is_empty() {
            break;
        }
        let asked = async {
            let objects =
                if e.config.node_cache_capable { None } else { Some(read(api, &left, &pods).await?) };
            let answer =
                e.send(&e.config.preempt_verb, &arguments(&incoming, &left, objects.as_ref())).await?;
            chosen(&answer, &pods, e.config.ignorable)
                .with_context(|| format!("extender {}", e.config.url_prefix))
        };
        match asked.await {
            Ok(proposals) => left = proposals,
            Err(error) if e.config.ignorable => info!("skipping an extender that may be ignored: {error:#}"),
            Err(error) => return Err(error),
        }
    }
    Ok(left)
}

/// The victims as the API has them, by UID; those that are gone are left out.
async fn read(
    api: &Client,
    left: &[Proposal],
    pods: &HashMap<Str, Vec<Arc<PodInfo>>>,
) -> anyhow::Result<HashMap<Str, Value>> {
    let of = |p: &Proposal| {
        let here = pods.get(&p.node).into_iter().flatten();
        here.filter(|x| p.victims.contains(&x.uid)).cloned().collect::<Vec<_>>()
    };
    let victims: Vec<Arc<PodInfo>> = left.iter().flat_map(of).collect();
    let reads = victims.into_iter().map(|v| async move {
        let found = Api::<Pod>::namespaced(api.clone(), &v.namespace).get_opt(&v.name).await;
        let found = found.with_context(|| format!("reading pod {} for an extender", v.key()))?;
        let same = found.filter(|p| p.metadata.uid.as_deref() == Some(&*v.uid));
        anyhow::Ok(same.map(serde_json::to_value).transpose()?.map(|p| (v.uid.clone(), p)))
    });
    let read: Vec<_> = futures::stream::iter(reads).buffer_unordered(READS).collect().await;
    read.into_iter().filter_map(Result::transpose).collect()
}

/// `ExtenderPreemptionArgs`: with whole pods, or only their UIDs for an extender that knows them.
fn arguments(pod: &Value, left: &[Proposal], objects: Option<&HashMap<Str, Value>>) -> Value {
    let victims = |p: &Proposal| -> Vec<Value> {
        match objects {
            Some(objects) => p.victims.iter().filter_map(|uid| objects.get(uid).cloned()).collect(),
            None => p.victims.iter().map(|uid| json!({"UID": &**uid})).collect(),
        }
    };
    let nodes: Map<String, Value> = left
        .iter()
        .map(|p| (p.node.to_string(), json!({"Pods": victims(p), "NumPDBViolations": p.violations})))
        .collect();
    let (full, meta) =
        if objects.is_some() { (json!(nodes), Value::Null) } else { (Value::Null, json!(nodes)) };
    json!({"Pod": pod, "NodeNameToVictims": full, "NodeNameToMetaVictims": meta})
}

/// `ExtenderPreemptionResult`, whose outermost keys are in lower case.
fn chosen(
    answer: &Value,
    pods: &HashMap<Str, Vec<Arc<PodInfo>>>,
    ignorable: bool,
) -> anyhow::Result<Vec<Proposal>> {
    let nodes = answer["nodenametometavictims"].as_object().into_iter().flatten();
    let mut out = BTreeMap::new();
    for (node, meta) in nodes {
        let Some((node, here)) = pods.get_key_value(node.as_str()) else {
            bail!("it claims to preempt pods on node {node:?}, which was not offered");
        };
        let mut victims = Vec::new();
        for v in any_case(meta, "Pods").as_array().into_iter().flatten() {
            let uid = any_case(v, "UID").as_str().unwrap_or_default();
            let Some(p) = here.iter().find(|p| *p.uid == *uid) else {
                bail!(
                    "it claims to preempt pod (UID: {uid}) on node: {node}, but the pod is not found on that node"
                );
            };
            victims.push(p.uid.clone());
        }
        let violations = any_case(meta, "NumPDBViolations").as_u64().unwrap_or(0);
        match victims.is_empty() {
            true if ignorable => info!(node = %node, "an extender that may be ignored named no victims"),
            true => bail!("expected at least one victim pod on node {node:?}"),
            false => {
                let violations = usize::try_from(violations).unwrap_or(usize::MAX);
                out.insert(node.clone(), Proposal { node: node.clone(), victims, violations });
            }
        }
    }
    Ok(out.into_values().collect())
}

/// A value by its key in any case.
fn any_case<'a>(v: &'a Value, key: &str) -> &'a Value {
    let mut all = v.as_object().into_iter().flatten();
    all.find(|(k, _)| k.eq_ignore_ascii_case(key)).map_or(&Value::Null, |(_, v)| v)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pod;

    fn pods() -> HashMap<Str, Vec<Arc<PodInfo>>> {
        let named = |names: &[&str]| names.iter().map(|n| pod(n, json!({}))).collect();
        HashMap::from([("a".into(), named(&["x", "y"])), ("b".into(), named(&["z"]))])
    }

    fn uid(node: &str, i: usize) -> Str {
        pods()[node][i].uid.clone()
    }

    #[test]
    fn extenders_get_uids_or_whole_pods() {
        let left = [Proposal { node: "a".into(), victims: vec![uid("a", 0)], violations: 1 }];
        let meta = arguments(&json!({}), &left, None);
        let expected = json!({"a": {"Pods": [{"UID": &*uid("a", 0)}], "NumPDBViolations": 1}});
        assert_eq!((&meta["NodeNameToMetaVictims"], &meta["NodeNameToVictims"]), (&expected, &Value::Null));
        let objects = HashMap::from([(uid("a", 0), json!({"kind": "Pod"}))]);
        let full = arguments(&json!({}), &left, Some(&objects));
        assert_eq!(full["NodeNameToVictims"]["a"]["Pods"], json!([{"kind": "Pod"}]));
    }

    #[test]
    fn they_drop_nodes_and_change_victims() {
        let answer = json!({"nodenametometavictims":
            {"a": {"pods": [{"uid": &*uid("a", 1)}], "numPDBViolations": 2}}});
        let expected = Proposal { node: "a".into(), victims: vec![uid("a", 1)], violations: 2 };
        assert_eq!(chosen(&answer, &pods(), false).expect("an answer"), [expected]);
        assert!(chosen(&json!({}), &pods(), false).expect("no nodes").is_empty());
    }

    #[test]
    fn pods_that_are_not_there_are_an_error() {
        let of = |nodes: Value| json!({ "nodenametometavictims": nodes });
        let why = |nodes| chosen(&of(nodes), &pods(), false).expect_err("an error").to_string();
        assert!(why(json!({"a": {"Pods": [{"UID": "?"}]}})).contains("the pod is not found on that node"));
        assert!(why(json!({"c": {"Pods": []}})).contains("not offered"));
        assert!(why(json!({"b": {"Pods": []}})).contains("expected at least one victim"));
        assert!(chosen(&of(json!({"b": {"Pods": null}})), &pods(), true).expect("ignored").is_empty());
    }
}
