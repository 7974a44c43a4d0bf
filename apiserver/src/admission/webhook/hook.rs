//! One webhook, made ready for matching and calling when its configuration is written, not when it is called.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::rules::Rule;
use crate::admission::expressions::MatchConditions;
use crate::lookup::{items, text};
use crate::registry::labels::Selector;
use crate::webhook::ClientConfig;

/// Versions of `AdmissionReview` that are spoken here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReviewVersion {
    V1,
    V1Beta1,
}

impl ReviewVersion {
    pub fn api_version(self) -> &'static str {
        match self {
            Self::V1 => "admission.k8s.io/v1",
            Self::V1Beta1 => "admission.k8s.io/v1beta1",
        }
    }
}

/// One webhook of a configuration.
#[derive(Debug)]
pub struct Hook {
    /// Configuration, webhook name and position among those of the same name: who this is across rounds.
    pub uid: String,
    pub configuration: String,
    pub name: String,
    pub client: Result<ClientConfig, String>,
    pub rules: Vec<Rule>,
    /// `failurePolicy: Ignore`
    pub fail_open: bool,
    /// `matchPolicy: Equivalent`
    pub equivalent: bool,
    /// None: the selector is broken and nothing may pass.
    pub namespaces: Option<Selector>,
    pub objects: Option<Selector>,
    /// Whether dry runs may reach it.
    pub dry_run: bool,
    pub timeout: Duration,
    /// The first version in its list that is spoken here.
    pub review: Option<ReviewVersion>,
    /// `reinvocationPolicy: IfNeeded`
    pub reinvoke: bool,
    pub conditions: MatchConditions,
}

/// The webhooks of a configuration object.
pub fn of_configuration(configuration: &Value) -> Vec<Arc<Hook>> {
    let owner = text(configuration, "/metadata/name");
    let mut seen: Vec<&str> = Vec::new();
    items(configuration, "/webhooks")
        .iter()
        .map(|w| {
            let name = text(w, "/name");
            let before = seen.iter().filter(|n| **n == name).count();
            seen.push(name);
            Arc::new(Hook::new(owner, before, w))
        })
        .collect()
}

impl Hook {
    fn new(configuration: &str, index: usize, w: &Value) -> Self {
        let name = text(w, "/name");
        let selector = |f: &str| match w.get(f) {
            None | Some(Value::Null) => Some(Selector::default()),
            Some(v) => Selector::from_value(v),
        };
        let review = items(w, "/admissionReviewVersions").iter().find_map(|v| match v.as_str()? {
            "v1" => Some(ReviewVersion::V1),
            "v1beta1" => Some(ReviewVersion::V1Beta1),
            _ => None,
        });
        let seconds = w.get("timeoutSeconds").and_then(Value::as_u64).unwrap_or(10);
        Self {
            uid: format!("{configuration}/{name}/{index}"),
            configuration: configuration.to_owned(),
            name: name.to_owned(),
            client: ClientConfig::from_value(w.get("clientConfig").unwrap_or(&Value::Null)),
            rules: items(w, "/rules").iter().map(Rule::from_value).collect(),
            fail_open: text(w, "/failurePolicy") == "Ignore",
            equivalent: text(w, "/matchPolicy") == "Equivalent",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
            dry_run: matches!(text(w, "/sideEffects"), "None" | "NoneOnDryRun"),
            timeout: Duration::from_secs(seconds),
            review,
            reinvoke: text(w, "/reinvocationPolicy") == "IfNeeded",
            conditions: MatchConditions::compile(items(w, "/matchConditions"), false),
        }
    }
}
