//! Metrics of the token issuers, under upstream's names.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use component_base::metrics::Metrics as Shared;
use parking_lot::Mutex;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use sha2::{Digest as _, Sha256};

use crate::authn::unix;
use crate::authn::x509::hex;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LatencyLabels {
    result: &'static str,
    jwt_issuer_hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct KeySetLabels {
    jwt_issuer_hash: String,
    hash: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabels {
    status: &'static str,
}

/// See the module.
#[derive(Debug)]
pub struct Metrics {
    latency: Family<LatencyLabels, Histogram, fn() -> Histogram>,
    fetched: Family<LatencyLabels, Gauge>,
    key_sets: Family<KeySetLabels, Gauge>,
    /// The hash under which each issuer's last set stands.
    last_sets: Mutex<HashMap<String, String>>,
    reloads: Family<StatusLabels, prometheus_client::metrics::counter::Counter>,
    last_reload: Family<StatusLabels, Gauge>,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            latency: Family::new_with_constructor(|| {
                Histogram::new([0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
            }),
            fetched: Family::default(),
            key_sets: Family::default(),
            last_sets: Mutex::default(),
            reloads: Family::default(),
            last_reload: Family::default(),
        }
    }
}

/// Issuers and documents stand in labels by their hash.
fn hash(of: &[u8]) -> String {
    if of.is_empty() {
        return String::new();
    }
    format!("sha256:{}", hex(&Sha256::digest(of)))
}

impl Metrics {
    /// Adds all to the server's metrics.
    pub fn register(&self, shared: &Shared) {
        shared.register(|r| {
            r.register(
                "apiserver_authentication_jwt_authenticator_latency_seconds",
                "Latency of jwt authentication operations in seconds. This is the time spent authenticating a token for cache miss only (i.e. when the token is not found in the cache)",
                self.latency.clone(),
            );
            r.register(
                "apiserver_authentication_jwt_authenticator_jwks_fetch_last_timestamp_seconds",
                "Timestamp of the last successful or failed JWKS fetch split by result and jwt issuer for the JWT authenticator",
                self.fetched.clone(),
            );
            r.register(
                "apiserver_authentication_jwt_authenticator_jwks_fetch_last_key_set_info",
                "Information about the last JWKS fetched by the JWT authenticator with hash as label, split by jwt issuer",
                self.key_sets.clone(),
            );
            r.register(
                "apiserver_authentication_config_controller_automatic_reloads",
                "Total number of automatic reloads of authentication configuration split by status",
                self.reloads.clone(),
            );
            r.register(
                "apiserver_authentication_config_controller_automatic_reload_last_timestamp_seconds",
                "Timestamp of the last automatic reload of authentication configuration split by status",
                self.last_reload.clone(),
            );
        });
    }

    pub(super) fn authenticated(&self, issuer: &str, ok: bool, took: Duration) {
        let result = if ok { "success" } else { "failure" };
        let labels = LatencyLabels { result, jwt_issuer_hash: hash(issuer.as_bytes()) };
        self.latency.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// `document` is what was fetched; none where that failed.
    pub(super) fn keys_fetched(&self, issuer: &str, document: Option<&[u8]>) {
        let issuer = hash(issuer.as_bytes());
        let result = if document.is_some() { "success" } else { "failure" };
        let labels = LatencyLabels { result, jwt_issuer_hash: issuer.clone() };
        self.fetched.get_or_create(&labels).set(unix(SystemTime::now()));
        if let Some(d) = document {
            let new = hash(d);
            if let Some(old) = self.last_sets.lock().insert(issuer.clone(), new.clone()) {
                self.key_sets.remove(&KeySetLabels { jwt_issuer_hash: issuer.clone(), hash: old });
            }
            self.key_sets.get_or_create(&KeySetLabels { jwt_issuer_hash: issuer, hash: new }).set(1);
        }
    }

    /// A reload of the configuration file at `now` (seconds since the epoch).
    pub fn reloaded(&self, ok: bool, now: i64) {
        let labels = StatusLabels { status: if ok { "success" } else { "failure" } };
        self.reloads.get_or_create(&labels).inc();
        self.last_reload.get_or_create(&labels).set(now);
    }
}
