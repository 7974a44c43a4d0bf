//! `audit.k8s.io/v1` `Event`, in the order of fields in which upstream writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::Serialize;
use serde::ser::SerializeMap as _;
use serde_json::value::RawValue;

use super::policy::Level;
use crate::request::UserInfo;
use crate::status::ApiError;

/// When an event is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Stage {
    RequestReceived,
    ResponseStarted,
    ResponseComplete,
    Panic,
}

impl Stage {
    pub const ALL: [Self; 4] =
        [Self::RequestReceived, Self::ResponseStarted, Self::ResponseComplete, Self::Panic];

    pub fn name(self) -> &'static str {
        match self {
            Self::RequestReceived => "RequestReceived",
            Self::ResponseStarted => "ResponseStarted",
            Self::ResponseComplete => "ResponseComplete",
            Self::Panic => "Panic",
        }
    }
}

/// A user as `authentication/v1` `UserInfo`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct User {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub extra: BTreeMap<String, Vec<String>>,
}

impl From<&UserInfo> for User {
    fn from(u: &UserInfo) -> Self {
        Self {
            username: u.name.clone(),
            uid: u.uid.clone(),
            groups: u.groups.clone(),
            extra: u.extra.clone(),
        }
    }
}

/// What the request is about.
#[derive(Debug, Clone, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub uid: String,
    #[serde(rename = "apiGroup", skip_serializing_if = "String::is_empty")]
    pub api_group: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub api_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub subresource: String,
}

/// How it ended: a `Status` whose parts are all optional.
#[derive(Debug, Clone, Default)]
pub struct ResponseStatus {
    pub status: &'static str,
    pub message: String,
    pub reason: Cow<'static, str>,
    pub details: Option<Box<serde_json::Value>>,
    pub code: u16,
}

impl Serialize for ResponseStatus {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let mut m = s.serialize_map(None)?;
        m.serialize_entry("metadata", &serde_json::Map::new())?;
        for (k, v) in [("status", self.status), ("message", &self.message), ("reason", &self.reason)] {
            if !v.is_empty() {
                m.serialize_entry(k, v)?;
            }
        }
        if let Some(d) = &self.details {
            m.serialize_entry("details", d)?;
        }
        if self.code != 0 {
            m.serialize_entry("code", &self.code)?;
        }
        m.end()
    }
}

impl From<&ApiError> for ResponseStatus {
    fn from(e: &ApiError) -> Self {
        let details = e.to_status().get_mut("details").map(serde_json::Value::take).map(Box::new);
        Self { status: "Failure", message: e.message.clone(), reason: e.reason.into(), details, code: e.code }
    }
}

/// Facts beside the user.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthenticationMetadata {
    pub impersonation_constraint: String,
}

/// One event.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    pub kind: &'static str,
    pub api_version: &'static str,
    #[serde(serialize_with = "level_name")]
    pub level: Level,
    #[serde(rename = "auditID")]
    pub audit_id: String,
    #[serde(serialize_with = "stage_name")]
    pub stage: Stage,
    #[serde(rename = "requestURI")]
    pub request_uri: String,
    pub verb: String,
    pub user: User,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impersonated_user: Option<User>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub authentication_metadata: Option<AuthenticationMetadata>,
    #[serde(rename = "sourceIPs", skip_serializing_if = "Vec::is_empty")]
    pub source_ips: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user_agent: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object_ref: Option<ObjectRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_status: Option<ResponseStatus>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_object: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub response_object: Option<Box<RawValue>>,
    #[serde(serialize_with = "micro_time")]
    pub request_received_timestamp: jiff::Timestamp,
    #[serde(serialize_with = "micro_time")]
    pub stage_timestamp: jiff::Timestamp,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

fn level_name<S: serde::Serializer>(l: &Level, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(l.name())
}

fn stage_name<S: serde::Serializer>(l: &Stage, s: S) -> Result<S::Ok, S::Error> {
    s.serialize_str(l.name())
}

fn micro_time<S: serde::Serializer>(t: &jiff::Timestamp, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(&format_args!("{t:.6}"))
}

/// Marks events whose bodies were left out for their size.
const TRUNCATED: &str = "audit.k8s.io/truncated";

impl Event {
    /// As JSON.
    pub fn to_json(&self) -> Vec<u8> {
        // Maps with string keys and valid raw values cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// Without its bodies, and marked so.
    pub fn truncated(&self) -> Self {
        let mut e = self.clone();
        e.request_object = None;
        e.response_object = None;
        e.annotations.insert(TRUNCATED.to_owned(), "true".to_owned());
        e
    }

    /// As a line of upstream's legacy format.
    pub fn to_legacy(&self) -> String {
        let q = |s: &str| crate::authz::quoted(s);
        let list = |l: &[String]| l.iter().map(|s| q(s)).collect::<Vec<_>>().join(",");
        let (mut username, mut groups) = ("<none>", "<none>".to_owned());
        if !self.user.username.is_empty() {
            username = &self.user.username;
            if !self.user.groups.is_empty() {
                groups = list(&self.user.groups);
            }
        }
        let (mut as_user, mut as_groups) = ("<self>", "<lookup>".to_owned());
        if let Some(u) = &self.impersonated_user {
            as_user = &u.username;
            if !u.groups.is_empty() {
                as_groups = list(&u.groups);
            }
        }
        let namespace = self
            .object_ref
            .as_ref()
            .map(|o| o.namespace.as_str())
            .filter(|n| !n.is_empty())
            .unwrap_or("<none>");
        let response =
            self.response_status.as_ref().map_or_else(|| "<deferred>".to_owned(), |r| r.code.to_string());
        format!(
            "{} AUDIT: id={} stage={} ip={} method={} user={} groups={} as={} asgroups={} user-agent={} namespace={} uri={} response=\"{response}\"",
            self.request_received_timestamp,
            q(&self.audit_id),
            q(self.stage.name()),
            q(self.source_ips.first().map_or("<unknown>", String::as_str)),
            q(&self.verb),
            q(username),
            q(&groups),
            q(as_user),
            q(&as_groups),
            q(&self.user_agent),
            q(namespace),
            q(&self.request_uri),
        )
    }
}
