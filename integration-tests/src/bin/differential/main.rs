//! Upstream's scheduler against our decisions: `COXSWAIN_UPSTREAM=/folder differential [SEED]`.
//!
//! Upstream's scheduler runs against our API server and places random pods on random nodes, one after the other. Each
//! of its answers is held against our decision core, which is shown the same cluster: the node it chose must be one of
//! those with our highest score, a pod it refuses must fit nowhere, and its message must be ours.

mod random;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::StreamExt;
use integration_tests::bare::{Bare, or_interrupted};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::{Api, Client};
use random::Dice;
use scheduler::cache::Cache;
use scheduler::config::Configuration;
use scheduler::decide::shortlist;
use scheduler::framework::Profile;
use scheduler::model::{Labels, convert};
use serde_json::json;

const NODES: usize = 24;
const PODS: usize = 300;
/// How long upstream's scheduler may take for one pod.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> anyhow::Result<()> {
    let Some(upstream) = integration_tests::binaries::upstream("kube-scheduler") else { return Ok(()) };
    let seed = std::env::args().nth(1).map_or(Ok(1), |s| s.parse()).context("the seed is not a number")?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare::start().await?;
        or_interrupted(run(&bare, &upstream, seed)).await.with_context(|| bare.logs())
    })
}

async fn run(bare: &Bare, upstream: &std::path::Path, seed: u64) -> anyhow::Result<()> {
    let client = bare.client().await?;
    let mut dice = Dice::new(seed);
    let mut cache = Cache::default();
    cache.namespaces.insert("default".into(), Labels::from([("kubernetes.io/metadata.name", "default")]));
    make_nodes(&client, &mut dice, &mut cache).await?;
    let kubeconfig = bare.kubeconfig("kube-scheduler").display().to_string();
    let flags = [
        format!("--kubeconfig={kubeconfig}"),
        format!("--authentication-kubeconfig={kubeconfig}"),
        format!("--authorization-kubeconfig={kubeconfig}"),
        "--leader-elect=false".into(),
        "--bind-address=127.0.0.1".into(),
        format!("--secure-port={}", bare.cluster.layout.scheduler_port()),
    ];
    bare.start_other("kube-scheduler", upstream, &flags)?;
    let profile = profile()?;
    let (mut placed, mut refused, mut differences) = (0, 0, 0);
    for i in 0..PODS {
        let pod = random::pod(&mut dice, i);
        match differs(&client, &mut cache, &profile, pod).await.with_context(|| format!("pod {i}"))? {
            Compared::Placed => placed += 1,
            Compared::Refused => refused += 1,
            Compared::Differs(what) => {
                differences += 1;
                println!("pod {i}: {what}");
            }
        }
    }
    println!("differential.placed {placed} pods");
    println!("differential.refused {refused} pods");
    println!("differential.differences {differences} pods");
    if differences > 0 {
        bail!("{differences} of {PODS} decisions differ (seed {seed})");
    }
    Ok(())
}

fn profile() -> anyhow::Result<Profile> {
    let mut config = Configuration::default();
    config.set_defaults();
    let first = config.profiles.first().context("there is no default profile")?;
    Profile::new(first, 0).map_err(anyhow::Error::msg)
}

async fn make_nodes(client: &Client, dice: &mut Dice, cache: &mut Cache) -> anyhow::Result<()> {
    let api: Api<Node> = Api::all(client.clone());
    for i in 0..NODES {
        let wanted = random::node(dice, i);
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        api.create(&PostParams::default(), &serde_json::from_value(wanted.clone())?).await?;
        // Admission taints new nodes as not ready; the controller that untaints them does not run.
        let spec = json!({"spec": {"taints": wanted["spec"]["taints"]}});
        let node = api.patch(&name, &PatchParams::default(), &Patch::Merge(spec)).await?;
        cache.set_node(convert::node(&node));
    }
    Ok(())
}

enum Compared {
    Placed,
    Refused,
    Differs(String),
}

/// Has upstream decide about a pod, and compares.
async fn differs(
    client: &Client,
    cache: &mut Cache,
    profile: &Profile,
    pod: serde_json::Value,
) -> anyhow::Result<Compared> {
    let api: Api<Pod> = Api::namespaced(client.clone(), "default");
    let made = api.create(&PostParams::default(), &serde_json::from_value(pod)?).await?;
    let ours = shortlist(cache, profile, &convert::pod(&made));
    let name = made.metadata.name.clone().context("no name")?;
    let decided =
        tokio::time::timeout(PATIENCE, decided(&api, &name)).await.context("no decision in time")??;
    let theirs = decided.spec.as_ref().and_then(|s| s.node_name.clone());
    let result = match (&theirs, ours) {
        (Some(node), Ok(nodes)) => {
            let named = |slot| cache.node_at(slot).map(|n| n.name.to_string()).unwrap_or_default();
            let top = nodes.iter().map(|n| n.1).max().unwrap_or(0);
            match nodes.iter().find(|n| named(n.0) == *node) {
                Some((_, score)) if *score == top => Compared::Placed,
                Some((_, score)) => {
                    let best: Vec<String> = nodes.iter().filter(|n| n.1 == top).map(|n| named(n.0)).collect();
                    Compared::Differs(format!(
                        "upstream chose {node}, to us {score}; our best: {best:?} with {top}"
                    ))
                }
                None => Compared::Differs(format!("upstream chose {node}, where it does not fit to us")),
            }
        }
        (Some(node), Err(d)) => {
            Compared::Differs(format!("upstream chose {node}, we refuse: {}", d.message()))
        }
        (None, Ok(nodes)) => {
            Compared::Differs(format!("upstream refuses, to us it fits {} nodes", nodes.len()))
        }
        (None, Err(d)) => {
            // What follows is about preemption: all pods have one priority.
            let said = message(&decided);
            let said =
                said.split(" no new claims").next().unwrap_or_default().trim_end_matches(" preemption");
            let said = said.split(" preemption:").next().unwrap_or_default();
            if said == d.message() {
                Compared::Refused
            } else {
                Compared::Differs(format!("upstream says {said:?}, we {:?}", d.message()))
            }
        }
    };
    if theirs.is_some() {
        cache.set_pod(Arc::new(convert::pod(&decided)));
    } else {
        // It would be tried again with every change.
        api.delete(&name, &DeleteParams::default().grace_period(0)).await?;
    }
    Ok(result)
}

fn condition(p: &Pod) -> Option<&k8s_openapi::api::core::v1::PodCondition> {
    p.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "PodScheduled" && c.status == "False")
}

fn message(p: &Pod) -> String {
    condition(p).and_then(|c| c.message.clone()).unwrap_or_default()
}

/// Waits until a pod has a node or a reason.
async fn decided(api: &Api<Pod>, name: &str) -> anyhow::Result<Pod> {
    let one = kube::runtime::watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(component_base::controller::watching::events(api.clone(), one));
    while let Some(event) = events.next().await {
        use kube::runtime::watcher::Event;
        if let Event::Apply(p) | Event::InitApply(p) = event
            && (p.spec.as_ref().is_some_and(|s| s.node_name.is_some()) || condition(&p).is_some())
        {
            return Ok(p);
        }
    }
    bail!("the watch ended")
}
