//! Authorization: may this user do this? Several authorizers are asked in the order of `--authorization-mode`;
//! the first that allows or denies decides, and nobody's opinion is a no.
//!
//! Everything here is in memory and synchronous: the RBAC index and the node graph are fed from watches, so that
//! a decision never waits for the store.

pub mod escalation;
pub mod graph;
pub mod node;
pub mod rbac;
pub mod review;
pub mod rules;
pub mod selector;

use std::sync::Arc;

use crate::request::{RequestInfo, UserInfo};
use crate::status::ApiError;

pub use selector::Requirement;

/// Members may do everything, whatever the policy says, so that a broken policy can be repaired.
pub const PRIVILEGED_GROUP: &str = "system:masters";

/// What one request wants to do.
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub verb: &'a str,
    pub api_group: &'a str,
    pub api_version: &'a str,
    pub namespace: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub name: &'a str,
    /// The path, for requests that are about no resource.
    pub path: &'a str,
    pub is_resource: bool,
    /// What the field selector of a list, watch or deletecollection demands; empty when there is none.
    pub field_selector: Vec<Requirement>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a request. `field_selector` is the raw query parameter, if any.
    pub fn new(user: &'a UserInfo, info: &'a RequestInfo, field_selector: Option<&str>) -> Self {
        let scoped = matches!(info.verb.as_str(), "list" | "watch" | "deletecollection");
        Self {
            user,
            verb: &info.verb,
            api_group: &info.api_group,
            api_version: &info.api_version,
            namespace: &info.namespace,
            resource: &info.resource,
            subresource: &info.subresource,
            name: &info.name,
            path: &info.path,
            is_resource: info.is_resource,
            field_selector: match field_selector {
                Some(s) if scoped && info.is_resource => selector::parse_fields(s),
                _ => Vec::new(),
            },
        }
    }

    /// A check on one resource that is not the request itself: impersonation, escalation, binding.
    pub fn resource(
        user: &'a UserInfo,
        verb: &'a str,
        group: &'a str,
        resource: &'a str,
        name: &'a str,
    ) -> Self {
        Self {
            user,
            verb,
            api_group: group,
            api_version: "*",
            namespace: "",
            resource,
            subresource: "",
            name,
            path: "",
            is_resource: true,
            field_selector: Vec::new(),
        }
    }
}

/// An authorizer's answer, with its reason for people (may be empty).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allow(String),
    Deny(String),
    NoOpinion(String),
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Self::Allow(_))
    }

    pub fn reason(&self) -> &str {
        match self {
            Self::Allow(r) | Self::Deny(r) | Self::NoOpinion(r) => r,
        }
    }
}

/// One authorization mode.
enum Mode {
    Node(Arc<node::NodeAuthorizer>),
    Rbac(Arc<rbac::Rbac>),
    AlwaysAllow,
    AlwaysDeny,
}

/// The union of the configured modes.
pub struct Authorizer {
    modes: Vec<Mode>,
    rbac: Arc<rbac::Rbac>,
    graph: Arc<graph::Graph>,
}

impl Authorizer {
    /// `modes` as in `--authorization-mode`, in order. The RBAC index and the node graph exist even where their
    /// mode is off (feeding them is then merely useless).
    pub fn new(modes: &[String]) -> Result<Self, String> {
        let rbac = Arc::new(rbac::Rbac::default());
        let graph = Arc::new(graph::Graph::default());
        let mut list = Vec::new();
        for mode in modes {
            list.push(match mode.as_str() {
                "Node" => Mode::Node(Arc::new(node::NodeAuthorizer::new(graph.clone())?)),
                "RBAC" => Mode::Rbac(rbac.clone()),
                "AlwaysAllow" => Mode::AlwaysAllow,
                "AlwaysDeny" => Mode::AlwaysDeny,
                other => {
                    return Err(format!(
                        "--authorization-mode: unknown mode {other:?}; known are Node, RBAC, AlwaysAllow, AlwaysDeny"
                    ));
                }
            });
        }
        if list.is_empty() {
            return Err("--authorization-mode: at least one mode must be given".to_owned());
        }
        Ok(Self { modes: list, rbac, graph })
    }

    /// Where events of the four RBAC resources go.
    pub fn rbac(&self) -> &Arc<rbac::Rbac> {
        &self.rbac
    }

    /// Where events of pods, volumes, attachments, slices and certificate requests go.
    pub fn graph(&self) -> &Arc<graph::Graph> {
        &self.graph
    }

    /// Decides. No opinion anywhere carries all reasons given, one per line.
    pub fn authorize(&self, attrs: &Attributes<'_>) -> Decision {
        if attrs.user.in_group(PRIVILEGED_GROUP) {
            return Decision::Allow(String::new());
        }
        let mut reasons: Vec<String> = Vec::new();
        for mode in &self.modes {
            let decision = match mode {
                Mode::Node(n) => n.authorize(attrs),
                Mode::Rbac(r) => r.authorize(attrs),
                Mode::AlwaysAllow => Decision::Allow(String::new()),
                Mode::AlwaysDeny => Decision::NoOpinion("Everything is forbidden.".to_owned()),
            };
            match decision {
                Decision::NoOpinion(r) if r.is_empty() => {}
                Decision::NoOpinion(r) => reasons.push(r),
                decided => return decided,
            }
        }
        Decision::NoOpinion(reasons.join("\n"))
    }

    /// [`Self::authorize`], with anything but yes as the `Forbidden` that the client reads.
    pub fn check(&self, attrs: &Attributes<'_>) -> Result<(), ApiError> {
        match self.authorize(attrs) {
            Decision::Allow(_) => Ok(()),
            other => Err(forbidden(attrs, other.reason())),
        }
    }

    /// The rules of a user in a namespace, for `SelfSubjectRulesReview`: whether any mode could not enumerate
    /// its rules, and why, comes with them.
    pub fn rules_for(&self, user: &UserInfo, namespace: &str) -> review::UserRules {
        let mut out = review::UserRules::default();
        for mode in &self.modes {
            match mode {
                Mode::Rbac(r) => {
                    let (rules, errors) = r.rules_for(user, namespace);
                    out.rules.extend(rules);
                    out.errors.extend(errors);
                }
                Mode::Node(n) if n.is_node(user) => {
                    out.incomplete = true;
                    out.errors.push("node authorizer does not support user rule resolution".to_owned());
                }
                Mode::AlwaysAllow => out.rules.extend(rules::Rule::everything()),
                Mode::Node(_) | Mode::AlwaysDeny => {}
            }
        }
        out
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

    #[test]
    fn denial_is_worded_as_upstream() {
        let u = user("x", &[]);
        let a = Authorizer::new(&["RBAC".to_owned()]).unwrap();
        let mut attrs = Attributes::resource(&u, "list", "", "pods", "");
        attrs.namespace = "default";
        let e = a.check(&attrs).unwrap_err();
        assert_eq!(
            e.message,
            r#"pods is forbidden: User "x" cannot list resource "pods" in API group "" in the namespace "default""#
        );
        assert_eq!((e.code, e.reason), (403, "Forbidden"));
        let mut attrs = Attributes::resource(&u, "create", "apps", "deployments", "web");
        attrs.subresource = "scale";
        let e = a.check(&attrs).unwrap_err();
        assert_eq!(
            e.message,
            r#"deployments.apps "web" is forbidden: User "x" cannot create resource "deployments/scale" in API group "apps" at the cluster scope"#
        );
        attrs.is_resource = false;
        attrs.path = "/metrics";
        attrs.verb = "get";
        assert_eq!(a.check(&attrs).unwrap_err().message, r#"forbidden: User "x" cannot get path "/metrics""#);
    }

    #[test]
    fn masters_pass_and_modes_are_asked_in_order() {
        let root = user("root", &[PRIVILEGED_GROUP]);
        let nobody = user("nobody", &[]);
        let deny = Authorizer::new(&["AlwaysDeny".to_owned()]).unwrap();
        assert!(deny.authorize(&Attributes::resource(&root, "delete", "", "nodes", "n")).is_allowed());
        assert!(!deny.authorize(&Attributes::resource(&nobody, "get", "", "nodes", "n")).is_allowed());
        let both = Authorizer::new(&["RBAC".to_owned(), "AlwaysAllow".to_owned()]).unwrap();
        assert!(both.authorize(&Attributes::resource(&nobody, "get", "", "nodes", "n")).is_allowed());
        assert!(Authorizer::new(&["Rbac".to_owned()]).is_err());
        assert!(Authorizer::new(&[]).is_err());
    }
}
