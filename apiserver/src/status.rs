//! API failures as upstream's `meta/v1` `Status`: every error that leaves the API server is built here,
//! so that reason, code and wording are the same whichever handler met it.
//!
//! Source: Kubernetes API conventions, "Response Status Kind".

use serde_json::{Value, json};

use crate::field;

/// A failure of one API request, carried as the `Status` that the client will read.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status code of the answer.
    pub code: u16,
    /// Machine-readable reason (`NotFound`, `Conflict`, …); empty where upstream leaves it out.
    pub reason: &'static str,
    /// Sentence for people.
    pub message: String,
    /// What the failure is about.
    pub details: Option<Box<Details>>,
    /// Where an expired list may go on; empty otherwise.
    pub continue_token: String,
    /// A `Status` that somebody else wrote, told as it is.
    pub verbatim: Option<Box<Value>>,
    /// What the client is warned of beside the failure.
    pub warnings: Vec<String>,
}

/// `StatusDetails`: the object and the causes.
#[derive(Debug, Clone, Default)]
pub struct Details {
    pub name: String,
    pub group: String,
    /// Kind or, as upstream does for most reasons, the resource name.
    pub kind: String,
    pub uid: String,
    pub causes: Vec<Cause>,
    /// Seconds after which the client may retry; zero leaves it out.
    pub retry_after_seconds: u32,
}

/// One `StatusCause`.
#[derive(Debug, Clone)]
pub struct Cause {
    pub reason: String,
    pub message: String,
    pub field: String,
}

/// Result of anything that can end as a `Status`.
pub type ApiResult<T> = Result<T, ApiError>;

/// `resource.group`, or `resource` in the core group: how upstream names a resource in messages.
pub fn qualified(group: &str, resource: &str) -> String {
    if group.is_empty() { resource.to_owned() } else { format!("{resource}.{group}") }
}

impl ApiError {
    /// A failure with nothing but code, reason and message.
    pub fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
            continue_token: String::new(),
            verbatim: None,
            warnings: Vec::new(),
        }
    }

    /// A failure that somebody else, for instance a webhook, decided on: `status` is a whole `Status`.
    pub fn verbatim(status: Value) -> Self {
        let code = status.get("code").and_then(Value::as_u64).and_then(|c| u16::try_from(c).ok());
        let message = status.get("message").and_then(Value::as_str).unwrap_or_default().to_owned();
        let mut e = Self::new(code.unwrap_or(500), "", message);
        e.verbatim = Some(Box::new(status));
        e
    }

    /// The same failure with sentences for `Warning` headers.
    pub fn warning(mut self, warnings: Vec<String>) -> Self {
        self.warnings = warnings;
        self
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        self.details = Some(Box::new(Details {
            name: name.to_owned(),
            group: group.to_owned(),
            kind: kind.to_owned(),
            ..Details::default()
        }));
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// A failure that has no reason of its own: 500 with the words alone.
    pub fn unknown(message: impl Into<String>) -> Self {
        Self::new(500, "", message)
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// `message` is the reason alone; the resource and name are put before it.
    pub fn forbidden(group: &str, resource: &str, name: &str, message: impl AsRef<str>) -> Self {
        let q = qualified(group, resource);
        let m = message.as_ref();
        let text = match (resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {m}"),
            (false, true) => format!("{q} is forbidden: {m}"),
            (false, false) => format!("{q} \"{name}\" is forbidden: {m}"),
        };
        Self::new(403, "Forbidden", text).about(group, resource, name)
    }

    pub fn not_found(group: &str, resource: &str, name: &str) -> Self {
        let q = qualified(group, resource);
        Self::new(404, "NotFound", format!("{q} \"{name}\" not found")).about(group, resource, name)
    }

    /// The path leads to no resource that this server knows.
    pub fn no_such_path() -> Self {
        let mut e = Self::new(404, "NotFound", "the server could not find the requested resource");
        e.details = Some(Box::default());
        e
    }

    pub fn method_not_supported(group: &str, resource: &str, action: &str) -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            format!("{action} is not supported on resources of kind \"{}\"", qualified(group, resource)),
        )
        .about(group, resource, "")
    }

    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }

    pub fn already_exists(group: &str, resource: &str, name: &str) -> Self {
        let q = qualified(group, resource);
        Self::new(409, "AlreadyExists", format!("{q} \"{name}\" already exists")).about(group, resource, name)
    }

    pub fn conflict(group: &str, resource: &str, name: &str, message: impl AsRef<str>) -> Self {
        let q = qualified(group, resource);
        Self::new(
            409,
            "Conflict",
            format!("Operation cannot be fulfilled on {q} \"{name}\": {}", message.as_ref()),
        )
        .about(group, resource, name)
    }

    /// The object changed since the client read it.
    pub fn modified(group: &str, resource: &str, name: &str) -> Self {
        Self::conflict(
            group,
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// The history that the client asks for is compacted.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }

    /// Field errors of one object, aggregated as upstream words them.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &field::ErrorList) -> Self {
        let q = qualified(group, kind);
        let mut e = Self::new(422, "Invalid", format!("{q} \"{name}\" is invalid: {}", errors.aggregate()))
            .about(group, kind, name);
        if let Some(d) = e.details.as_mut() {
            d.causes = errors
                .iter()
                .map(|x| Cause { reason: x.kind.reason().into(), message: x.body(), field: x.field.clone() })
                .collect();
        }
        e
    }

    pub fn too_many_requests(message: impl Into<String>, retry_after_seconds: u32) -> Self {
        let mut e = Self::new(429, "TooManyRequests", message);
        e.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        e
    }

    pub fn internal(message: impl AsRef<str>) -> Self {
        let m = message.as_ref();
        let mut e = Self::new(500, "InternalError", format!("Internal error occurred: {m}"));
        e.details = Some(Box::new(Details {
            causes: vec![Cause { reason: String::new(), message: m.to_owned(), field: String::new() }],
            ..Details::default()
        }));
        e
    }

    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// The server could not finish in time; `retry_after_seconds` zero leaves the hint out.
    pub fn timeout(message: impl AsRef<str>, retry_after_seconds: u32) -> Self {
        let mut e = Self::new(504, "Timeout", format!("Timeout: {}", message.as_ref()));
        e.details = Some(Box::new(Details { retry_after_seconds, ..Details::default() }));
        e
    }

    /// The same failure with what the client was warned of before.
    pub fn warned(mut self, warnings: &mut Vec<String>) -> Self {
        warnings.append(&mut self.warnings);
        self.warnings = std::mem::take(warnings);
        self
    }

    /// The same failure with causes put in place of what was there.
    pub fn with_causes(mut self, causes: Vec<Cause>) -> Self {
        self.details.get_or_insert_with(Box::default).causes = causes;
        self
    }

    /// The `Status` object, as JSON.
    pub fn to_status(&self) -> Value {
        if let Some(s) = &self.verbatim {
            return (**s).clone();
        }
        let mut s = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "code": self.code,
        });
        if !self.continue_token.is_empty() {
            s["metadata"]["continue"] = self.continue_token.as_str().into();
        }
        if !self.reason.is_empty() {
            s["reason"] = self.reason.into();
        }
        if let Some(d) = &self.details {
            s["details"] = d.to_json();
        }
        s
    }
}

impl Details {
    fn to_json(&self) -> Value {
        let mut o = serde_json::Map::new();
        for (k, v) in [("name", &self.name), ("group", &self.group), ("kind", &self.kind), ("uid", &self.uid)]
        {
            if !v.is_empty() {
                o.insert(k.into(), v.as_str().into());
            }
        }
        if !self.causes.is_empty() {
            let causes = self.causes.iter().map(Cause::to_json).collect();
            o.insert("causes".into(), Value::Array(causes));
        }
        if self.retry_after_seconds > 0 {
            o.insert("retryAfterSeconds".into(), self.retry_after_seconds.into());
        }
        Value::Object(o)
    }
}

impl Cause {
    fn to_json(&self) -> Value {
        let mut o = serde_json::Map::new();
        for (k, v) in [("reason", &self.reason), ("message", &self.message), ("field", &self.field)] {
            if !v.is_empty() {
                o.insert(k.into(), v.as_str().into());
            }
        }
        Value::Object(o)
    }
}
