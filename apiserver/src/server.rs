//! Builds the server from its flags and runs it: store, registry, security, bootstrap objects, listener.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use component_base::process::Shutdown;
use component_base::serving::listener;
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use crate::admission::chain::Settings as AdmissionSettings;
use crate::admission::config::Configs;
use crate::admission::policy::Policies;
use crate::admission::{Chain, Environment};
use crate::allocate;
use crate::app::{App, Settings};
use crate::authn::token_request::Issuer;
use crate::bootstrap;
use crate::bootstrap::kubernetes_service::Endpoints;
use crate::bootstrap::master_leases::MasterLeases;
use crate::config::{Flags, RuntimeConfig};
use crate::connect::kubelet::{Files, Kubelets};
use crate::crd;
use crate::discovery::Discovery;
use crate::feeds;
use crate::health::{Health, Scope};
use crate::http::filters;
use crate::http::inflight::InFlight;
use crate::http::traffic::{self, Traffic};
use crate::lookup::{ObjectLookup, ObjectWriter};
use crate::metrics::Metrics;
use crate::metrics::state::State;
use crate::outgoing::Outgoing;
use crate::registry::Registry;
use crate::registry::table::Table;
use crate::security::{ClientCas, Security, configs, plain, read};
use crate::store::Store;

/// How long connections may stay open at the end, when all requests that do not run long are done.
const STILL_OPEN: Duration = Duration::from_secs(5);

/// A server that is built and bound, but does not serve yet.
pub struct Server {
    pub app: Arc<App>,
    pub address: SocketAddr,
    listener: TcpListener,
    listening: listener::Options,
    security: Security,
    flags: Flags,
    allocator: allocate::Services,
    master_leases: MasterLeases,
    outgoing: Outgoing,
    policies: Arc<Policies>,
    bootstrap: bootstrap::Settings,
    bootstrapped: Arc<AtomicBool>,
}

fn host_port(host: IpAddr, port: u16) -> String {
    SocketAddr::new(host, port).to_string()
}

impl Server {
    /// Builds everything over `store` and binds the port.
    pub async fn build(flags: &Flags, store: Arc<dyn Store>, shutdown: &Shutdown) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((flags.bind_address, flags.secure_port))
            .await
            .with_context(|| format!("listening on {}", host_port(flags.bind_address, flags.secure_port)))?;
        let address = listener.local_addr().context("reading the bound address")?;
        let advertised = flags.advertised();
        // What only API servers keep there is not encrypted, upstream's neither.
        let unencrypted = Arc::clone(&store);
        let (store, encrypted) = configs::encryption(flags, store).await?;
        let runtime = RuntimeConfig::parse(&flags.runtime_config)?;
        let table = plain(Table::build(&store, |g, v| runtime.enabled(g, v)))?;
        let host = if flags.external_hostname.is_empty() {
            host_port(advertised, address.port())
        } else {
            format!("{}:{}", flags.external_hostname, address.port())
        };
        let discovery = Discovery::new(&host);
        crate::kinds::podspec::allow_privileged(flags.allow_privileged);
        let metrics = Metrics::default();
        metrics.shared().choose(flags.metrics.choice()?);
        let traffic = Traffic::build(flags, &metrics)?;
        let watches = traffic.lifecycle.watches.clone();
        let registry = Arc::new(Registry::new(table, flags.event_ttl.0.as_secs(), watches));
        registry.set_watch_limits(traffic.watch_limits);
        let lookup: Arc<dyn ObjectLookup> = registry.clone();
        let writer: Arc<dyn ObjectWriter> = registry.clone();

        let mut security = Security::build(flags, advertised, lookup.clone())?;
        let authorizer = security.authorizer.clone();
        let bootstrap = bootstrap_settings(flags, advertised, address.port(), &security.cas);
        let configs = Arc::new(plain(Configs::load(flags.admission_control_config_file.as_deref()))?);
        let outgoing = Outgoing::new(flags, &configs, &registry, address)?;
        let policies = Arc::<Policies>::default();
        let environment = Environment {
            objects: lookup.clone(),
            writer: writer.clone(),
            authorizer: authorizer.clone(),
            settings: AdmissionSettings {
                default_not_ready_toleration_seconds: flags.default_not_ready_toleration_seconds,
                default_unreachable_toleration_seconds: flags.default_unreachable_toleration_seconds,
            },
            webhooks: outgoing.webhooks.clone(),
            policies: policies.clone(),
            configs,
        };
        let admission = Arc::new(plain(Chain::new(
            &environment,
            &flags.enable_admission_plugins,
            &flags.disable_admission_plugins,
            &flags.admission_control,
        ))?);
        registry.set_admission(admission.clone());
        let allocator = allocate::Services::new(
            plain(allocate::Config::parse(&flags.service_cluster_ip_range, &flags.service_node_port_range))?,
            writer,
            Arc::clone(&unencrypted),
        );
        let master_leases = MasterLeases::new(unencrypted);
        registry.set_allocator(allocator.clone());
        State::register(&registry, allocator.clone(), traffic.handshake_errors(), metrics.shared());
        let tokens = &mut security.tokens;
        let issuer = tokens.signing.take().map(|key| Issuer {
            issuer: flags.service_account_issuer.first().cloned().unwrap_or_default(),
            key,
            api_audiences: tokens.audiences.clone(),
            max_seconds: i64::try_from(flags.service_account_max_token_expiration.0.as_secs()).unwrap_or(0),
            extend: flags.service_account_extend_token_expiration,
            objects: lookup,
        });
        let kubelets = Kubelets::new(
            &Files {
                certificate: read(
                    "--kubelet-client-certificate",
                    flags.kubelet_client_certificate.as_deref(),
                )?,
                key: read("--kubelet-client-key", flags.kubelet_client_key.as_deref())?,
                authority: read(
                    "--kubelet-certificate-authority",
                    flags.kubelet_certificate_authority.as_deref(),
                )?,
            },
            flags.kubelet_preferred_address_types.clone(),
            flags.kubelet_timeout.0,
        )?;
        let bootstrapped = Arc::new(AtomicBool::new(false));
        authorizer.metrics().register(metrics.shared());
        security.authenticator.register_metrics(metrics.shared());
        if let Some(sa) = security.authenticator.service_accounts() {
            sa.set_writer(registry.clone());
        }
        let grace = flags.serving.livez_grace_period.0;
        let mut health = Health::of_server(&bootstrapped, shutdown, &store, grace);
        if let Some(e) = encrypted {
            e.metrics().register(metrics.shared());
            configs::follow_encryption(flags, &e, shutdown);
            health.add("kms-providers", Scope::All, move || e.plugin_health());
        }
        let app = Arc::new(App {
            registry,
            authenticator: security.authenticator.clone(),
            authorizer,
            admission,
            issuer,
            discovery,
            health,
            metrics,
            in_flight: InFlight::new(flags.max_requests_inflight, flags.max_mutating_requests_inflight),
            flow: traffic.flow,
            auditor: traffic.auditor,
            tracer: traffic.tracer,
            lifecycle: traffic.lifecycle,
            edge: traffic.edge,
            started: SystemTime::now(),
            kubelets,
            aggregator: outgoing.aggregator.clone(),
            settings: Settings {
                request_timeout: flags.request_timeout(),
                reject_redirects: flags.aggregator_reject_forwarding_redirect,
                profiling: flags.profiling,
                flags: flags.given.clone(),
                jwks: tokens.jwks.take(),
                openid_configuration: tokens.openid.take(),
                delete_collection_workers: flags.delete_collection_workers.max(1),
            },
        });
        outgoing.register(app.metrics.shared());
        policies.metrics.register(app.metrics.shared());
        let flags = flags.clone();
        Ok(Self {
            app,
            address,
            listener,
            listening: traffic.listener,
            security,
            flags,
            allocator,
            master_leases,
            outgoing,
            policies,
            bootstrap,
            bootstrapped,
        })
    }

    /// Serves until `shutdown`, then drains. `ready` is called once everything is in place.
    pub async fn run(mut self, shutdown: Shutdown, ready: impl FnOnce() + Send) -> anyhow::Result<()> {
        self.bootstrap.service_ip =
            self.allocator.api_server_ip().map(|ip| ip.to_string()).unwrap_or_default();
        let handler = {
            let app = self.app.clone();
            move |request| {
                let app = app.clone();
                async move { filters::handle(app, request).await.map(|b| b.boxed_unsync()) }
            }
        };
        let objects = Arc::default();
        feeds::start(&self.app.registry, &self.app.authorizer, &objects, &shutdown)
            .await
            .context("loading the authorization policy")?;
        self.outgoing.start(&self.app.registry, &shutdown).await;
        self.policies.start(&self.app.registry, &shutdown).await;
        let mut leaks = allocate::Leaks::default();
        self.allocator
            .repair(&mut leaks)
            .await
            .context("reading which cluster IPs and node ports are in use")?;
        self.allocator.keep_repairing(leaks, shutdown.clone());
        let metrics = crd::metrics::Metrics::default();
        metrics.register(self.app.metrics.shared());
        let conversions =
            Arc::new(crd::webhook::Webhooks { clients: self.outgoing.clients.clone(), metrics });
        crd::controller::Controller::start(&self.app.registry, conversions, &shutdown)
            .await
            .context("reading the custom resource definitions")?;
        traffic::start(&self.app, &objects, &shutdown);
        let stop_listening = Shutdown::new();
        let serving = tokio::spawn(listener::serve_with(
            self.listener,
            listener::Intake { options: self.listening, ..self.security.intake() },
            handler,
            stop_listening.clone(),
        ));
        let writer: &dyn ObjectWriter = &*self.app.registry;
        let summary = bootstrap::reconcile_patiently(writer, &self.bootstrap)
            .await
            .context("writing the bootstrap objects")?;
        tracing::info!(
            created = summary.created,
            updated = summary.updated,
            unchanged = summary.unchanged,
            "bootstrap objects are in place"
        );
        let identity = bootstrap::identity::Identity::of_this_machine().context("reading the host name")?;
        identity.keep(self.app.registry.clone(), shutdown.clone());
        configs::follow_kubelet_identity(&self.flags, &self.app, &shutdown);
        self.security.follow(&self.flags, self.app.registry.clone(), self.bootstrap.clone(), &shutdown);
        let endpoints = Endpoints::new(self.master_leases, &self.bootstrap);
        if let Some(e) = endpoints.clone() {
            if let Err(error) = e.announce(writer).await {
                tracing::info!(%error, "this server is no endpoint of the kubernetes service yet");
            }
            let (registry, stop) = (self.app.registry.clone(), shutdown.clone());
            tokio::spawn(async move { e.keep(&*registry, &stop).await });
        }
        self.bootstrapped.store(true, Ordering::Release);
        tracing::info!(address = %self.address, "serving");
        ready();
        shutdown.cancelled().await;
        let withdrawn = async {
            identity.withdraw(writer).await;
            match endpoints {
                Some(e) => e.withdraw(writer).await,
                None => Ok(()),
            }
        };
        if let Ok(Err(e)) = tokio::time::timeout(Duration::from_secs(2), withdrawn).await {
            tracing::warn!(error = %e, "this server's endpoints could not be withdrawn");
        }
        self.app.lifecycle.drain(&stop_listening).await;
        // What is still open runs long: logs that are followed, for instance.
        match tokio::time::timeout(STILL_OPEN, serving).await {
            Ok(ended) => ended.context("the listener failed")?,
            Err(_) => tracing::info!("connections are cut that did not end"),
        }
        if let Some(a) = &self.app.auditor {
            a.close().await;
        }
        Ok(())
    }
}

fn bootstrap_settings(flags: &Flags, advertised: IpAddr, port: u16, cas: &ClientCas) -> bootstrap::Settings {
    // Endpoints may not lead to each node's own loopback.
    let reachable = !(advertised.is_loopback() || advertised.is_unspecified());
    if !reachable {
        tracing::warn!(address = %advertised, "the kubernetes service gets no endpoints: pods cannot reach this address; set --advertise-address");
    }
    bootstrap::Settings {
        service_cidrs: flags.service_cluster_ip_range.split(',').map(str::to_owned).collect(),
        service_ip: String::new(),
        node_port: flags.kubernetes_service_node_port,
        advertise_address: advertised.to_string(),
        secure_port: port,
        reconcile_endpoints: flags.endpoint_reconciler_type != "none" && reachable,
        authentication_config: cas.published(flags),
    }
}
