//! What the `authorizer` library asks: may this user do that?

use std::sync::Arc;

use crate::authz::{self, Authorizer, selector};
use crate::request::UserInfo;

/// Answers the checks of expressions, which cannot wait.
pub trait Authority: Send + Sync {
    fn authorize(&self, attributes: &authz::Attributes<'_>) -> authz::Decision;
}

impl Authority for Authorizer {
    fn authorize(&self, attributes: &authz::Attributes<'_>) -> authz::Decision {
        self.authorize_blocking(attributes)
    }
}

/// A user, and whom to ask about them.
#[derive(Clone)]
pub struct Subject {
    pub authority: Arc<dyn Authority>,
    pub user: Arc<UserInfo>,
}

impl std::fmt::Debug for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subject").field("user", &self.user.name).finish_non_exhaustive()
    }
}

/// A check on a path that is no resource.
#[derive(Debug, Clone)]
pub struct PathCheck {
    pub subject: Subject,
    pub path: Arc<str>,
}

/// A check on a resource.
#[derive(Debug, Clone)]
pub struct ResourceCheck {
    pub subject: Subject,
    pub group: Arc<str>,
    pub resource: Arc<str>,
    pub subresource: Arc<str>,
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub field_selector: Arc<str>,
    pub label_selector: Arc<str>,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    pub allowed: bool,
    pub reason: String,
    /// Empty when there was none.
    pub error: String,
}

impl From<authz::Decision> for Decided {
    fn from(d: authz::Decision) -> Self {
        Self { allowed: d.is_allowed(), reason: d.reason().to_owned(), error: d.error().to_owned() }
    }
}

impl PathCheck {
    pub fn check(&self, verb: &str) -> Decided {
        let mut a = authz::Attributes::resource(&self.subject.user, verb, "", "", "");
        a.is_resource = false;
        a.api_version = "";
        a.path = &self.path;
        self.subject.authority.authorize(&a).into()
    }
}

impl ResourceCheck {
    /// A check on all objects of a resource.
    pub fn new(subject: Subject, group: Arc<str>, resource: &str) -> Self {
        let empty: Arc<str> = "".into();
        Self {
            subject,
            group,
            resource: resource.into(),
            subresource: empty.clone(),
            namespace: empty.clone(),
            name: empty.clone(),
            field_selector: empty.clone(),
            label_selector: empty,
        }
    }

    pub fn check(&self, verb: &str) -> Decided {
        let user = &self.subject.user;
        let mut a = authz::Attributes::resource(user, verb, &self.group, &self.resource, &self.name);
        a.subresource = &self.subresource;
        a.namespace = &self.namespace;
        if !self.field_selector.is_empty() {
            a.field_selector = selector::parse_fields(&self.field_selector);
        }
        if !self.label_selector.is_empty() {
            a.label_selector = selector::parse_labels(&self.label_selector);
        }
        self.subject.authority.authorize(&a).into()
    }
}
