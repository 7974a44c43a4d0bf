//! `/healthz`, `/livez` and `/readyz`: named checks, each also alone under its own path, with `?verbose` and
//! `?exclude=NAME`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use component_base::process::Shutdown;

use crate::http::query::Query;
use crate::http::{Response, respond};
use crate::store::Store;

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

const ENDPOINTS: [&str; 3] = ["healthz", "livez", "readyz"];

/// One check, with how often it passed and failed on each endpoint, and how it last was.
struct Named {
    name: &'static str,
    scope: Scope,
    check: Check,
    passed: [AtomicU64; 3],
    failed: [AtomicU64; 3],
    healthy: [AtomicBool; 3],
}

impl Named {
    /// Runs the check for an endpoint.
    fn run(&self, endpoint: &str) -> Result<(), String> {
        let result = (self.check)();
        if let Some(i) = ENDPOINTS.iter().position(|e| *e == endpoint) {
            let count = if result.is_ok() { &self.passed } else { &self.failed };
            count[i].fetch_add(1, Ordering::Relaxed);
            self.healthy[i].store(result.is_ok(), Ordering::Relaxed);
        }
        result
    }
}

/// The checks, in the order in which they are shown.
pub struct Health {
    checks: Vec<Named>,
    /// So long after the start, what is not finished yet does not count against being alive (`--livez-grace-period`).
    livez_grace: Duration,
    started: Instant,
}

impl Default for Health {
    fn default() -> Self {
        Self { checks: Vec::new(), livez_grace: Duration::ZERO, started: Instant::now() }
    }
}

/// What upstream does once at start, under the names that its probes and tests know. Here all of it has been done when
/// the bootstrap objects are in place.
const START_HOOKS: &[&str] = &[
    "poststarthook/start-apiserver-admission-initializer",
    "poststarthook/generic-apiserver-start-informers",
    "poststarthook/priority-and-fairness-config-consumer",
    "poststarthook/priority-and-fairness-filter",
    "poststarthook/storage-object-count-tracker-hook",
    "poststarthook/start-apiextensions-informers",
    "poststarthook/start-apiextensions-controllers",
    "poststarthook/crd-informer-synced",
    "poststarthook/start-system-namespaces-controller",
    "poststarthook/start-cluster-authentication-info-controller",
    "poststarthook/start-kube-apiserver-identity-lease-controller",
    "poststarthook/start-kube-apiserver-identity-lease-garbage-collector",
    "poststarthook/storage-readiness",
    "poststarthook/start-legacy-token-tracking-controller",
    "poststarthook/start-service-ip-repair-controllers",
    "poststarthook/rbac/bootstrap-roles",
    "poststarthook/scheduling/bootstrap-system-priority-classes",
    "poststarthook/priority-and-fairness-config-producer",
    "poststarthook/bootstrap-controller",
    "poststarthook/start-kubernetes-service-cidr-controller",
    "poststarthook/aggregator-reload-proxy-client-cert",
    "poststarthook/start-kube-aggregator-informers",
    "poststarthook/apiservice-status-local-available-controller",
    "poststarthook/apiservice-status-remote-available-controller",
    "poststarthook/apiservice-registration-controller",
    "poststarthook/apiservice-discovery-controller",
    "poststarthook/kube-apiserver-autoregistration",
    "autoregister-completion",
    "poststarthook/apiservice-openapi-controller",
    "poststarthook/apiservice-openapiv3-controller",
];

/// Which endpoints a check belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    All,
    LiveOnly,
    ReadyOnly,
}

impl Health {
    pub fn add(
        &mut self,
        name: &'static str,
        scope: Scope,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        self.checks.push(Named {
            name,
            scope,
            check: Box::new(check),
            passed: Default::default(),
            failed: Default::default(),
            healthy: Default::default(),
        });
    }

    /// The checks of a server: its store, what it does at start, and the signal to stop.
    pub fn of_server(
        bootstrapped: &Arc<AtomicBool>,
        shutdown: &Shutdown,
        store: &Arc<dyn Store>,
        livez_grace: Duration,
    ) -> Self {
        let mut h = Self { livez_grace, ..Self::default() };
        h.add("ping", Scope::All, || Ok(()));
        h.add("log", Scope::All, || Ok(()));
        // Upstream's name for the store, whatever it is.
        for (name, scope) in [("etcd", Scope::All), ("etcd-readiness", Scope::ReadyOnly)] {
            let store = Arc::clone(store);
            h.add(name, scope, move || store.health().map_err(|e| e.to_string()));
        }
        h.add_flag("informer-sync", Scope::ReadyOnly, bootstrapped.clone());
        for name in START_HOOKS {
            h.add_flag(name, Scope::All, bootstrapped.clone());
        }
        let shutdown = shutdown.clone();
        h.add("shutdown", Scope::ReadyOnly, move || {
            if shutdown.is_cancelled() { Err("process is shutting down".to_owned()) } else { Ok(()) }
        });
        h
    }

    /// A check that passes once the flag is set.
    pub fn add_flag(&mut self, name: &'static str, scope: Scope, flag: Arc<AtomicBool>) {
        self.add(name, scope, move || {
            if flag.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) }
        });
    }

    fn of(&self, endpoint: &str) -> impl Iterator<Item = &Named> {
        let ready = endpoint == "readyz";
        self.checks.iter().filter(move |c| match c.scope {
            Scope::All => true,
            Scope::LiveOnly => !ready,
            Scope::ReadyOnly => ready,
        })
    }

    /// The paths of all checks.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        for e in ENDPOINTS {
            out.push(format!("/{e}"));
            out.extend(self.of(e).map(|c| format!("/{e}/{}", c.name)));
        }
        out
    }

    /// Answers `path`, if it is one of the health paths.
    pub fn answer(&self, path: &str, query: &Query) -> Option<Response> {
        let rest = path.strip_prefix('/')?;
        let (endpoint, name) = rest.split_once('/').unwrap_or((rest, ""));
        if !ENDPOINTS.contains(&endpoint) {
            return None;
        }
        if !name.is_empty() {
            let check = self.of(endpoint).find(|c| c.name == name)?;
            return Some(match check.run(endpoint) {
                Ok(()) => respond::text(200, "ok"),
                Err(e) => respond::text(500, format!("internal server error: {e}\n")),
            });
        }
        Some(self.all(endpoint, query))
    }

    fn all(&self, endpoint: &str, query: &Query) -> Response {
        let mut report = String::new();
        let mut failed = false;
        let mut unused: Vec<&str> = query.all("exclude").collect();
        let patient = endpoint == "livez" && self.started.elapsed() < self.livez_grace;
        for check in self.of(endpoint) {
            let name = &check.name;
            if query.all("exclude").any(|e| e == *name) {
                unused.retain(|e| e != name);
                report.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check.run(endpoint) {
                Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
                Err(_) if patient && name.starts_with("poststarthook/") => {
                    report.push_str(&format!("[+]{name} ok\n"));
                }
                Err(e) => {
                    tracing::debug!(check = name, error = %e, "a health check failed");
                    failed = true;
                    report.push_str(&format!("[-]{name} failed: reason withheld\n"));
                }
            }
        }
        if !unused.is_empty() {
            let quoted: Vec<String> = unused.iter().map(|u| format!("\"{u}\"")).collect();
            report.push_str(&format!(
                "warn: some health checks cannot be excluded: no matches for {}\n",
                quoted.join(", ")
            ));
        }
        if failed {
            report.push_str(&format!("{endpoint} check failed\n"));
            return respond::text(500, report);
        }
        if !query.has("verbose") {
            return respond::text(200, "ok");
        }
        report.push_str(&format!("{endpoint} check passed\n"));
        respond::text(200, report)
    }
}

impl Health {
    /// `/metrics/slis`: how each check was and how often it passed and failed, where somebody asked for it.
    pub fn slis(&self) -> String {
        let mut last = String::from(
            "# HELP kubernetes_healthcheck This metric records the result of a single healthcheck.\n# TYPE kubernetes_healthcheck gauge\n",
        );
        let mut totals = String::from(
            "# HELP kubernetes_healthchecks_total This metric records the results of all healthcheck.\n# TYPE kubernetes_healthchecks_total counter\n",
        );
        for c in &self.checks {
            for (i, endpoint) in ENDPOINTS.iter().enumerate() {
                let labels = format!("name=\"{}\",type=\"{endpoint}\"", c.name);
                let counts = [("error", &c.failed[i]), ("success", &c.passed[i])];
                let counts = counts.map(|(status, n)| (status, n.load(Ordering::Relaxed)));
                if counts.iter().all(|(_, n)| *n == 0) {
                    continue;
                }
                let healthy = u8::from(c.healthy[i].load(Ordering::Relaxed));
                last.push_str(&format!("kubernetes_healthcheck{{{labels}}} {healthy}\n"));
                for (status, n) in counts.iter().filter(|(_, n)| *n > 0) {
                    totals.push_str(&format!(
                        "kubernetes_healthchecks_total{{name=\"{}\",status=\"{status}\",type=\"{endpoint}\"}} {n}\n",
                        c.name
                    ));
                }
            }
        }
        last + &totals
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports() {
        let mut h = Health::default();
        h.add("ping", Scope::All, || Ok(()));
        h.add("late", Scope::ReadyOnly, || Err("not yet".into()));
        let code = |p: &str, q: &str| h.answer(p, &Query::parse(Some(q))).map(|r| r.status().as_u16());
        assert_eq!(code("/livez", ""), Some(200));
        assert_eq!(code("/readyz", ""), Some(500));
        assert_eq!(code("/readyz", "exclude=late"), Some(200));
        assert_eq!(code("/readyz/ping", ""), Some(200));
        assert_eq!(code("/livez/late", ""), None);
        assert!(h.paths().contains(&"/readyz/late".to_owned()));
        let slis = h.slis();
        assert!(slis.contains("kubernetes_healthcheck{name=\"ping\",type=\"readyz\"} 1\n"), "{slis}");
        assert!(
            slis.contains(
                "kubernetes_healthchecks_total{name=\"late\",status=\"error\",type=\"readyz\"} 1\n"
            )
        );
        assert!(!slis.contains("healthz"), "nobody asked for it");
    }

    #[test]
    fn alive_while_starting() {
        let mut h = Health { livez_grace: Duration::from_secs(60), ..Health::default() };
        h.add_flag("poststarthook/x", Scope::All, Arc::default());
        let code = |p: &str| h.answer(p, &Query::default()).map(|r| r.status().as_u16());
        assert_eq!((code("/livez"), code("/readyz"), code("/healthz")), (Some(200), Some(500), Some(500)));
    }
}
