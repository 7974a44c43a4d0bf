//! The edge of the proxy: watches in, rules out, one loop in the middle.

mod proxier;
mod setup;
mod watches;

use std::sync::Arc;

use component_base::process::{self, Shutdown};
use component_base::serving::health::Health;
use tracing::{info, warn};

use crate::config::Mode;
use crate::health::{self, ProxyHealth, ServiceHealth};
use crate::metrics::Metrics;
use crate::options::Settings;
use crate::sync::FAMILIES;
use crate::{conntrack, iptables, nftables};

/// Runs the proxy until `shutdown`. Rules stay in place when it stops.
///
/// # Errors
/// The packet filter can't be used, a port is taken, or the kubeconfig is bad.
pub async fn run(settings: Settings, shutdown: Shutdown) -> anyhow::Result<()> {
    let mode = settings.mode;
    info!(mode = mode.name(), node = settings.node, "proxy mode");
    if let Some(score) = settings.config.oom_score_adj
        && let Err(error) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
    {
        warn!(score, %error, "cannot set oom_score_adj");
    }
    conntrack::configure(&settings.config.conntrack);

    let metrics = Metrics::default();
    let standard = Health::default();
    standard.set_profiling(settings.config.enable_profiling);
    standard.metrics().register(|r| metrics.register(r, mode.name()));
    standard.set_config("kubeproxy.config.k8s.io", serde_json::to_value(&settings.config)?);
    let period = setup::sync_period(&settings);
    let health = ProxyHealth::new(period * 2);
    let hard = settings.config.bind_address_hard_fail;
    let tolerate = |r: anyhow::Result<()>| match r {
        Err(e) if !hard => {
            warn!(error = format!("{e:#}"), "going on without");
            Ok(())
        }
        r => r,
    };
    if let Some(address) = settings.healthz {
        tolerate(health::serve_healthz(address, health.clone(), metrics.clone(), shutdown.clone()).await)?;
    }
    if let Some(address) = settings.metrics {
        tolerate(health::serve_metrics(address, standard.clone(), mode.name(), shutdown.clone()).await)?;
    }

    let client = component_base::kubeconfig::client(&settings.kubeconfig, "kube-proxy").await?;
    let backends = setup::backends(&settings).await?;
    let addresses = setup::node_port_ips(&settings, &[]).unwrap_or_default();
    let services = ServiceHealth::new(health.clone(), addresses);
    let changes = watches::start(&client, &settings.node, &shutdown);
    let proxier = proxier::Proxier::new(Arc::new(settings), backends, health, services, metrics);
    process::ready();
    proxier.run(changes, shutdown).await;
    Ok(())
}

/// Removes all rules of all modes.
///
/// # Errors
/// A tool failed; the others are still tried.
pub async fn clean_up() -> anyhow::Result<()> {
    let mut failed = Vec::new();
    for family in FAMILIES {
        // Without the tools, or the family, there is nothing to remove.
        if iptables::backend::probe(family).await.is_ok()
            && let Err(e) = iptables::backend::clean_up(family).await
        {
            failed.push(format!("{e:#}"));
        }
    }
    for ip in ["ip", "ip6"] {
        if nftables::backend::probe(ip).await.is_ok()
            && let Err(e) = nftables::backend::clean_up(ip).await
        {
            failed.push(format!("{e:#}"));
        }
    }
    if failed.is_empty() { Ok(()) } else { anyhow::bail!("cleaning up: {}", failed.join("; ")) }
}

/// Removes what an earlier run in the other mode left behind.
async fn clean_up_other(mode: Mode) {
    for family in FAMILIES {
        let result = match mode {
            Mode::Iptables => {
                let ip = if family == crate::model::Family::V4 { "ip" } else { "ip6" };
                match nftables::backend::probe(ip).await {
                    Ok(()) => nftables::backend::clean_up(ip).await,
                    Err(_) => Ok(()),
                }
            }
            Mode::Nftables => match iptables::backend::probe(family).await {
                Ok(()) => iptables::backend::clean_up(family).await,
                Err(_) => Ok(()),
            },
        };
        if let Err(e) = result {
            warn!(error = format!("{e:#}"), "cannot remove rules of the other proxy mode");
        }
    }
}
