//! `faults SECONDS [SEED]`: three API servers that share their own store, each in a network namespace and on a disk of
//! its own, under load while servers are killed and paused, the network is cut and loses packets, disks fill up,
//! clocks jump and the power fails. What clients have seen is then judged; the exit code says the verdict.
//!
//! The plan of faults follows from the seed. What the clients do meanwhile depends on the machine, too: a failing seed
//! is likely to fail again, not certain.

mod checker;
mod clock;
mod history;
mod inject;
mod load;
mod net;
mod plan;
mod power;
mod watcher;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use integration_tests::Group;
use integration_tests::bare::or_interrupted;
use integration_tests::group::Config;

use history::History;
use inject::Injector;
use load::Load;
use watcher::Watchers;

/// Namespace whose config maps the clients work on.
const NAMESPACE: &str = "faults";
/// Large enough for the data of a run, small enough to fill.
const DISK_MIB: u64 = 512;
/// How long a server may take to come back once nothing fails any more.
const COME_BACK: Duration = Duration::from_secs(60);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<ExitCode> {
    let number = |i: usize| std::env::args().nth(i).map(|a| a.parse::<u64>().context(a)).transpose();
    let seconds = number(1)?.context("usage: faults SECONDS [SEED]")?;
    let seed = match number(2)? {
        Some(seed) => seed,
        None => SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(),
    };
    println!("faults for {seconds} s, seed {seed}; once more: make faults DURATION={seconds} SEED={seed}");
    or_interrupted(run(seconds, seed)).await
}

async fn run(seconds: u64, seed: u64) -> anyhow::Result<ExitCode> {
    let clocks = clock::preload();
    if clocks.is_none() {
        println!("left out: clock jumps, for lack of libfaketime (scripts/install-test-tools)");
    }
    let config = Config { disk_mib: Some(DISK_MIB), preload: clocks.clone(), ..Config::default() };
    let group = Arc::new(Group::prepare(config).await?);
    let outcome = under_load(&group, seconds, seed, clocks.is_some()).await;
    if outcome.is_err() {
        eprintln!("{}", group.logs());
    }
    // Whoever still holds it only waits for an answer, and is gone with the runtime.
    match Arc::try_unwrap(group) {
        Ok(group) => group.down().await?,
        Err(shared) => drop(shared),
    }
    outcome
}

async fn under_load(group: &Arc<Group>, seconds: u64, seed: u64, clocks: bool) -> anyhow::Result<ExitCode> {
    let injector = Injector::new(group)?;
    for n in group.members() {
        group.spawn(n)?;
    }
    for n in group.members() {
        group.wait_ready(n, COME_BACK).await?;
    }
    let history = Arc::new(History::default());
    let load = Load::start(group, &history, seed).await?;
    let watchers = Watchers::start(group, &history, seed, load.begin);
    let started = Instant::now();
    let mut stuck = Vec::new();
    for step in plan::plan(seed, seconds, clocks) {
        tokio::time::sleep_until((started + step.at).into()).await;
        println!("{:>7.2} s  {}", started.elapsed().as_secs_f64(), step.fault);
        injector.inject(&step).await.with_context(|| format!("injecting {}", step.fault))?;
        stuck.extend(injector.heal(COME_BACK).await?);
    }
    tokio::time::sleep_until((started + Duration::from_secs(seconds)).into()).await;
    stuck.extend(injector.heal(COME_BACK).await?);
    let ends = load.finish(group, &history).await?;
    watchers.finish(ends.revision).await;
    let verdicts = checker::judge(&history.take(), &ends, stuck);
    println!("\nfaults: {}", injector.counts());
    println!("operations: {}\n", history.counts());
    let mut all_hold = true;
    for v in &verdicts {
        println!("{v}");
        all_hold &= v.violations.is_empty();
    }
    println!("\n{} (seed {seed})", if all_hold { "all guarantees hold" } else { "GUARANTEES ARE BROKEN" });
    Ok(if all_hold { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
