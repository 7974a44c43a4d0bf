//! The edge of the scheduler: watches in, bindings, events and conditions out, one loop in the middle.

pub mod api;
mod apply;
pub mod changes;
pub mod claims;
pub mod core;
pub mod extender;
mod preemption;
mod prepare;
pub mod volumes;
pub mod watches;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use component_base::controller::leader::{Ended, LeaderConfig, LeaderElector, default_identity};
use component_base::http2;
use component_base::process::{self, Shutdown};
use component_base::serving::delegated::Delegated;
use component_base::serving::{health, tls};

use crate::framework::Profile;
use crate::metrics::Metrics;
use crate::options::Settings;

/// Runs the scheduler until `shutdown`.
///
/// # Errors
/// Bad settings, an unusable port or kubeconfig, or the loss of leadership.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let config = &settings.config;
    let percentage = config.percentage_of_nodes_to_score.unwrap_or(0);
    let profiles: Vec<Profile> = config
        .profiles
        .iter()
        .map(|p| Profile::new(p, percentage))
        .collect::<Result<_, _>>()
        .map_err(|e| anyhow::anyhow!("scheduler configuration: {e}"))?;
    // A connection each for what is watched, what is written, and the lease, which must not wait behind the others.
    let api = component_base::kubeconfig::config_for(&settings.kubeconfig, "kube-scheduler").await?;
    let (watching, client) = (http2::client(&api)?, http2::client(&api)?);

    let health = health::Health::default();
    health.set_config("kubescheduler.config.k8s.io", serde_json::to_value(config)?);
    let metrics = Metrics::default();
    health.metrics().choose(settings.metrics.clone());
    health.set_profiling(config.enable_profiling.unwrap_or(true));
    health.metrics().register(|r| metrics.register(r));
    let synced = Arc::new(AtomicBool::new(false));
    let seen = synced.clone();
    health.add_ready("informer-sync", move || {
        if seen.load(Ordering::Relaxed) { Ok(()) } else { Err("informers have not synced yet".into()) }
    });
    if let Some(address) = settings.serve {
        let pair = match &settings.certificate {
            Some((cert, key)) => tls::read_pair(cert, key)?,
            None => component_base::pki::self_signed(
                "kube-scheduler",
                vec!["localhost".into()],
                vec![address.ip()],
            )?,
        };
        let ca = settings.client_ca.as_deref().map(std::fs::read_to_string).transpose()?;
        let server = tls::server_config(&pair, ca.as_deref())?;
        let access = match &settings.authorization_kubeconfig {
            Some(path) => component_base::kubeconfig::client(path, "kube-scheduler").await?,
            None => client.clone(),
        };
        let access = Some(Arc::new(Delegated::new(access)));
        let bound = health::serve(address, Some(server), health.clone(), access, shutdown.clone()).await?;
        tracing::info!(address = %bound, "serving health and metrics");
    }

    let elect = config.leader_election.clone();
    let mut extenders = Vec::new();
    for e in &config.extenders {
        extenders.push(extender::Extender::new(e).await?);
    }
    let work = core::Worker::new((watching, client), profiles, config, extenders, metrics, synced);
    if !elect.leader_elect {
        process::ready();
        work.run(shutdown).await;
        return Ok(());
    }
    let lease = LeaderConfig {
        lease_duration: elect.lease_duration.0,
        renew_deadline: elect.renew_deadline.0,
        retry_period: elect.retry_period.0,
        ..LeaderConfig::new(elect.resource_namespace, elect.resource_name, default_identity())
    };
    let elector = LeaderElector::new(http2::client(&api)?, lease);
    // Standing by is a healthy state: systemd need not wait for the leader to die.
    process::ready();
    match elector.run(shutdown.clone(), |term| work.run(term)).await {
        Ended::Stopped => Ok(()),
        Ended::Lost => anyhow::bail!("leader election lost: another scheduler may be at work"),
    }
}
