//! What the `authorizer` library asks: may this user do that? Whoever evaluates an expression has the answers.

use std::sync::Arc;

/// A user about whom expressions ask. It answers at once: an evaluation cannot wait.
pub trait Subject: Send + Sync + std::fmt::Debug {
    /// Whether the user may do `verb` on a path that is no resource.
    fn check_path(&self, path: &str, verb: &str) -> Decided;

    /// Whether the user may do `verb` on a resource.
    fn check_resource(&self, resource: &ResourceCheck, verb: &str) -> Decided;

    /// A service account in the user's place.
    fn service_account(&self, namespace: &str, name: &str) -> Arc<dyn Subject>;
}

/// A check on a path that is no resource.
#[derive(Debug, Clone)]
pub struct PathCheck {
    pub subject: Arc<dyn Subject>,
    pub path: Arc<str>,
}

/// A check on a resource.
#[derive(Debug, Clone)]
pub struct ResourceCheck {
    pub subject: Arc<dyn Subject>,
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

impl PathCheck {
    pub fn check(&self, verb: &str) -> Decided {
        self.subject.check_path(&self.path, verb)
    }
}

impl ResourceCheck {
    /// A check on all objects of a resource.
    pub fn new(subject: Arc<dyn Subject>, group: Arc<str>, resource: &str) -> Self {
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
        self.subject.check_resource(self, verb)
    }
}
