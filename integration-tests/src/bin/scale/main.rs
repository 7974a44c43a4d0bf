//! How fast pods are bound in a large cluster, end to end: `scale NODES PODS`, a line each: name, value, unit.
//!
//! The API server, the scheduler and the controller manager are the real ones, on this machine's loopback. The nodes
//! are hollow ([`hollow`]): objects with status and lease, and no containers. Each case makes its pods through the API
//! and counts until the last is bound, then removes them; then the controllers have their turn ([`controllers`]).

mod cases;
mod controllers;
mod hollow;
mod load;
mod raw;
mod seen;

use std::time::Duration;

use anyhow::{Context, bail};
use ctl::cluster::control_plane;
use integration_tests::bare::{Bare, or_interrupted};
use integration_tests::usage;

const DAEMONS: [&str; 3] = ["kube-apiserver", "kube-scheduler", "kube-controller-manager"];
/// How long the last work may go on.
const SETTLING: Duration = Duration::from_secs(10);
/// How long an idle cluster is looked at.
const IDLE: Duration = Duration::from_secs(20);

fn main() -> anyhow::Result<()> {
    let mut args = std::env::args().skip(1);
    let mut number = |name: &str| -> anyhow::Result<usize> {
        let text = args.next().with_context(|| format!("usage: scale NODES PODS ({name} is missing)"))?;
        text.parse().with_context(|| format!("{name} is {text:?}, not a number"))
    };
    let (nodes, pods) = (number("NODES")?, number("PODS")?);
    if !(1..=20_000).contains(&nodes) || !(1..=200_000).contains(&pods) {
        bail!("NODES must be in 1..=20000 and PODS in 1..=200000");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let bare = Bare::start().await?;
        or_interrupted(run(&bare, nodes, pods)).await.with_context(|| bare.logs())
    })
}

async fn run(bare: &Bare, nodes: usize, pods: usize) -> anyhow::Result<()> {
    // Connections of our own, so that making pods does not wait behind the hollow nodes.
    let (client, for_nodes) = (bare.client().await?, bare.client().await?);
    let hollow = hollow::Fleet::start(for_nodes, nodes).await?;
    control_plane::start_scheduler(&bare.cluster.options, &bare.cluster.layout)?;
    for case in cases::all(nodes, pods) {
        load::run(&client, &case).await.with_context(|| format!("case {}", case.name))?;
    }
    // Not before: its work would be a part of the other figures.
    control_plane::start_controller_manager(&bare.cluster.options, &bare.cluster.layout)?;
    controllers::run(&client, pods).await.context("with the controller manager")?;
    for daemon in DAEMONS {
        line(&format!("scale.memory.{daemon}"), usage::resident(bare.pid(daemon)?)?, "MB");
    }
    idle(bare).await?;
    hollow.stop().await;
    Ok(())
}

/// Prints what share of a core each daemon takes while nothing happens but that the nodes renew their leases.
async fn idle(bare: &Bare) -> anyhow::Result<()> {
    let used = || DAEMONS.map(|d| bare.pid(d).and_then(usage::processor_time));
    tokio::time::sleep(SETTLING).await;
    let before = used();
    tokio::time::sleep(IDLE).await;
    for ((daemon, before), after) in DAEMONS.iter().zip(before).zip(used()) {
        let share = (after? - before?) / (IDLE.as_secs_f64() * 10.0);
        line(&format!("scale.idle.{daemon}"), share, "% of a core");
    }
    Ok(())
}

/// Prints one figure.
fn line(name: &str, value: f64, unit: &str) {
    println!("{name} {value:.1} {unit}");
}
