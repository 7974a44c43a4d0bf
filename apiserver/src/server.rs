//! Builds the server from its flags and runs it: store, registry, security, bootstrap objects, listener.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use component_base::process::Shutdown;
use component_base::serving::listener;
use component_base::{pki, serving};
use http_body_util::BodyExt as _;
use tokio::net::TcpListener;

use crate::admission::chain::Settings as AdmissionSettings;
use crate::admission::{Chain, Environment};
use crate::allocate;
use crate::app::{App, Settings};
use crate::authn::request_header;
use crate::authn::service_account;
use crate::authn::token_request::Issuer;
use crate::authn::{self, Anonymous, Authenticator, keys, x509};
use crate::authz::Authorizer;
use crate::bootstrap;
use crate::config::{Flags, RuntimeConfig};
use crate::connect::kubelet::{Files, Kubelets};
use crate::discovery::Discovery;
use crate::feeds;
use crate::health::{Health, Scope};
use crate::http::filters;
use crate::http::inflight::InFlight;
use crate::lookup::{ObjectLookup, ObjectWriter};
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::registry::table::Table;
use crate::store::Store;

/// A server that is built and bound, but does not serve yet.
pub struct Server {
    pub app: Arc<App>,
    pub address: SocketAddr,
    listener: TcpListener,
    tls: Arc<rustls::ServerConfig>,
    allocator: allocate::Services,
    bootstrap: bootstrap::Settings,
    bootstrapped: Arc<AtomicBool>,
}

fn read(flag: &str, path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    path.map(|p| std::fs::read(p).with_context(|| format!("{flag}: reading {}", p.display()))).transpose()
}

fn plain<T>(r: Result<T, String>) -> anyhow::Result<T> {
    r.map_err(|e| anyhow!(e))
}

/// What service-account tokens need.
struct Tokens {
    verify: Option<service_account::Config>,
    signing: Option<keys::SigningKey>,
    audiences: Vec<String>,
    jwks: Option<serde_json::Value>,
    openid: Option<serde_json::Value>,
}

impl Tokens {
    fn load(flags: &Flags, advertised: IpAddr) -> anyhow::Result<Self> {
        let issuers = flags.service_account_issuer.clone();
        let audiences = if flags.api_audiences.is_empty() {
            issuers.first().cloned().into_iter().collect()
        } else {
            flags.api_audiences.clone()
        };
        let mut public = Vec::new();
        for f in &flags.service_account_key_file {
            let pem = read("--service-account-key-file", Some(f))?.unwrap_or_default();
            public.extend(plain(keys::public_keys("--service-account-key-file", &pem))?);
        }
        let signing = match read(
            "--service-account-signing-key-file",
            flags.service_account_signing_key_file.as_deref(),
        )? {
            Some(pem) => Some(plain(keys::SigningKey::from_pem("--service-account-signing-key-file", &pem))?),
            None => None,
        };
        if public.is_empty()
            && let Some(s) = &signing
        {
            public.push(s.public().clone());
        }
        let issuer = issuers.first().cloned().unwrap_or_default();
        let uri = flags.service_account_jwks_uri.clone().unwrap_or_else(|| {
            format!("https://{}/openid/v1/jwks", host_port(advertised, flags.secure_port))
        });
        let jwks = (!public.is_empty()).then(|| keys::jwks(&public));
        let openid = keys::openid_configuration(&issuer, &uri, &public).filter(|_| jwks.is_some());
        let verify = (!public.is_empty() && !issuers.is_empty()).then(|| service_account::Config {
            issuers,
            keys: public,
            api_audiences: audiences.clone(),
        });
        Ok(Self { verify, signing, audiences, jwks, openid })
    }
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
        let runtime = RuntimeConfig::parse(&flags.runtime_config)?;
        let table = plain(Table::build(&store, |g, v| runtime.enabled(g, v)))?;
        let discovery = Discovery::new(&host_port(advertised, address.port()));
        let registry = Arc::new(Registry::new(table, flags.event_ttl.0.as_secs(), shutdown.clone()));
        let lookup: Arc<dyn ObjectLookup> = registry.clone();
        let writer: Arc<dyn ObjectWriter> = registry.clone();

        let tokens = Tokens::load(flags, advertised)?;
        let client_ca = read("--client-ca-file", flags.client_ca_file.as_deref())?;
        let proxy_ca = read("--requestheader-client-ca-file", flags.requestheader_client_ca_file.as_deref())?;
        let tls = tls_config(flags, client_ca.as_deref(), proxy_ca.as_deref(), advertised)?;
        let bootstrap = bootstrap_settings(flags, advertised, address.port(), &client_ca, &proxy_ca);
        let authenticator = plain(Authenticator::new(
            authn::Config {
                client_ca,
                request_header: proxy_ca.map(|client_ca| request_header::Config {
                    client_ca,
                    allowed_names: flags.requestheader_allowed_names.clone(),
                    username_headers: flags.requestheader_username_headers.clone(),
                    uid_headers: flags.requestheader_uid_headers.clone(),
                    group_headers: flags.requestheader_group_headers.clone(),
                    extra_headers_prefixes: flags.requestheader_extra_headers_prefix.clone(),
                }),
                token_file: read("--token-auth-file", flags.token_auth_file.as_deref())?,
                service_account: tokens.verify,
                bootstrap_tokens: flags.enable_bootstrap_token_auth,
                anonymous: match flags.anonymous_auth {
                    None => Anonymous::HealthOnly,
                    Some(true) => Anonymous::Everywhere,
                    Some(false) => Anonymous::Nowhere,
                },
            },
            lookup.clone(),
        ))?;
        let authorizer = Arc::new(plain(Authorizer::new(&flags.authorization_mode))?);
        let environment = Environment {
            objects: lookup.clone(),
            writer: writer.clone(),
            authorizer: authorizer.clone(),
            settings: AdmissionSettings {
                default_not_ready_toleration_seconds: flags.default_not_ready_toleration_seconds,
                default_unreachable_toleration_seconds: flags.default_unreachable_toleration_seconds,
            },
        };
        let admission = Arc::new(plain(Chain::new(
            &environment,
            &flags.enable_admission_plugins,
            &flags.disable_admission_plugins,
        ))?);
        registry.set_admission(admission.clone());
        let allocator = allocate::Services::new(
            plain(allocate::Config::parse(&flags.service_cluster_ip_range, &flags.service_node_port_range))?,
            writer,
        );
        registry.set_allocator(allocator.clone());
        let issuer = tokens.signing.map(|key| Issuer {
            issuer: flags.service_account_issuer.first().cloned().unwrap_or_default(),
            key,
            api_audiences: tokens.audiences,
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
        )?;
        let bootstrapped = Arc::new(AtomicBool::new(false));
        let metrics = Metrics::default();
        authorizer.metrics().register(metrics.shared());
        let app = Arc::new(App {
            registry,
            authenticator,
            authorizer,
            admission,
            issuer,
            discovery,
            health: health(&bootstrapped, shutdown, &store),
            metrics,
            in_flight: InFlight::new(flags.max_requests_inflight, flags.max_mutating_requests_inflight),
            kubelets,
            settings: Settings {
                request_timeout: flags.request_timeout(),
                jwks: tokens.jwks,
                openid_configuration: tokens.openid,
            },
        });
        Ok(Self { app, address, listener, tls, allocator, bootstrap, bootstrapped })
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
        feeds::start(&self.app.registry, &self.app.authorizer, &shutdown)
            .await
            .context("loading the authorization policy")?;
        self.allocator.rebuild().await.context("reading which cluster IPs and node ports are in use")?;
        let serving = tokio::spawn(listener::serve(self.listener, Some(self.tls), handler, shutdown.clone()));
        let writer: &dyn ObjectWriter = &*self.app.registry;
        let summary =
            bootstrap::reconcile(writer, &self.bootstrap).await.context("writing the bootstrap objects")?;
        tracing::info!(
            created = summary.created,
            updated = summary.updated,
            unchanged = summary.unchanged,
            "bootstrap objects are in place"
        );
        self.bootstrapped.store(true, Ordering::Release);
        tracing::info!(address = %self.address, "serving");
        ready();
        shutdown.cancelled().await;
        let withdrawn = bootstrap::kubernetes_service::withdraw(writer, &self.bootstrap);
        if let Ok(Err(e)) = tokio::time::timeout(Duration::from_secs(2), withdrawn).await {
            tracing::warn!(error = %e, "this server's endpoints could not be withdrawn");
        }
        serving.await.context("the listener failed")
    }
}

/// Serving certificate and the request for client certificates.
fn tls_config(
    flags: &Flags,
    client_ca: Option<&[u8]>,
    proxy_ca: Option<&[u8]>,
    advertised: IpAddr,
) -> anyhow::Result<Arc<rustls::ServerConfig>> {
    let pair = match (&flags.tls_cert_file, &flags.tls_private_key_file) {
        (Some(c), Some(k)) => serving::tls::read_pair(c, k)?,
        _ => {
            tracing::warn!(
                "no --tls-cert-file: serving with a self-signed certificate, which no client trusts"
            );
            let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
            let names = names.iter().map(|n| (*n).to_owned()).collect();
            pki::self_signed("kube-apiserver", names, vec![advertised])?
        }
    };
    let mut subjects = Vec::new();
    for (flag, pem) in [("--client-ca-file", client_ca), ("--requestheader-client-ca-file", proxy_ca)] {
        if let Some(pem) = pem {
            subjects.extend(plain(x509::subjects(flag, pem))?);
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = authn::tls::RequestClientCert::new(provider.clone(), subjects);
    let chain = serving::tls::certificates(&pair.cert).context("--tls-cert-file")?;
    let key = {
        use rustls::pki_types::pem::PemObject as _;
        rustls::pki_types::PrivateKeyDer::from_pem_slice(pair.key.as_bytes())
            .context("--tls-private-key-file")?
    };
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .context("--tls-cert-file and --tls-private-key-file")?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn bootstrap_settings(
    flags: &Flags,
    advertised: IpAddr,
    port: u16,
    client_ca: &Option<Vec<u8>>,
    proxy_ca: &Option<Vec<u8>>,
) -> bootstrap::Settings {
    let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
    let list = |l: &[String]| serde_json::to_string(l).unwrap_or_default();
    let mut authentication_config = Vec::new();
    if let Some(ca) = client_ca {
        authentication_config.push(("client-ca-file".to_owned(), text(ca)));
    }
    if let Some(ca) = proxy_ca {
        for (key, value) in [
            ("requestheader-client-ca-file", text(ca)),
            ("requestheader-allowed-names", list(&flags.requestheader_allowed_names)),
            ("requestheader-username-headers", list(&flags.requestheader_username_headers)),
            ("requestheader-uid-headers", list(&flags.requestheader_uid_headers)),
            ("requestheader-group-headers", list(&flags.requestheader_group_headers)),
            ("requestheader-extra-headers-prefix", list(&flags.requestheader_extra_headers_prefix)),
        ] {
            authentication_config.push((key.to_owned(), value));
        }
    }
    // Endpoints may not lead to each node's own loopback.
    let reachable = !(advertised.is_loopback() || advertised.is_unspecified());
    if !reachable {
        tracing::warn!(address = %advertised, "the kubernetes service gets no endpoints: pods cannot reach this address; set --advertise-address");
    }
    bootstrap::Settings {
        service_cidrs: flags.service_cluster_ip_range.split(',').map(str::to_owned).collect(),
        service_ip: String::new(),
        advertise_address: advertised.to_string(),
        secure_port: port,
        reconcile_endpoints: flags.endpoint_reconciler_type != "none" && reachable,
        authentication_config,
    }
}

/// The named checks. Those that upstream's tools ask for by name have its names.
fn health(bootstrapped: &Arc<AtomicBool>, shutdown: &Shutdown, store: &Arc<dyn Store>) -> Health {
    let mut h = Health::default();
    h.add("ping", Scope::All, || Ok(()));
    h.add("log", Scope::All, || Ok(()));
    // Upstream's name for the store, whatever it is.
    let store = Arc::clone(store);
    h.add("etcd", Scope::All, move || store.health().map_err(|e| e.to_string()));
    for name in [
        "poststarthook/start-system-namespaces-controller",
        "poststarthook/rbac/bootstrap-roles",
        "poststarthook/scheduling/bootstrap-system-priority-classes",
        "poststarthook/priority-and-fairness-config-producer",
        "poststarthook/bootstrap-controller",
    ] {
        h.add_flag(name, Scope::All, bootstrapped.clone());
    }
    h.add_flag("informer-sync", Scope::ReadyOnly, bootstrapped.clone());
    let shutdown = shutdown.clone();
    h.add("shutdown", Scope::ReadyOnly, move || {
        if shutdown.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) }
    });
    h
}
