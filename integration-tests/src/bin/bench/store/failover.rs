//! How long nothing can be written after the leader of three API servers is killed: to the first write that another
//! server acknowledges. Processes, network namespaces and TLS are those of the tests under faults.

use std::time::{Duration, Instant};

use anyhow::Context;
use integration_tests::Group;
use integration_tests::group::Config;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::api::{Patch, PatchParams, PostParams};
use nix::sys::signal::Signal;
use serde_json::json;

use crate::figures::{line, quantile};

const ROUNDS: usize = 7;
/// How long one attempt to write may take.
const ATTEMPT: Duration = Duration::from_secs(5);
/// How long a server may take to come back.
const COME_BACK: Duration = Duration::from_secs(60);

/// Prints the median and the longest.
pub async fn run() -> anyhow::Result<()> {
    let group = Group::start(Config::default()).await?;
    let measured = rounds(&group).await;
    if measured.is_err() {
        eprintln!("{}", group.logs());
    }
    group.down().await?;
    let times = measured?;
    line("store.leader_killed.first_write.p50", quantile(times.clone(), 0.5), "s");
    line("store.leader_killed.first_write.max", quantile(times, 1.0), "s");
    Ok(())
}

async fn rounds(group: &Group) -> anyhow::Result<Vec<f64>> {
    let api = |n| Api::<ConfigMap>::namespaced(group.client(n), "default");
    let map = serde_json::from_value(json!({"metadata": {"name": "bench"}, "data": {"v": "0"}}))?;
    api(1).create(&PostParams::default(), &map).await?;
    let mut times = Vec::new();
    for round in 0..ROUNDS {
        let leader = group.leader().await.context("nobody leads")?;
        let other = group.members().find(|n| *n != leader).context("nobody is left")?;
        // A connection that is there already, as clients have one.
        group.wait_ready(other, COME_BACK).await?;
        let killed = Instant::now();
        group.signal(leader, Signal::SIGKILL).await;
        loop {
            let patch = Patch::Merge(json!({"data": {"v": format!("{round} {:?}", killed.elapsed())}}));
            let (api, params) = (api(other), PatchParams::default());
            let write = tokio::time::timeout(ATTEMPT, api.patch("bench", &params, &patch)).await;
            if matches!(write, Ok(Ok(_))) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
            anyhow::ensure!(killed.elapsed() < COME_BACK, "nothing can be written any more: {write:?}");
        }
        times.push(killed.elapsed().as_secs_f64());
        group.spawn(leader)?;
        group.wait_ready(leader, COME_BACK).await?;
        // What the restart was for is done: the next leader dies in peace.
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    Ok(times)
}
