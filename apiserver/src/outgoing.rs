//! Everything in which this server calls others, put together from the flags: admission webhooks and aggregated API
//! servers, and what they share (how services are resolved, with which credentials others are called).

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use crate::admission::config::Configs;
use crate::admission::webhook::{Callers, Webhooks};
use crate::aggregator::Aggregator;
use crate::aggregator::service::Factory;
use crate::config::Flags;
use crate::registry::Registry;
use crate::registry::storage::Storage;
use crate::security::plain;
use crate::webhook::tls::Identity;
use crate::webhook::{Clients, Identities, Resolve, ServiceResolver};

/// Name under which webhooks are called.
const USER_AGENT: &str = "kube-apiserver-admission";

/// See the module.
pub struct Outgoing {
    pub webhooks: Arc<Webhooks>,
    pub aggregator: Arc<Aggregator>,
    /// Clients of conversion webhooks.
    pub clients: Arc<Clients>,
    callers: Callers,
    resolver: Arc<dyn Resolve>,
    identity: Option<Identity>,
}

impl Outgoing {
    /// `address` is where this server listens.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn new(
        flags: &Flags,
        configs: &Configs,
        registry: &Registry,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let table = registry.table();
        let storage = |group: &str, resource: &str| -> anyhow::Result<Arc<Storage>> {
            let r = table.get(group, "v1", resource).and_then(|r| r.storage.clone());
            r.with_context(|| format!("{resource} are not served"))
        };
        let slices = match flags.enable_aggregator_routing {
            true => Some(storage("discovery.k8s.io", "endpointslices")?),
            false => None,
        };
        let own = match address {
            a if a.ip().is_unspecified() => format!("127.0.0.1:{}", a.port()),
            a => a.to_string(),
        };
        let resolver: Arc<dyn Resolve> =
            Arc::new(ServiceResolver::new(storage("", "services")?, slices, own));
        let identity =
            identity(flags.proxy_client_cert_file.as_deref(), flags.proxy_client_key_file.as_deref())?;
        let clients = |kubeconfig: Option<&Path>| -> anyhow::Result<Arc<Clients>> {
            let identities = plain(kubeconfig.map(Identities::read).transpose())?.unwrap_or_default();
            Ok(Arc::new(Clients::new(Arc::clone(&resolver), identities, USER_AGENT)))
        };
        Ok(Self {
            webhooks: Arc::default(),
            aggregator: Arc::default(),
            clients: clients(None)?,
            callers: Callers {
                mutating: clients(configs.mutating_webhooks.as_deref())?,
                validating: clients(configs.validating_webhooks.as_deref())?,
            },
            resolver,
            identity,
        })
    }

    /// Begins to follow what configures calls. Returns when what is there is in force.
    pub async fn start(&self, registry: &Arc<Registry>, stop: &CancellationToken) {
        self.webhooks.start(registry, self.callers.clone(), stop).await;
        let factory = Factory { resolver: Arc::clone(&self.resolver), identity: self.identity.clone() };
        self.aggregator.start(registry, factory, stop).await;
    }

    /// Makes the metrics of these parts visible.
    pub fn register(&self, metrics: &component_base::metrics::Metrics) {
        self.webhooks.metrics.register(metrics);
        self.aggregator.metrics.register(metrics);
    }
}

fn identity(cert: Option<&Path>, key: Option<&Path>) -> anyhow::Result<Option<Identity>> {
    let (cert, key) = match (cert, key) {
        (None, None) => return Ok(None),
        (Some(c), Some(k)) => (c, k),
        _ => bail!("--proxy-client-cert-file and --proxy-client-key-file must be given together"),
    };
    let read =
        |flag: &str, p: &Path| std::fs::read(p).with_context(|| format!("{flag}: reading {}", p.display()));
    Ok(Some(Identity {
        cert: read("--proxy-client-cert-file", cert)?,
        key: read("--proxy-client-key-file", key)?,
    }))
}
