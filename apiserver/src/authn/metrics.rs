//! The metrics of authentication, under upstream's names.

use std::time::Duration;

use component_base::metrics::Metrics as Shared;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct UserLabels {
    username: &'static str,
}

/// See the module.
#[derive(Debug)]
pub struct Metrics {
    attempts: Family<ResultLabels, Counter>,
    durations: Family<ResultLabels, Histogram, fn() -> Histogram>,
    users: Family<UserLabels, Counter>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            attempts: Family::default(),
            durations: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.001, 2.0, 15))),
            users: Family::default(),
        }
    }
}

impl Metrics {
    /// Adds all to the server's metrics.
    pub fn register(&self, shared: &Shared) {
        shared.register(|r| {
            r.register("authentication_attempts", "Counter of authenticated attempts", self.attempts.clone());
            r.register(
                "authentication_duration_seconds",
                "Authentication duration in seconds broken out by result",
                self.durations.clone(),
            );
            r.register(
                "authenticated_user_requests",
                "Counter of authenticated requests broken out by username",
                self.users.clone(),
            );
        });
    }

    /// One request's authentication; `user` is none where it failed.
    pub(super) fn attempted(&self, user: Option<&str>, took: Duration) {
        let labels = ResultLabels { result: if user.is_some() { "success" } else { "failure" } };
        self.attempts.get_or_create(&labels).inc();
        self.durations.get_or_create(&labels).observe(took.as_secs_f64());
        if let Some(name) = user {
            self.users.get_or_create(&UserLabels { username: compressed(name) }).inc();
        }
    }
}

/// User names would be too many labels.
fn compressed(name: &str) -> &'static str {
    match name {
        "admin" => "admin",
        "client" => "client",
        "kube_proxy" => "kube_proxy",
        "kubelet" => "kubelet",
        "system:serviceaccount:kube-system:default" => "system:serviceaccount:kube-system:default",
        n if n.contains('@') => "email_id",
        _ => "other",
    }
}
