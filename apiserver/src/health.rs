//! `/healthz`, `/livez` and `/readyz`: named checks, each also alone under its own path, with `?verbose` and
//! `?exclude=NAME`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::http::query::Query;
use crate::http::{Response, respond};

type Check = Box<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The checks, in the order in which they are shown.
#[derive(Default)]
pub struct Health {
    checks: Vec<(&'static str, Scope, Check)>,
}

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
        self.checks.push((name, scope, Box::new(check)));
    }

    /// A check that passes once the flag is set.
    pub fn add_flag(&mut self, name: &'static str, scope: Scope, flag: Arc<AtomicBool>) {
        self.add(name, scope, move || {
            if flag.load(Ordering::Acquire) { Ok(()) } else { Err("not finished".to_owned()) }
        });
    }

    fn of(&self, endpoint: &str) -> impl Iterator<Item = &(&'static str, Scope, Check)> {
        let ready = endpoint == "readyz";
        self.checks.iter().filter(move |(_, s, _)| match s {
            Scope::All => true,
            Scope::LiveOnly => !ready,
            Scope::ReadyOnly => ready,
        })
    }

    /// The paths of all checks.
    pub fn paths(&self) -> Vec<String> {
        let mut out = Vec::new();
        for e in ["healthz", "livez", "readyz"] {
            out.push(format!("/{e}"));
            out.extend(self.of(e).map(|(n, ..)| format!("/{e}/{n}")));
        }
        out
    }

    /// Answers `path`, if it is one of the health paths.
    pub fn answer(&self, path: &str, query: &Query) -> Option<Response> {
        let rest = path.strip_prefix('/')?;
        let (endpoint, name) = rest.split_once('/').unwrap_or((rest, ""));
        if !matches!(endpoint, "healthz" | "livez" | "readyz") {
            return None;
        }
        if !name.is_empty() {
            let check = self.of(endpoint).find(|(n, ..)| *n == name)?;
            return Some(match (check.2)() {
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
        for (name, _, check) in self.of(endpoint) {
            if query.all("exclude").any(|e| e == *name) {
                unused.retain(|e| e != name);
                report.push_str(&format!("[+]{name} excluded: ok\n"));
                continue;
            }
            match check() {
                Ok(()) => report.push_str(&format!("[+]{name} ok\n")),
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
    }
}
