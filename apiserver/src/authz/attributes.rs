//! What a request wants to do, as every authorizer sees it, and the same as the `spec` of a `SubjectAccessReview`.

use serde_json::{Map, Value, json};

use super::selector;
use super::{LabelRequirement, Requirement};
use crate::request::{RequestInfo, UserInfo};

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
    /// The same of the label selector.
    pub label_selector: Vec<LabelRequirement>,
}

impl<'a> Attributes<'a> {
    /// The attributes of a request. `field_selector` is the raw query parameter, if any.
    pub fn new(user: &'a UserInfo, info: &'a RequestInfo, field_selector: Option<&str>) -> Self {
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
                Some(s) if selects(info) => selector::parse_fields(s),
                _ => Vec::new(),
            },
            label_selector: Vec::new(),
        }
    }

    /// With the raw label selector of the request, where its verb takes one.
    #[must_use]
    pub fn with_labels(mut self, info: &RequestInfo, label_selector: Option<&str>) -> Self {
        if let Some(s) = label_selector
            && selects(info)
        {
            self.label_selector = selector::parse_labels(s);
        }
        self
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
            label_selector: Vec::new(),
        }
    }

    /// Whether the request changes nothing.
    pub fn is_read_only(&self) -> bool {
        matches!(self.verb, "get" | "list" | "watch")
    }

    /// How many bytes of this the client chooses.
    pub fn controlled_size(&self) -> usize {
        [
            self.namespace,
            self.verb,
            self.api_group,
            self.api_version,
            self.resource,
            self.subresource,
            self.name,
            self.path,
        ]
        .iter()
        .map(|s| s.len())
        .sum()
    }

    /// As a `SubjectAccessReviewSpec`. With `all`, empty strings stand too, as CEL expressions must find them;
    /// without, they are left out as on the wire.
    pub fn review_spec(&self, all: bool) -> Value {
        let mut spec = Map::new();
        let put = |into: &mut Map<String, Value>, key: &str, value: &str| {
            if all || !value.is_empty() {
                into.insert(key.to_owned(), value.into());
            }
        };
        if self.is_resource {
            let mut r = Map::new();
            for (key, value) in [
                ("namespace", self.namespace),
                ("verb", self.verb),
                ("group", self.api_group),
                ("version", self.api_version),
                ("resource", self.resource),
                ("subresource", self.subresource),
                ("name", self.name),
            ] {
                put(&mut r, key, value);
            }
            if !self.field_selector.is_empty() {
                let list: Vec<Value> = self.field_selector.iter().map(Requirement::to_json).collect();
                r.insert("fieldSelector".to_owned(), json!({ "requirements": list }));
            }
            if !self.label_selector.is_empty() {
                let list: Vec<Value> = self.label_selector.iter().map(LabelRequirement::to_json).collect();
                r.insert("labelSelector".to_owned(), json!({ "requirements": list }));
            }
            spec.insert("resourceAttributes".to_owned(), r.into());
        } else {
            let mut r = Map::new();
            put(&mut r, "path", self.path);
            put(&mut r, "verb", self.verb);
            spec.insert("nonResourceAttributes".to_owned(), r.into());
        }
        put(&mut spec, "user", &self.user.name);
        put(&mut spec, "uid", &self.user.uid);
        if all || !self.user.groups.is_empty() {
            spec.insert("groups".to_owned(), json!(self.user.groups));
        }
        if all || !self.user.extra.is_empty() {
            spec.insert("extra".to_owned(), json!(self.user.extra));
        }
        Value::Object(spec)
    }
}

/// Whether the request's selectors narrow what it may see or remove.
fn selects(info: &RequestInfo) -> bool {
    info.is_resource && matches!(info.verb.as_str(), "list" | "watch" | "deletecollection")
}
