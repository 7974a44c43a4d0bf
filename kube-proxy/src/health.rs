//! The proxy's own health (port 10256), its metrics server (10249), and the health checks that load balancers make
//! per service (`healthCheckNodePort`).

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use component_base::process::Shutdown;
use component_base::serving::health::{Health, text};
use component_base::serving::listener::{self, Body};
use http::header::HeaderValue;
use http::{Response, StatusCode};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tracing::{error, info};

use crate::metrics::{Code, Metrics};
use crate::model::ServiceName;

/// Whether rules keep up with changes. Clones share it.
#[derive(Clone)]
pub struct ProxyHealth(Arc<Mutex<Inner>>);

struct Inner {
    updated: jiff::Timestamp,
    /// Since when a change waits to be written.
    pending: Option<Instant>,
    /// The node is there and not about to be deleted.
    eligible: bool,
    timeout: Duration,
}

impl ProxyHealth {
    /// Unhealthy when a change waits for longer than `timeout`.
    #[must_use]
    pub fn new(timeout: Duration) -> Self {
        let updated = jiff::Timestamp::now();
        Self(Arc::new(Mutex::new(Inner { updated, pending: None, eligible: false, timeout })))
    }

    /// A change waits.
    pub fn queued(&self) {
        self.0.lock().pending.get_or_insert_with(Instant::now);
    }

    /// All changes are written.
    pub fn updated(&self) {
        let mut i = self.0.lock();
        i.pending = None;
        i.updated = jiff::Timestamp::now();
    }

    /// Whether load balancers may send traffic to this node.
    pub fn set_eligible(&self, eligible: bool) {
        self.0.lock().eligible = eligible;
    }

    /// Whether rules keep up.
    #[must_use]
    pub fn healthy(&self) -> bool {
        let i = self.0.lock();
        i.pending.is_none_or(|p| p.elapsed() < i.timeout)
    }

    fn answer(&self, with_node: bool) -> (bool, String) {
        let keeps_up = self.healthy();
        let i = self.0.lock();
        let healthy = keeps_up && (!with_node || i.eligible);
        let now = jiff::Timestamp::now();
        let updated = if healthy { now } else { i.updated };
        let mut body = json!({
            "lastUpdated": updated.to_string(), "currentTime": now.to_string(), "healthy": keeps_up,
        });
        if with_node {
            body["nodeEligible"] = json!(i.eligible);
        }
        (healthy, body.to_string())
    }
}

fn status(ok: bool) -> StatusCode {
    if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

fn not_found() -> Response<Body> {
    text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into())
}

/// Serves `/healthz` (also: is the node fit for load balancers) and `/livez`.
///
/// # Errors
/// The address can't be listened on.
pub async fn serve_healthz(
    address: SocketAddr,
    health: ProxyHealth,
    metrics: Metrics,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for health checks: is the port in use?"))?;
    let handler = move |request: http::Request<hyper::body::Incoming>| {
        let (health, metrics) = (health.clone(), metrics.clone());
        async move {
            let path = request.uri().path();
            if path != "/healthz" && path != "/livez" && path != "/readyz" {
                return not_found();
            }
            let (ok, body) = health.answer(path == "/healthz");
            let code = Code { code: if ok { "200" } else { "503" } };
            let counter = if path == "/livez" { &metrics.livez } else { &metrics.healthz };
            counter.get_or_create(&code).inc();
            text(status(ok), "application/json", body)
        }
    };
    tokio::spawn(listener::serve(listener, None, handler, shutdown));
    Ok(())
}

/// Serves `/metrics`, `/proxyMode`, `/configz` and `/healthz`.
///
/// # Errors
/// The address can't be listened on.
pub async fn serve_metrics(
    address: SocketAddr,
    standard: Health,
    mode: &'static str,
    shutdown: Shutdown,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address} for metrics: is the port in use?"))?;
    let handler = move |request: http::Request<hyper::body::Incoming>| {
        let standard = standard.clone();
        async move {
            let uri = request.uri();
            if uri.path() == "/proxyMode" {
                return text(StatusCode::OK, "text/plain; charset=utf-8", mode.to_owned());
            }
            standard.answer(uri.path(), uri.query()).unwrap_or_else(not_found)
        }
    };
    tokio::spawn(listener::serve(listener, None, handler, shutdown));
    Ok(())
}

/// Health check ports of services.
pub struct ServiceHealth {
    health: ProxyHealth,
    /// Where to listen: the addresses that node ports are served on, or all.
    addresses: Vec<IpAddr>,
    open: BTreeMap<ServiceName, Open>,
}

struct Open {
    port: u16,
    local: Arc<std::sync::atomic::AtomicUsize>,
    stop: Shutdown,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl ServiceHealth {
    /// Listens on nothing yet.
    #[must_use]
    pub fn new(health: ProxyHealth, addresses: Vec<IpAddr>) -> Self {
        let addresses = if addresses.is_empty() { vec![Ipv6Addr::UNSPECIFIED.into()] } else { addresses };
        Self { health, addresses, open: BTreeMap::new() }
    }

    /// A service wants its health checked on `port` (0: no longer), and has so many ready endpoints here.
    pub async fn set(&mut self, name: &ServiceName, port: u16, local: usize) {
        use std::sync::atomic::Ordering;
        if let Some(o) = self.open.get(name).filter(|o| o.port == port) {
            o.local.store(local, Ordering::Relaxed);
            return;
        }
        self.open.remove(name);
        if port == 0 {
            return;
        }
        let open = Open { port, local: Arc::new(local.into()), stop: Shutdown::new() };
        for address in &self.addresses {
            let at = SocketAddr::new(*address, port);
            let mut listener = bind(at).await;
            if listener.is_err() && *address == IpAddr::V6(Ipv6Addr::UNSPECIFIED) {
                // No IPv6 on this machine.
                listener = bind(SocketAddr::new([0, 0, 0, 0].into(), port)).await;
            }
            match listener {
                Ok(l) => {
                    let (health, local, name) = (self.health.clone(), open.local.clone(), name.clone());
                    let handler = move |_| {
                        let answer = answer(&name, local.load(Ordering::Relaxed), health.healthy());
                        async move { answer }
                    };
                    tokio::spawn(listener::serve(l, None, handler, open.stop.clone()));
                    info!(port, address = %at, "serving health checks of a service");
                }
                Err(error) => {
                    error!(service = %name, address = %at, %error, "cannot listen for health checks of the service");
                }
            }
        }
        self.open.insert(name.clone(), open);
    }
}

async fn bind(at: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(at).await
}

fn answer(name: &ServiceName, local: usize, healthy: bool) -> Response<Body> {
    let body = json!({
        "service": {"namespace": name.namespace.as_ref(), "name": name.name.as_ref()},
        "localEndpoints": local,
        "serviceProxyHealthy": healthy,
    });
    let mut r = text(status(local > 0 && healthy), "application/json", body.to_string());
    r.headers_mut().insert("X-Content-Type-Options", HeaderValue::from_static("nosniff"));
    r.headers_mut().insert("X-Load-Balancing-Endpoint-Weight", HeaderValue::from(local));
    r
}
