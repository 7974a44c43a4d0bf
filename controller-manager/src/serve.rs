//! The health and metrics port, 10257 by upstream's convention.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use component_base::process::Shutdown;
use component_base::serving::delegated::Delegated;
use component_base::serving::health::{self, Health};
use component_base::serving::tls;
use component_base::{kubeconfig, pki};

use crate::context::Metrics;
use crate::flags::Flags;

/// Starts the server (unless `--secure-port=0`) and returns the metrics that controllers fill, and the health that they
/// add to.
pub async fn start(flags: &Flags, shutdown: Shutdown) -> anyhow::Result<(Metrics, Health)> {
    let health = Health::default();
    health.set_config("kubecontrollermanager.config.k8s.io", serde_json::to_value(flags.effective())?);
    health.metrics().choose(flags.metrics.choice()?);
    health.set_profiling(flags.profiling);
    let metrics = Metrics::new(health.metrics());
    if flags.secure_port == 0 {
        return Ok((metrics, health));
    }
    let pair = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(cert), Some(key)) => tls::read_pair(cert, key)?,
        (None, None) => {
            pki::self_signed("kube-controller-manager", vec!["localhost".into()], vec![flags.bind_address])?
        }
        _ => anyhow::bail!("--tls-cert-file and --tls-private-key-file must be given together"),
    };
    let client_ca = flags.client_ca_file.as_deref().map(read).transpose()?;
    let config = tls::server_config(&pair, client_ca.as_deref())?;
    let reviewer = flags.authorization_kubeconfig.as_ref().or(flags.authentication_kubeconfig.as_ref());
    let access = match reviewer.or(flags.kubeconfig.as_ref()) {
        Some(path) => {
            Some(Arc::new(Delegated::new(kubeconfig::client(path, "kube-controller-manager").await?)))
        }
        None => None,
    };
    let address = SocketAddr::new(flags.bind_address, flags.secure_port);
    let bound = health::serve(address, Some(config), health.clone(), access, shutdown).await?;
    tracing::info!(address = %bound, "serving health and metrics");
    Ok((metrics, health))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))
}
