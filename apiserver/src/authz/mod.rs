//! Authorization: may this user do this? Several authorizers are asked in the order of `--authorization-mode` or of
//! the `AuthorizationConfiguration`; the first that allows or denies decides, and nobody's opinion is a no.
//!
//! All but webhooks are in memory: the RBAC index and the node graph are fed from watches, so that such a decision
//! never waits for the store. A webhook's decision waits for its answer, or takes it from memory.

pub mod abac;
pub mod attributes;
pub mod conditions;
pub mod config;
pub mod devices;
pub mod escalation;
pub mod graph;
pub mod metrics;
pub mod node;
pub mod rbac;
pub mod review;
mod review_selectors;
pub mod rules;
pub mod selector;
pub mod webhook;

use std::sync::Arc;
use std::time::Instant;

use arc_swap::ArcSwap;

use crate::request::UserInfo;
use crate::status::ApiError;

pub use attributes::Attributes;
pub use selector::{LabelRequirement, Requirement};

/// Members may do everything, whatever the policy says, so that a broken policy can be repaired.
pub const PRIVILEGED_GROUP: &str = "system:masters";

/// An authorizer's answer, with its reason for people (may be empty).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
    /// Nobody allowed it, and somebody could not be asked.
    Failed(Failure),
}

/// See [`Decision::Failed`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Failure {
    /// Whether the failure counts as a denial (`failurePolicy: Deny`).
    pub denied: bool,
    pub reason: String,
    pub error: String,
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    /// Whether an authorizer said no, rather than nothing.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Deny(_) | Self::Failed(Failure { denied: true, .. }))
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(r) | Self::Deny(r) | Self::NoOpinion(r) => r,
            Self::Failed(f) => &f.reason,
        }
    }

    /// Why an authorizer could not be asked; empty where all could.
    pub fn error(&self) -> &str {
        match self {
            Self::Failed(f) => &f.error,
            _ => "",
        }
    }
}

/// One authorization mode.
enum Mode {
    Node(Arc<node::NodeAuthorizer>),
    Rbac(Arc<rbac::Rbac>),
    Abac(Arc<abac::Policies>),
    Webhook(Box<webhook::Webhook>),
    AlwaysAllow,
    AlwaysDeny,
}

/// A mode with its names in metrics.
struct Entry {
    kind: &'static str,
    name: String,
    mode: Mode,
}

/// The union of the configured modes.
pub struct Authorizer {
    entries: ArcSwap<Vec<Entry>>,
    rbac: Arc<rbac::Rbac>,
    graph: Arc<graph::Graph>,
    abac: Option<Arc<abac::Policies>>,
    metrics: Arc<metrics::Metrics>,
}

impl Authorizer {
    /// `modes` as in `--authorization-mode`, in order, of those that need no files.
    pub fn new(modes: &[String]) -> Result<Self, String> {
        let config = config::Configuration::from_modes(modes)?;
        let authorizer = Self::empty(None);
        let entries = config
            .authorizers
            .iter()
            .map(|a| authorizer.entry(a, None))
            .collect::<Result<Vec<_>, String>>()?;
        authorizer.entries.store(Arc::new(entries));
        Ok(authorizer)
    }

    /// The RBAC index and the node graph exist even where their mode is off (feeding them is then merely useless).
    fn empty(abac: Option<Arc<abac::Policies>>) -> Self {
        Self {
            entries: ArcSwap::default(),
            rbac: Arc::default(),
            graph: Arc::default(),
            abac,
            metrics: Arc::default(),
        }
    }

    /// The authorizers of a configuration. `abac` is the contents of `--authorization-policy-file`.
    pub fn configured(config: &config::Configuration, abac: Option<&[u8]>) -> Result<Self, String> {
        let abac = abac.map(abac::Policies::parse).transpose()?.map(Arc::new);
        let authorizer = Self::empty(abac);
        authorizer.reconfigure(config)?;
        Ok(authorizer)
    }

    /// Replaces the authorizers. On an error the old ones stay.
    pub fn reconfigure(&self, config: &config::Configuration) -> Result<(), String> {
        let mut entries = Vec::new();
        for a in &config.authorizers {
            let client = match &a.webhook {
                Some(w) => Some(webhook::Webhook::connect(&a.name, w, self.metrics.clone())?),
                None => None,
            };
            entries.push(self.entry(a, client)?);
        }
        if entries.is_empty() {
            return Err("at least one authorization mode must be passed".to_owned());
        }
        self.entries.store(Arc::new(entries));
        Ok(())
    }

    fn entry(&self, a: &config::Authorizer, client: Option<webhook::Webhook>) -> Result<Entry, String> {
        let (kind, mode) = match a.kind.as_str() {
            "Node" => ("Node", Mode::Node(Arc::new(node::NodeAuthorizer::new(self.graph.clone())?))),
            "RBAC" => ("RBAC", Mode::Rbac(self.rbac.clone())),
            "AlwaysAllow" => ("AlwaysAllow", Mode::AlwaysAllow),
            "AlwaysDeny" => ("AlwaysDeny", Mode::AlwaysDeny),
            "ABAC" => {
                let policies = self.abac.clone().ok_or(
                    "authorizer type ABAC is not allowed if it was not enabled at initial server startup",
                )?;
                ("ABAC", Mode::Abac(policies))
            }
            "Webhook" => {
                let client =
                    client.ok_or("authorization-mode Webhook's authorization config file not passed")?;
                ("Webhook", Mode::Webhook(Box::new(client)))
            }
            other => return Err(format!("unknown authorization mode {other} specified")),
        };
        Ok(Entry { kind, name: a.name.clone(), mode })
    }

    /// Where events of the four RBAC resources go.
    pub fn rbac(&self) -> &Arc<rbac::Rbac> {
        &self.rbac
    }

    /// Where events of pods, volumes, attachments, slices and certificate requests go.
    pub fn graph(&self) -> &Arc<graph::Graph> {
        &self.graph
    }

    /// The authorizers' metrics, to be registered with the server's.
    pub fn metrics(&self) -> &metrics::Metrics {
        &self.metrics
    }

    /// Decides. No opinion anywhere carries all reasons given, one per line.
    pub async fn authorize(&self, attrs: &Attributes<'_>) -> Decision {
        if attrs.user.in_group(PRIVILEGED_GROUP) {
            return Decision::Allow(String::new());
        }
        let entries = self.entries.load_full();
        let mut opinions = Opinions::default();
        for e in entries.iter() {
            let decision = match &e.mode {
                Mode::Webhook(w) => w.authorize(attrs).await,
                mode => in_memory(mode, attrs),
            };
            self.metrics.decided(e.kind, &e.name, &decision);
            if let Some(d) = opinions.add(decision) {
                return d;
            }
        }
        opinions.none()
    }

    /// [`Self::authorize`] for code that cannot wait, such as a CEL expression. Webhooks are asked all the same, and
    /// hold the calling thread while they answer; the worker threads' other tasks move elsewhere meanwhile.
    pub fn authorize_blocking(&self, attrs: &Attributes<'_>) -> Decision {
        if attrs.user.in_group(PRIVILEGED_GROUP) {
            return Decision::Allow(String::new());
        }
        let entries = self.entries.load_full();
        if !entries.iter().any(|e| matches!(e.mode, Mode::Webhook(_))) {
            let mut opinions = Opinions::default();
            for e in entries.iter() {
                let decision = in_memory(&e.mode, attrs);
                self.metrics.decided(e.kind, &e.name, &decision);
                if let Some(d) = opinions.add(decision) {
                    return d;
                }
            }
            return opinions.none();
        }
        match tokio::runtime::Handle::try_current() {
            Ok(h) if h.runtime_flavor() == tokio::runtime::RuntimeFlavor::MultiThread => {
                tokio::task::block_in_place(|| h.block_on(self.authorize(attrs)))
            }
            _ => Decision::Failed(Failure {
                error: "an authorization webhook cannot be asked from this thread".to_owned(),
                ..Failure::default()
            }),
        }
    }

    /// [`Self::authorize`], with anything but yes as the `Forbidden` that the client reads.
    pub async fn check(&self, attrs: &Attributes<'_>) -> Result<(), ApiError> {
        verdict(attrs, &self.authorize(attrs).await)
    }

    /// [`Self::check`] of a request itself: counted and timed as such.
    pub async fn check_request(&self, attrs: &Attributes<'_>) -> Result<(), ApiError> {
        let started = Instant::now();
        let decision = self.authorize(attrs).await;
        self.metrics.attempted(&decision, started.elapsed());
        let told = if decision.is_allowed() { "allow" } else { "forbid" };
        crate::audit::annotate("authorization.k8s.io/decision", || told);
        crate::audit::annotate("authorization.k8s.io/reason", || decision.reason());
        verdict(attrs, &decision)
    }

    /// The rules of a user in a namespace, for `SelfSubjectRulesReview`: whether any mode could not enumerate
    /// its rules, and why, comes with them.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> review::UserRules {
        let mut out = review::UserRules::default();
        for e in self.entries.load().iter() {
            match &e.mode {
                Mode::Rbac(r) => {
                    let (rules, errors) = r.rules_for(user, namespace);
                    out.rules.extend(rules);
                    out.errors.extend(errors);
                }
                Mode::Abac(p) => out.rules.extend(p.rules_for(user, namespace)),
                Mode::Node(n) if n.is_node(user) => {
                    out.incomplete = true;
                    out.errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Mode::Webhook(_) => {
                    out.incomplete = true;
                    out.errors.push("webhook authorizer does not support user rule resolution".to_owned());
                }
                Mode::AlwaysAllow => out.rules.extend(rules::Rule::everything()),
                Mode::Node(_) | Mode::AlwaysDeny => {}
            }
        }
        out
    }
}

fn in_memory(mode: &Mode, attrs: &Attributes<'_>) -> Decision {
    match mode {
        Mode::Node(n) => n.authorize(attrs),
        Mode::Rbac(r) => r.authorize(attrs),
        Mode::Abac(p) => p.authorize(attrs),
        Mode::AlwaysAllow => Decision::Allow(String::new()),
        Mode::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".to_owned()),
        Mode::Webhook(_) => Decision::NoOpinion(String::new()),
    }
}

/// What those said who did not decide.
#[derive(Default)]
struct Opinions {
    reasons: Vec<String>,
    errors: Vec<String>,
}

impl Opinions {
    /// Takes in one authorizer's answer; gives back what ends the round.
    fn add(&mut self, decision: Decision) -> Option<Decision> {
        match decision {
            Decision::NoOpinion(r) => {
                if !r.is_empty() {
                    self.reasons.push(r);
                }
                None
            }
            Decision::Failed(Failure { denied: false, reason, error }) => {
                if !reason.is_empty() {
                    self.reasons.push(reason);
                }
                self.errors.push(error);
                None
            }
            decided => Some(decided),
        }
    }

    fn none(mut self) -> Decision {
        let reason = self.reasons.join("\n");
        match self.errors.len() {
            0 => Decision::NoOpinion(reason),
            1 => Decision::Failed(Failure { denied: false, reason, error: self.errors.remove(0) }),
            _ => {
                let error = format!("[{}]", self.errors.join(", "));
                Decision::Failed(Failure { denied: false, reason, error })
            }
        }
    }
}

/// What the client is told. An authorizer that could not be asked is the server's fault, not the client's.
fn verdict(attrs: &Attributes<'_>, decision: &Decision) -> Result<(), ApiError> {
    match decision {
        Decision::Allow(_) => Ok(()),
        Decision::Failed(f) => Err(ApiError::internal(&f.error)),
        other => Err(forbidden(attrs, other.reason())),
    }
}

/// The refusal of a request, worded as upstream does.
pub fn forbidden(attrs: &Attributes<'_>, reason: &str) -> ApiError {
    let mut message = forbidden_message(attrs);
    if !reason.is_empty() {
        message.push_str(": ");
        message.push_str(reason);
    }
    if attrs.is_resource {
        ApiError::forbidden(attrs.api_group, attrs.resource, attrs.name, message)
    } else {
        ApiError::forbidden("", "", "", message)
    }
}

fn forbidden_message(attrs: &Attributes<'_>) -> String {
    let user = quoted(&attrs.user.name);
    if !attrs.is_resource {
        return format!("User {user} cannot {} path {}", attrs.verb, quoted(attrs.path));
    }
    let resource = if attrs.subresource.is_empty() {
        attrs.resource.to_owned()
    } else {
        format!("{}/{}", attrs.resource, attrs.subresource)
    };
    let base = format!(
        "User {user} cannot {} resource {} in API group {}",
        attrs.verb,
        quoted(&resource),
        quoted(attrs.api_group)
    );
    if attrs.namespace.is_empty() {
        format!("{base} at the cluster scope")
    } else {
        format!("{base} in the namespace {}", quoted(attrs.namespace))
    }
}

/// A string in double quotes with escapes, as it stands in messages.
pub(crate) fn quoted(s: &str) -> String {
    serde_json::to_string(s).unwrap_or_else(|_| format!("\"{s}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(name: &str, groups: &[&str]) -> UserInfo {
        UserInfo {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..UserInfo::default()
        }
    }

    #[tokio::test]
    async fn denial_is_worded_as_upstream() {
        let u = user("x", &[]);
        let a = Authorizer::new(&["RBAC".to_owned()]).unwrap();
        let mut attrs = Attributes::resource(&u, "list", "", "pods", "");
        attrs.namespace = "default";
        let e = a.check(&attrs).await.unwrap_err();
        assert_eq!(
            e.message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        assert_eq!((e.code, e.reason), (403, "Forbidden"));
        let mut attrs = Attributes::resource(&u, "create", "apps", "deployments", "web");
        attrs.subresource = "scale";
        let e = a.check(&attrs).await.unwrap_err();
        assert_eq!(
            e.message,
            r#"deployments.apps "web" is forbidden: User "x" cannot create resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        attrs.is_resource = false;
        attrs.path = "/metrics";
        attrs.verb = "get";
        assert_eq!(
            a.check(&attrs).await.unwrap_err().message,
            r#"forbidden: User "x" cannot get path "/metrics""#
        );
    }

    #[tokio::test]
    async fn masters_pass_and_modes_are_asked_in_order() {
        let root = user("root", &[PRIVILEGED_GROUP]);
        let nobody = user("nobody", &[]);
        let deny = Authorizer::new(&["AlwaysDeny".to_owned()]).unwrap();
        assert!(deny.authorize(&Attributes::resource(&root, "delete", "", "nodes", "n")).await.is_allowed());
        assert!(!deny.authorize(&Attributes::resource(&nobody, "get", "", "nodes", "n")).await.is_allowed());
        let both = Authorizer::new(&["RBAC".to_owned(), "AlwaysAllow".to_owned()]).unwrap();
        assert!(both.authorize(&Attributes::resource(&nobody, "get", "", "nodes", "n")).await.is_allowed());
        assert!(Authorizer::new(&["Rbac".to_owned()]).is_err());
        assert!(Authorizer::new(&[]).is_err());
    }
}
