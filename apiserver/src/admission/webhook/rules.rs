//! Which requests a rule matches.

use serde_json::Value;

use crate::admission::{Attributes, Operation};
use crate::lookup::{items, text};

/// A resource in one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gvr<'a> {
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
}

/// `RuleWithOperations`.
#[derive(Debug, Clone, Default)]
pub struct Rule {
    operations: Vec<String>,
    groups: Vec<String>,
    versions: Vec<String>,
    /// Resource and subresource, either of which may be `*`.
    resources: Vec<(String, String)>,
    scope: Scope,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Scope {
    #[default]
    All,
    Cluster,
    Namespaced,
    /// An unknown word matches nothing.
    Nowhere,
}

/// Upstream's word for an operation.
pub fn operation(o: Operation) -> &'static str {
    match o {
        Operation::Create => "CREATE",
        Operation::Update => "UPDATE",
        Operation::Delete => "DELETE",
        Operation::Connect => "CONNECT",
    }
}

fn any(list: &[String], wanted: &str) -> bool {
    list.iter().any(|v| v == "*" || v == wanted)
}

impl Rule {
    pub fn from_value(v: &Value) -> Self {
        let list = |f: &str| -> Vec<String> {
            items(v, f).iter().filter_map(Value::as_str).map(str::to_owned).collect()
        };
        let split = |r: String| match r.split_once('/') {
            Some((r, s)) => (r.to_owned(), s.to_owned()),
            None => (r, String::new()),
        };
        Self {
            operations: list("/operations"),
            groups: list("/apiGroups"),
            versions: list("/apiVersions"),
            resources: list("/resources").into_iter().map(split).collect(),
            scope: match text(v, "/scope") {
                "" | "*" => Scope::All,
                "Cluster" => Scope::Cluster,
                "Namespaced" => Scope::Namespaced,
                _ => Scope::Nowhere,
            },
        }
    }

    /// Whether the request matches, taken as one for the resource `gvr`.
    pub fn matches(&self, attrs: &Attributes<'_>, gvr: Gvr<'_>) -> bool {
        self.scope_matches(attrs, gvr)
            && any(&self.operations, operation(attrs.operation))
            && any(&self.groups, gvr.group)
            && any(&self.versions, gvr.version)
            && self
                .resources
                .iter()
                .any(|(r, s)| (r == "*" || r == gvr.resource) && (s == "*" || s == attrs.subresource))
    }

    fn scope_matches(&self, attrs: &Attributes<'_>, gvr: Gvr<'_>) -> bool {
        // Namespaces themselves are no namespaced objects, whatever the request says.
        let cluster = is_namespace(gvr) || attrs.namespace.is_empty();
        match self.scope {
            Scope::All => true,
            Scope::Cluster => cluster,
            Scope::Namespaced => !cluster,
            Scope::Nowhere => false,
        }
    }
}

fn is_namespace(gvr: Gvr<'_>) -> bool {
    gvr.group.is_empty() && gvr.version == "v1" && gvr.resource == "namespaces"
}

/// Objects that configure admission itself: no webhook may lock everybody out of mending it.
pub fn is_exempt(attrs: &Attributes<'_>) -> bool {
    attrs.group == "admissionregistration.k8s.io"
        && matches!(
            attrs.kind,
            "ValidatingWebhookConfiguration"
                | "MutatingWebhookConfiguration"
                | "ValidatingAdmissionPolicy"
                | "ValidatingAdmissionPolicyBinding"
                | "MutatingAdmissionPolicy"
                | "MutatingAdmissionPolicyBinding"
        )
}
