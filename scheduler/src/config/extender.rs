//! HTTP extenders in the configuration file (`extenders`).

use component_base::duration::GoDuration;
use serde::{Deserialize, Serialize};

/// A service that is asked about nodes beside the plugins.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extender {
    /// Where it is; verbs are appended.
    pub url_prefix: String,
    /// Empty verbs are not supported by the extender.
    pub filter_verb: String,
    pub preempt_verb: String,
    pub prioritize_verb: String,
    /// What its scores are multiplied with.
    pub weight: i64,
    pub bind_verb: String,
    #[serde(rename = "enableHTTPS")]
    pub enable_https: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_config: Option<ExtenderTls>,
    /// For one call; 5 s when absent.
    #[serde(rename = "httpTimeout", skip_serializing_if = "Option::is_none")]
    pub http_timeout: Option<GoDuration>,
    /// It knows the nodes and is sent their names only.
    pub node_cache_capable: bool,
    /// Only pods that ask for one of these are sent to it; without any, all are.
    pub managed_resources: Vec<ManagedResource>,
    /// Scheduling goes on without its answer when it fails.
    pub ignorable: bool,
}

/// How to talk TLS to an extender.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ExtenderTls {
    /// Don't verify its certificate.
    pub insecure: bool,
    pub server_name: String,
    pub cert_file: String,
    pub key_file: String,
    pub ca_file: String,
    /// The same as base64 of PEM, before the files.
    pub cert_data: String,
    #[serde(skip_serializing)]
    pub key_data: String,
    pub ca_data: String,
}

/// An extended resource that an extender manages.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ManagedResource {
    pub name: String,
    /// NodeResourcesFit leaves it alone.
    pub ignored_by_scheduler: bool,
}

/// Everything that is wrong with the extenders, one line each.
#[must_use]
pub fn problems(extenders: &[Extender]) -> Vec<String> {
    let mut out = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (i, e) in extenders.iter().enumerate() {
        if !e.prioritize_verb.is_empty() && e.weight <= 0 {
            let w = e.weight;
            out.push(format!(
                "extenders[{i}].weight: Invalid value: {w}: must have a positive weight applied to it"
            ));
        }
        for (j, r) in e.managed_resources.iter().enumerate() {
            let at = format!("extenders[{i}].managedResources[{j}].name");
            if !r.name.contains('/') || r.name.contains("kubernetes.io/") || r.name.starts_with("requests.") {
                out.push(format!("{at}: Invalid value: {:?}: is an invalid extended resource name", r.name));
            }
            if !names.insert(r.name.as_str()) {
                out.push(format!(
                    "{at}: Invalid value: {:?}: duplicate extender managed resource name",
                    r.name
                ));
            }
        }
    }
    let binders = extenders.iter().filter(|e| !e.bind_verb.is_empty()).count();
    if binders > 1 {
        out.push(format!(
            "extenders: Invalid value: \"found {binders} extenders implementing bind\": only one extender can implement bind"
        ));
    }
    out
}
