//! Admission: plugins that may change (`admit`) or refuse (`validate`) a write after it was authorized and
//! before it is stored, in upstream's order.

pub mod chain;
pub mod config;
pub mod expressions;
pub mod plugins;
pub mod policy;
pub mod reinvocation;
pub mod request_options;
pub mod webhook;

use async_trait::async_trait;
use serde_json::Value;

pub use chain::{Chain, Environment, Settings};
pub use reinvocation::Reinvocation;
pub use request_options::RequestOptions;

use crate::patch;
use crate::registry::object;
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

/// The write that plugins look at.
#[derive(Debug)]
pub struct Attributes<'a> {
    pub user: &'a UserInfo,
    pub group: &'a str,
    pub version: &'a str,
    pub resource: &'a str,
    pub kind: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    pub operation: Operation,
    pub dry_run: bool,
    /// The object before the write; none on create and connect.
    pub old: Option<&'a Value>,
    /// The options of the request.
    pub options: RequestOptions<'a>,
    /// What plugins want to tell the client although they let the write pass: `Warning` headers.
    pub warnings: Warnings,
    /// Whether and for whom the mutating phase has a second round.
    pub reinvocation: Reinvocation,
}

/// Sentences for the client, gathered from the plugins of one write.
#[derive(Debug, Default)]
pub struct Warnings(parking_lot::Mutex<Vec<String>>);

impl Warnings {
    pub fn add(&self, sentence: impl Into<String>) {
        self.0.lock().push(sentence.into());
    }

    /// What was gathered so far, in order.
    pub fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }
}

impl Attributes<'_> {
    /// A plugin's refusal: `message` after the resource and the object's name.
    pub fn forbidden(&self, object: Option<&Value>, message: impl AsRef<str>) -> ApiError {
        ApiError::forbidden(self.group, self.resource, self.object_name(object), message)
    }

    /// The name of the object: of the request, or of the body where the request has none.
    pub fn object_name<'b>(&'b self, object: Option<&'b Value>) -> &'b str {
        if !self.name.is_empty() {
            return self.name;
        }
        let of = |field: &str| object.map(|o| crate::lookup::text(o, field)).filter(|s| !s.is_empty());
        // A name is generated only after admission.
        of("/metadata/name").or_else(|| of("/metadata/generateName")).unwrap_or("Unknown")
    }

    /// Whether this is a write of exactly this resource and subresource.
    pub fn is(&self, group: &str, resource: &str, subresource: &str) -> bool {
        self.group == group && self.resource == resource && self.subresource == subresource
    }
}

/// What is said when somebody outside broke the record of who owns which fields.
const INVALID_MANAGED_FIELDS: &str = ".metadata.managedFields was in an invalid state after admission; this could be caused by an outdated mutating admission controller; please fix your requests: an entry cannot be decoded";

/// Where a webhook or a policy made a record of owned fields that cannot be read, the record stays as it was, and the
/// client is told.
pub(crate) fn keep_owners(attrs: &Attributes<'_>, before: &Value, after: &mut Value) {
    let owners = object::meta(before).get("managedFields");
    if object::meta(after).get("managedFields") != owners && !patch::managed::is_well_formed(after) {
        object::copy_meta(after, before, "managedFields");
        attrs.warnings.add(INVALID_MANAGED_FIELDS);
    }
}

/// What a write does to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

impl Operation {
    /// The label in metrics, upstream's name of the operation.
    pub fn label(self) -> &'static str {
        match self {
            Self::Create => "CREATE",
            Self::Update => "UPDATE",
            Self::Delete => "DELETE",
            Self::Connect => "CONNECT",
        }
    }
}

/// The phases of admission: first objects are changed, then what came out of it is judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Mutating,
    Validating,
    Both,
}

/// One admission plugin. Both phases default to letting the write pass.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// In which of the two phases it has a say.
    fn phase(&self) -> Phase {
        Phase::Both
    }

    /// Whether the plugin is asked about such operations: connections are few plugins' business.
    fn handles(&self, operation: Operation) -> bool {
        operation != Operation::Connect
    }

    /// May change `object` (on create, update and connect; a delete carries none).
    async fn admit(&self, _attrs: &Attributes<'_>, _object: Option<&mut Value>) -> ApiResult<()> {
        Ok(())
    }

    /// May refuse the final object.
    async fn validate(&self, _attrs: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        Ok(())
    }
}
