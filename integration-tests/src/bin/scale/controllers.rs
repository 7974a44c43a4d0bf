//! What the controller manager makes of a large cluster: a deployment that grows at once, a namespace that goes with
//! all it holds, and the memory that many pods cost.

use std::time::Instant;

use anyhow::{Context, bail};
use component_base::controller::watching;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, ServiceAccount};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::json;

use super::load::{IN_FLIGHT, STALL};

/// Replicas that the deployment of the first figure grows to.
const REPLICAS: usize = 5_000;
/// Objects in the namespace that is deleted.
const OBJECTS: usize = 10_000;
const NAMESPACE: &str = "scale";

/// Prints seconds until a deployment's pods are all bound and observed, and until a full namespace is gone. Leaves
/// `pods` pods of deployments running, for the figures of memory.
///
/// # Errors
/// Something cannot be made, or does not happen.
pub async fn run(client: &Client, pods: usize) -> anyhow::Result<()> {
    let namespaces: Api<Namespace> = Api::all(client.clone());
    make_namespace(client, &namespaces, NAMESPACE).await?;
    let first = REPLICAS.min(pods);
    let seconds = grow(client, "web", first).await?;
    super::line(&format!("scale.deployment_0_to_{first}"), seconds, "s");
    let mut there = first;
    for i in 1.. {
        if there >= pods {
            break;
        }
        let more = REPLICAS.min(pods - there);
        grow(client, &format!("more-{i}"), more).await?;
        there += more;
    }
    make_namespace(client, &namespaces, "full").await?;
    fill(client, "full").await?;
    let begun = Instant::now();
    namespaces.delete("full", &DeleteParams::default()).await?;
    gone(&namespaces, "full").await?;
    super::line(&format!("scale.namespace_of_{OBJECTS}_deleted"), begun.elapsed().as_secs_f64(), "s");
    Ok(())
}

async fn make_namespace(client: &Client, namespaces: &Api<Namespace>, name: &str) -> anyhow::Result<()> {
    let object = serde_json::from_value(json!({"metadata": {"name": name}}))?;
    namespaces.create(&PostParams::default(), &object).await?;
    let accounts: Api<ServiceAccount> = Api::namespaced(client.clone(), name);
    let wanted = watcher::Config::default().fields("metadata.name=default");
    let mut events = Box::pin(watching::events(accounts, wanted));
    next(&mut events, |e| matches!(e, Event::Apply(_) | Event::InitApply(_)))
        .await
        .with_context(|| format!("the default service account of namespace {name}"))
}

/// Waits for an event.
async fn next<K>(
    events: &mut (impl futures::Stream<Item = Event<K>> + Unpin),
    mut wanted: impl FnMut(&Event<K>) -> bool,
) -> anyhow::Result<()> {
    loop {
        match tokio::time::timeout(STALL, events.next()).await {
            Ok(Some(e)) if wanted(&e) => return Ok(()),
            Ok(Some(_)) => {}
            Ok(None) => bail!("the watch ended"),
            Err(_) => bail!("no news for {STALL:?}"),
        }
    }
}

/// Scales a new deployment from nothing; seconds until its status says that all pods are ready.
async fn grow(client: &Client, name: &str, replicas: usize) -> anyhow::Result<f64> {
    let api: Api<Deployment> = Api::namespaced(client.clone(), NAMESPACE);
    let labels = json!({"app": name});
    let container = json!({"name": "c", "image": "registry.example/pause",
        "resources": {"requests": {"cpu": "10m", "memory": "10Mi"}}});
    let object = json!({"metadata": {"name": name}, "spec": {
        "replicas": 0, "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels},
            "spec": {"automountServiceAccountToken": false, "containers": [container]}}}});
    api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
    let wanted = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watching::events(api.clone(), wanted));
    let status = |e: &Event<Deployment>| match e {
        Event::Apply(d) | Event::InitApply(d) => d.status.clone().unwrap_or_default(),
        _ => Default::default(),
    };
    next(&mut events, |e| status(e).observed_generation.is_some())
        .await
        .context("the deployment is not seen")?;
    let begun = Instant::now();
    let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
    api.patch(name, &PatchParams::default(), &patch).await?;
    let mut last = 0;
    let all = |e: &Event<Deployment>| {
        last = status(e).ready_replicas.unwrap_or(last);
        usize::try_from(last).is_ok_and(|n| n >= replicas)
    };
    next(&mut events, all).await.with_context(|| format!("pods of deployment {name} are not all ready"))?;
    Ok(begun.elapsed().as_secs_f64())
}

async fn fill(client: &Client, namespace: &str) -> anyhow::Result<()> {
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), namespace);
    futures::stream::iter((0..OBJECTS).map(Ok))
        .try_for_each_concurrent(IN_FLIGHT, |i| {
            let maps = maps.clone();
            async move {
                let map = serde_json::from_value(
                    json!({"metadata": {"name": format!("m{i}")}, "data": {"k": "v"}}),
                )?;
                maps.create(&PostParams::default(), &map).await?;
                anyhow::Ok(())
            }
        })
        .await
}

async fn gone(namespaces: &Api<Namespace>, name: &str) -> anyhow::Result<()> {
    let wanted = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let mut events = Box::pin(watching::events(namespaces.clone(), wanted));
    let mut listed = 0;
    next(&mut events, |e| match e {
        Event::InitApply(_) => {
            listed += 1;
            false
        }
        // It may have gone before the watch began.
        Event::InitDone => listed == 0,
        Event::Delete(_) => true,
        _ => false,
    })
    .await
    .with_context(|| format!("namespace {name} does not go"))
}
