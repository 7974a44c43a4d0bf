//! Makes the pods of a case, and measures until they are bound.

use std::collections::HashSet;
use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use component_base::controller::watching;
use futures::{Stream, StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use kube::api::{DeleteParams, ListParams, PostParams};
use kube::runtime::watcher::{self, Event};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::cases::{Batch, Case, Trickle};
use super::raw::requests;
use super::seen::Seen;

/// Requests on their way at a time.
pub const IN_FLIGHT: usize = 64;
/// Without any news for this long, what is waited for has failed.
pub const STALL: Duration = Duration::from_secs(60);

/// Where the pods are.
const NAMESPACE: &str = "default";

/// Runs a case, prints its figure, and removes its pods.
///
/// # Errors
/// Pods cannot be made, or are not bound.
pub async fn run(client: &Client, case: &Case) -> anyhow::Result<()> {
    let api: Api<Pod> = Api::namespaced(client.clone(), NAMESPACE);
    let classes: Api<PriorityClass> = Api::all(client.clone());
    if classes.get_opt("important").await?.is_none() {
        let class = json!({"metadata": {"name": "important"}, "value": 1000});
        classes.create(&PostParams::default(), &serde_json::from_value(class)?).await?;
    }
    if let Some(b) = &case.before {
        settle(&api, b).await?;
    }
    let begun = Instant::now();
    match &case.meanwhile {
        None => bind_all(&api, &case.measured).await?,
        Some(t) => tokio::select! {
            bound = bind_all(&api, &case.measured) => bound?,
            failed = keep_making(&api, t) => match failed? {},
        },
    }
    let rate = case.measured.count as f64 / begun.elapsed().as_secs_f64();
    super::line(&format!("scale.{}", case.name), rate, "pods/s");
    api.delete_collection(&DeleteParams::default().grace_period(0), &ListParams::default()).await?;
    let deadline = Instant::now() + STALL;
    while !api.list_metadata(&ListParams::default().limit(1)).await?.items.is_empty() {
        if Instant::now() > deadline {
            bail!("the pods of the case are not gone {STALL:?} after their deletion");
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

/// Makes pods and waits until nothing more happens to any: its node says that it runs, or the scheduler that it fits
/// nowhere.
async fn settle(api: &Api<Pod>, b: &Batch) -> anyhow::Result<()> {
    let settled = |p: &Seen| match b.fits {
        true => p.phase() == "Running",
        false => p.is_unschedulable(),
    };
    create_and_wait(api, b, settled).await
}

async fn bind_all(api: &Api<Pod>, b: &Batch) -> anyhow::Result<()> {
    create_and_wait(api, b, Seen::is_bound).await
}

async fn create_and_wait(api: &Api<Pod>, b: &Batch, done: impl Fn(&Seen) -> bool) -> anyhow::Result<()> {
    let label = watcher::Config::default().labels(&format!("app={}", b.prefix));
    let pods = Api::namespaced(api.clone().into_client(), NAMESPACE);
    let mut events = Box::pin(watching::events::<Seen>(pods, label));
    // The watch is there before the first pod is.
    while let Some(event) = events.next().await {
        if matches!(event, Event::InitDone) {
            break;
        }
    }
    tokio::try_join!(create(api, b), wait(events, b, done))?;
    Ok(())
}

async fn create(api: &Api<Pod>, b: &Batch) -> anyhow::Result<()> {
    let client = &api.clone().into_client();
    futures::stream::iter((0..b.count).map(Ok))
        .try_for_each_concurrent(IN_FLIGHT, |i| create_one(client, b.prefix, i, &b.spec))
        .await
}

async fn create_one(client: &Client, prefix: &str, i: usize, spec: &Value) -> anyhow::Result<()> {
    let name = format!("{prefix}-{i:06}");
    let pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": prefix}}, "spec": spec});
    let pods = requests::<Pod>(Some(NAMESPACE));
    let request = pods.create(&PostParams::default(), pod.to_string().into_bytes())?;
    client.request_text(request).await.with_context(|| format!("creating pod {name}"))?;
    Ok(())
}

/// Makes pods as long as it is polled.
async fn keep_making(api: &Api<Pod>, t: &Trickle) -> anyhow::Result<Infallible> {
    let client = &api.clone().into_client();
    let mut tick = tokio::time::interval(t.every);
    for i in 0.. {
        tick.tick().await;
        create_one(client, t.prefix, i, &t.spec).await?;
    }
    bail!("no numbers are left for pods")
}

async fn wait(
    mut events: impl Stream<Item = Event<Seen>> + Unpin,
    b: &Batch,
    done: impl Fn(&Seen) -> bool,
) -> anyhow::Result<()> {
    let mut ready: HashSet<String> = HashSet::new();
    while ready.len() < b.count {
        let next = tokio::time::timeout(STALL, events.next()).await;
        match next
            .with_context(|| format!("{} of {} pods after {STALL:?} without news", ready.len(), b.count))?
        {
            Some(Event::Apply(p) | Event::InitApply(p)) if done(&p) => {
                ready.insert(p.metadata.name.unwrap_or_default());
            }
            Some(_) => {}
            None => bail!("the watch ended"),
        }
    }
    Ok(())
}
