//! What every request needs, built once at start.

use std::sync::Arc;

use crate::admission::Chain;
use crate::aggregator::Aggregator;
use crate::audit::Auditor;
use crate::authn::Authenticator;
use crate::authn::token_request::Issuer;
use crate::authz::Authorizer;
use crate::connect::Kubelets;
use crate::discovery::Discovery;
use crate::flowcontrol;
use crate::health::Health;
use crate::http::edge::Edge;
use crate::http::inflight::InFlight;
use crate::http::lifecycle::Lifecycle;
use crate::metrics::Metrics;
use crate::registry::Registry;
use crate::trace::Tracer;

/// The server's parts.
pub struct App {
    pub registry: Arc<Registry>,
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub admission: Arc<Chain>,
    /// None where no signing key is configured.
    pub issuer: Option<Issuer>,
    pub discovery: Discovery,
    pub health: Health,
    pub metrics: Metrics,
    /// Bounds where priority and fairness is off.
    pub in_flight: InFlight,
    /// None where priority and fairness is off.
    pub flow: Option<Arc<flowcontrol::Controller>>,
    /// None where nothing is audited.
    pub auditor: Option<Arc<Auditor>>,
    /// None where nothing is traced.
    pub tracer: Option<Tracer>,
    pub lifecycle: Arc<Lifecycle>,
    pub edge: Edge,
    pub started: std::time::SystemTime,
    pub kubelets: Kubelets,
    pub aggregator: Arc<Aggregator>,
    pub settings: Settings,
}

/// Facts from the flags that handlers use.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    pub request_timeout: std::time::Duration,
    /// `--profiling`.
    pub profiling: bool,
    /// The flags themselves, to be shown.
    pub flags: crate::config::Shown,
    /// `--aggregator-reject-forwarding-redirect`
    pub reject_redirects: bool,
    /// Keys that verify service-account tokens, as a JWKS; none where none are configured.
    pub jwks: Option<serde_json::Value>,
    pub openid_configuration: Option<serde_json::Value>,
    /// `--delete-collection-workers`, at least one.
    pub delete_collection_workers: usize,
}
