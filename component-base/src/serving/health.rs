//! The endpoints that every daemon serves about itself: `/healthz`, `/livez`, `/readyz` (with `?verbose` and
//! `?exclude=NAME`), `/metrics`, `/configz` and `/version`, and with `--profiling` `/debug/pprof/`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use bytes::Bytes;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use parking_lot::RwLock;
use rustls::ServerConfig;
use tokio::net::TcpListener;

use super::delegated::{Action, Delegated, Refusal};
use super::listener::{self, Body};
use super::profiles;
use crate::metrics::{self, Metrics};
use crate::process::Shutdown;

/// One named check: `Err` says what is wrong.
pub type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// What a daemon can say about itself; clones share it.
#[derive(Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Default)]
struct Inner {
    live: RwLock<Vec<(String, Check)>>,
    ready: RwLock<Vec<(String, Check)>>,
    configz: RwLock<serde_json::Map<String, serde_json::Value>>,
    metrics: Metrics,
    profiling: AtomicBool,
}

impl Health {
    /// Adds a check to `/healthz`, `/livez` and `/readyz`.
    pub fn add_live(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.live.write().push((name.to_owned(), Box::new(check)));
    }

    /// Adds a check to `/readyz` only.
    pub fn add_ready(&self, name: &str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) {
        self.0.ready.write().push((name.to_owned(), Box::new(check)));
    }

    /// Publishes the configuration in use under `name` in `/configz`.
    pub fn set_config(&self, name: &str, config: serde_json::Value) {
        self.0.configz.write().insert(name.to_owned(), config);
    }

    /// The daemon's metrics registry.
    pub fn metrics(&self) -> &Metrics {
        &self.0.metrics
    }

    /// `--profiling`: whether `/debug/pprof/` is there.
    pub fn set_profiling(&self, on: bool) {
        self.0.profiling.store(on, Ordering::Relaxed);
    }

    /// Answers `path` if it is one of the standard endpoints.
    pub fn answer(&self, path: &str, query: Option<&str>) -> Option<Response<Body>> {
        let response = match path {
            "/healthz" | "/livez" => self.checks(&path[1..], query, false),
            "/readyz" => self.checks("readyz", query, true),
            "/metrics" => text(StatusCode::OK, metrics::CONTENT_TYPE, self.0.metrics.render()),
            "/configz" => text(
                StatusCode::OK,
                "application/json",
                serde_json::Value::Object(self.0.configz.read().clone()).to_string(),
            ),
            "/version" => text(StatusCode::OK, "application/json", version()),
            _ if path.starts_with("/debug/") => {
                let profile = profiles::answer(path).filter(|_| self.0.profiling.load(Ordering::Relaxed))?;
                text(profile.status, profile.content_type, profile.body)
            }
            _ => return self.single(path),
        };
        Some(response)
    }

    /// One check by its name: `/healthz/NAME`.
    fn single(&self, path: &str) -> Option<Response<Body>> {
        let (endpoint, name) = path.strip_prefix('/')?.split_once('/')?;
        let ready = match endpoint {
            "healthz" | "livez" => false,
            "readyz" => true,
            _ => return None,
        };
        let result = if name == "ping" {
            Some(Ok(()))
        } else {
            let run =
                |list: &[(String, Check)]| list.iter().find(|(n, _)| n == name).map(|(_, check)| check());
            run(&self.0.live.read()).or_else(|| run(&self.0.ready.read()).filter(|_| ready))
        };
        Some(match result? {
            Ok(()) => text(StatusCode::OK, "text/plain; charset=utf-8", "ok".into()),
            Err(e) => text(
                StatusCode::INTERNAL_SERVER_ERROR,
                "text/plain; charset=utf-8",
                format!("internal server error: {e}\n"),
            ),
        })
    }

    fn checks(&self, endpoint: &str, query: Option<&str>, with_ready: bool) -> Response<Body> {
        let pairs: Vec<(&str, &str)> =
            query.unwrap_or_default().split('&').map(|p| p.split_once('=').unwrap_or((p, ""))).collect();
        let verbose = pairs.iter().any(|(k, _)| *k == "verbose");
        let excluded = |name: &str| pairs.iter().any(|(k, v)| *k == "exclude" && *v == name);
        let mut report = String::from("[+]ping ok\n");
        let mut failed = false;
        let mut run = |list: &[(String, Check)]| {
            for (name, check) in list {
                match if excluded(name) { Ok(()) } else { check() } {
                    Ok(()) if excluded(name) => report.push_str(&format!("[+]{name} excluded: ok\n")),
                    Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
                    Err(e) => {
                        failed = true;
                        report.push_str(&format!("[-]{name} failed: {e}\n"));
                    }
                }
            }
        };
        run(&self.0.live.read());
        if with_ready {
            run(&self.0.ready.read());
        }
        match (failed, verbose) {
            (true, _) => {
                report.push_str(&format!("{endpoint} check failed\n"));
                text(StatusCode::INTERNAL_SERVER_ERROR, "text/plain; charset=utf-8", report)
            }
            (false, true) => {
                report.push_str(&format!("{endpoint} check passed\n"));
                text(StatusCode::OK, "text/plain; charset=utf-8", report)
            }
            (false, false) => text(StatusCode::OK, "text/plain; charset=utf-8", "ok".into()),
        }
    }
}

/// What `/version` answers, as JSON.
pub fn version() -> String {
    serde_json::json!({
        "major": crate::version::MAJOR, "minor": crate::version::MINOR,
        "emulationMajor": crate::version::MAJOR, "emulationMinor": crate::version::MINOR,
        "minCompatibilityMajor": crate::version::MAJOR, "minCompatibilityMinor": "35",
        "gitVersion": crate::version::GIT_VERSION, "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "", "compiler": "rustc",
        "platform": crate::version::platform(),
    })
    .to_string()
}

/// A whole answer of one piece.
pub fn text(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

/// Serves the standard endpoints on `address` until `shutdown`; returns once it listens, with the address bound.
///
/// Health paths are open to everybody; the others only to those whom `access` admits, and without `access` to
/// nobody but over plain HTTP (`tls` none), which is for loopback addresses.
///
/// # Errors
/// The address cannot be listened on.
pub async fn serve(
    address: SocketAddr,
    tls: Option<ServerConfig>,
    health: Health,
    access: Option<Arc<Delegated>>,
    shutdown: Shutdown,
) -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("listening on {address}: is another process using the port?"))?;
    let bound = listener.local_addr()?;
    let open = tls.is_none();
    let handler = move |request: Request<Incoming>| {
        let (health, access) = (health.clone(), access.clone());
        async move { handle(request, &health, access.as_deref(), open).await }
    };
    tokio::spawn(listener::serve(listener, tls.map(Arc::new), handler, shutdown));
    Ok(bound)
}

async fn handle(
    request: Request<Incoming>,
    health: &Health,
    access: Option<&Delegated>,
    open: bool,
) -> Response<Body> {
    let (parts, _) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let public = open || matches!(path.as_str(), "/healthz" | "/livez" | "/readyz");
    if !public && let Err(refusal) = admit(&parts, access, &path).await {
        return refused(&refusal);
    }
    health.answer(&path, parts.uri.query()).unwrap_or_else(|| {
        text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "404 page not found\n".into())
    })
}

async fn admit(parts: &http::request::Parts, access: Option<&Delegated>, path: &str) -> Result<(), Refusal> {
    let access = access.ok_or(Refusal::Unauthorized)?;
    let who = access.authenticate(parts).await?;
    let action = Action::Path { path: path.to_owned(), verb: parts.method.as_str().to_ascii_lowercase() };
    access.authorize(&who, &action).await
}

/// The plain-text answer to a request that is refused.
pub fn refused(refusal: &Refusal) -> Response<Body> {
    let status = match refusal {
        Refusal::Unauthorized => StatusCode::UNAUTHORIZED,
        Refusal::Forbidden { .. } => StatusCode::FORBIDDEN,
        Refusal::Unavailable(_) => StatusCode::INTERNAL_SERVER_ERROR,
    };
    text(status, "text/plain; charset=utf-8", format!("{refusal}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn body(r: Response<Body>) -> (u16, String) {
        let status = r.status().as_u16();
        let bytes = r.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(bytes.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_failing_check_shows_its_name_and_can_be_excluded() {
        let h = Health::default();
        h.add_live("log", || Ok(()));
        h.add_ready("informer-sync", || Err("not synced".into()));
        assert_eq!(body(h.answer("/healthz", None).unwrap()).await, (200, "ok".into()));
        let (status, text) = body(h.answer("/readyz", Some("verbose")).unwrap()).await;
        assert_eq!(status, 500);
        assert!(text.contains("[-]informer-sync failed: not synced") && text.contains("[+]log ok"), "{text}");
        let (status, text) = body(h.answer("/readyz", Some("verbose&exclude=informer-sync")).unwrap()).await;
        assert_eq!(status, 200);
        assert!(text.ends_with("readyz check passed\n"), "{text}");
        assert!(h.answer("/nope", None).is_none());
        assert_eq!(body(h.answer("/healthz/log", None).unwrap()).await, (200, "ok".into()));
        assert_eq!(body(h.answer("/livez/ping", None).unwrap()).await, (200, "ok".into()));
        let failed = body(h.answer("/readyz/informer-sync", None).unwrap()).await;
        assert_eq!(failed, (500, "internal server error: not synced\n".into()));
        assert!(h.answer("/healthz/informer-sync", None).is_none(), "it is about readiness");
    }

    #[tokio::test]
    async fn profiles_are_there_when_they_are_asked_for() {
        let h = Health::default();
        assert!(h.answer("/debug/pprof/heap", None).is_none());
        h.set_profiling(true);
        let (status, text) = body(h.answer("/debug/pprof/heap", None).unwrap()).await;
        assert!(status == 200 && text.contains("VmRSS"), "{text}");
        assert_eq!(body(h.answer("/debug/pprof/profile", None).unwrap()).await.0, 501);
    }

    #[tokio::test]
    async fn metrics_have_process_memory() {
        let (_, text) = body(Health::default().answer("/metrics", None).unwrap()).await;
        assert!(text.contains("process_resident_memory_bytes"), "{text}");
    }
}
