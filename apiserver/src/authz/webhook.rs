//! The webhook authorizer: asks a service by `SubjectAccessReview`, and remembers its answers for a while.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::conditions::Conditions;
use super::metrics::Metrics;
use super::{Attributes, Decision, Failure, config};
use crate::lookup::text;
use crate::remote::{Remote, result_label};
use crate::ttl_cache::TtlCache;

/// Upstream's number of remembered answers.
const REMEMBER_MAX: usize = 8192;
/// Requests in which the client chose more bytes than this are not remembered.
const CONTROLLED_MAX: usize = 10_000;

/// What a service answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Answer {
    allowed: bool,
    denied: bool,
    reason: String,
}

/// See the module.
pub struct Webhook {
    name: String,
    remote: Remote,
    api_version: String,
    conditions: Option<Conditions>,
    authorized_for: Duration,
    unauthorized_for: Duration,
    /// `failurePolicy: Deny`.
    fail_closed: bool,
    known: TtlCache<String, Answer>,
    metrics: Arc<Metrics>,
}

impl Webhook {
    /// Reads the kubeconfig file that the settings name.
    pub fn connect(name: &str, w: &config::Webhook, metrics: Arc<Metrics>) -> Result<Self, String> {
        let Some(file) = &w.connection_info.kube_config_file else {
            return Err(format!(
                "the authorization webhook {name:?} has connectionInfo.type InClusterConfig, which an API server \
                 cannot use: name a kubeConfigFile"
            ));
        };
        if !matches!(w.subject_access_review_version.as_str(), "v1" | "v1beta1") {
            return Err(format!(
                "unsupported webhook authorizer version {:?}, supported versions are \"v1\", \"v1beta1\"",
                w.subject_access_review_version
            ));
        }
        let expressions: Vec<String> = w.match_conditions.iter().map(|c| c.expression.clone()).collect();
        Ok(Self {
            name: name.to_owned(),
            remote: Remote::from_kubeconfig(Path::new(file), w.timeout.0)?,
            api_version: format!("authorization.k8s.io/{}", w.subject_access_review_version),
            conditions: if expressions.is_empty() { None } else { Some(Conditions::compile(&expressions)?) },
            authorized_for: w.authorized_for(),
            unauthorized_for: w.unauthorized_for(),
            fail_closed: w.failure_policy == "Deny",
            known: TtlCache::new(REMEMBER_MAX),
            metrics,
        })
    }

    pub async fn authorize(&self, attrs: &Attributes<'_>) -> Decision {
        match self.matches(attrs) {
            Ok(true) => {}
            Ok(false) => return Decision::NoOpinion(String::new()),
            Err(e) => return self.failed(e),
        }
        let spec = attrs.review_spec(false);
        let key = spec.to_string();
        if let Some(known) = self.known.get(&key, Instant::now()) {
            return self.decide(known);
        }
        let answer = match self.ask(spec).await {
            Ok(answer) => answer,
            Err(e) => return self.failed(e),
        };
        if attrs.controlled_size() < CONTROLLED_MAX {
            let ttl = if answer.allowed { self.authorized_for } else { self.unauthorized_for };
            self.known.put(key, answer.clone(), Instant::now(), ttl);
        }
        self.decide(answer)
    }

    fn matches(&self, attrs: &Attributes<'_>) -> Result<bool, String> {
        let Some(conditions) = &self.conditions else { return Ok(true) };
        let started = Instant::now();
        let result = conditions.hold(attrs);
        self.metrics.conditions_evaluated(&self.name, &result, started.elapsed());
        result
    }

    async fn ask(&self, mut spec: Value) -> Result<Answer, String> {
        // The older version calls the groups by another name.
        if self.api_version.ends_with("/v1beta1")
            && let Some(o) = spec.as_object_mut()
            && let Some(groups) = o.remove("groups")
        {
            o.insert("group".to_owned(), groups);
        }
        let review = json!({
            "apiVersion": self.api_version, "kind": "SubjectAccessReview",
            "metadata": {"creationTimestamp": null}, "spec": spec, "status": {"allowed": false},
        });
        let mut last = "error";
        let answer = self
            .remote
            .post(&review, |result, took| {
                last = result_label(result);
                self.metrics.webhook_called(&self.name, last, took);
            })
            .await;
        let answer = match answer {
            Ok(a) => a,
            Err(e) => {
                tracing::error!(webhook = %self.name, error = %e, "an authorization webhook cannot be asked");
                if !self.fail_closed {
                    self.metrics.webhook_failed_open(&self.name, last);
                }
                return Err(e.to_string());
            }
        };
        if text(&answer, "/kind") != "SubjectAccessReview" || text(&answer, "/apiVersion") != self.api_version
        {
            return Err(format!(
                "the webhook answered with {} {}, not with a {} SubjectAccessReview",
                text(&answer, "/apiVersion"),
                text(&answer, "/kind"),
                self.api_version
            ));
        }
        let flag = |p: &str| answer.pointer(p).and_then(Value::as_bool).unwrap_or(false);
        Ok(Answer {
            allowed: flag("/status/allowed"),
            denied: flag("/status/denied"),
            reason: text(&answer, "/status/reason").to_owned(),
        })
    }

    fn decide(&self, answer: Answer) -> Decision {
        match (answer.allowed, answer.denied) {
            (true, true) => Decision::Failed(Failure {
                denied: true,
                reason: answer.reason,
                error: "webhook subject access review returned both allow and deny response".to_owned(),
            }),
            (true, false) => Decision::Allow(answer.reason),
            (false, true) => Decision::Deny(answer.reason),
            (false, false) => Decision::NoOpinion(answer.reason),
        }
    }

    fn failed(&self, error: String) -> Decision {
        Decision::Failed(Failure { denied: self.fail_closed, reason: String::new(), error })
    }
}
