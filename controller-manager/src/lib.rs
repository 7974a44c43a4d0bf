//! The controller manager: every built-in control loop in one process.
//!
//! `main` parses [`flags`], then [`run`] builds [`clients`], opens the health and metrics port, waits to become leader
//! and starts the controllers of [`controllers`]. Controllers share the watches of [`informers`]; each has a pure
//! reconcile core, and a shell that reads stores, calls the core and sends what the core decided.

pub mod clients;
pub mod context;
pub mod controllers;
pub mod daemon;
pub mod flags;
pub mod informers;
mod serve;
pub mod util;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use component_base::controller::events::EventRecorder;
use component_base::controller::leader::{Ended, LeaderConfig, LeaderElector, default_identity};
use component_base::process::Shutdown;

use clients::Clients;
use context::Context;
use flags::Flags;
use informers::Informers;

/// Runs the controller manager until `shutdown`, or until it loses its lease.
///
/// # Errors
/// A flag, file or address is unusable, or leadership was lost.
pub async fn run(flags: Flags, shutdown: Shutdown) -> anyhow::Result<()> {
    let enabled = controllers::enabled(&flags.controllers)?;
    let Some(kubeconfig) = flags.kubeconfig.clone() else {
        bail!("--kubeconfig is required: the file that says where the API server is and who we are");
    };
    let clients =
        Clients::new(&kubeconfig, flags.master.clone(), flags.use_service_account_credentials).await?;
    let flags = Arc::new(flags);
    let (metrics, health) = serve::start(&flags, shutdown.clone()).await?;
    component_base::process::ready();

    let lead = |stop: Shutdown| {
        let (clients, flags) = (clients.clone(), flags.clone());
        let (metrics, health) = (metrics.clone(), health.clone());
        async move {
            let events = EventRecorder::new(clients.root(), "controller-manager", None);
            let informers = Informers::new(clients.root(), stop.clone());
            let ctx = Context::new(clients, informers, events, flags, metrics, health, stop.clone());
            if let Err(e) = controllers::start(&ctx, &enabled).await {
                tracing::error!(error = format!("{e:#}"), "can't start the controllers");
                return;
            }
            ctx.informers.start();
            stop.cancelled().await;
            ctx.finish(flags_shutdown_timeout(&ctx.flags)).await;
        }
    };
    if !flags.leader_elect {
        lead(shutdown).await;
        return Ok(());
    }
    // Losing the lease ends the process, so who answers has not lost it.
    health.add_live("leaderElection", || Ok(()));
    let config = LeaderConfig {
        lease_duration: flags.leader_elect_lease_duration.0,
        renew_deadline: flags.leader_elect_renew_deadline.0,
        retry_period: flags.leader_elect_retry_period.0,
        ..LeaderConfig::new(
            flags.leader_elect_resource_namespace.clone(),
            flags.leader_elect_resource_name.clone(),
            default_identity(),
        )
    };
    check_timing(&config).context("leader election flags")?;
    let elector = LeaderElector::new(clients.connection()?, config);
    metrics.follow_leadership(flags.leader_elect_resource_name.clone(), elector.leading());
    let stopping = shutdown.clone();
    match elector.run(shutdown, lead).await {
        Ended::Stopped if stopping.is_cancelled() => Ok(()),
        Ended::Stopped => bail!("the controllers ended by themselves; see the errors above"),
        Ended::Lost => {
            bail!("leader election lost: another instance leads, or the API server can't be reached")
        }
    }
}

fn flags_shutdown_timeout(flags: &Flags) -> Duration {
    flags.controller_shutdown_timeout.0
}

fn check_timing(c: &LeaderConfig) -> anyhow::Result<()> {
    if c.lease_duration <= c.renew_deadline {
        bail!("--leader-elect-lease-duration must be greater than --leader-elect-renew-deadline");
    }
    if c.renew_deadline.as_secs_f64() <= 1.2 * c.retry_period.as_secs_f64() {
        bail!("--leader-elect-renew-deadline must be greater than 1.2 times --leader-elect-retry-period");
    }
    Ok(())
}
