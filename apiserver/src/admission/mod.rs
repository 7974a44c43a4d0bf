//! Admission: plugins that may change (`admit`) or refuse (`validate`) a write after it was authorized and
//! before it is stored, in upstream's order.

use async_trait::async_trait;
use serde_json::Value;

use crate::request::UserInfo;
use crate::status::ApiResult;

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
}

/// What a write does to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// One admission plugin. Both phases default to letting the write pass.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Upstream's plugin name, as in `--enable-admission-plugins`.
    fn name(&self) -> &'static str;

    /// May change `object` (on create, update and connect; a delete carries none).
    async fn admit(&self, _attrs: &Attributes<'_>, _object: Option<&mut Value>) -> ApiResult<()> {
        Ok(())
    }

    /// May refuse the final object.
    async fn validate(&self, _attrs: &Attributes<'_>, _object: Option<&Value>) -> ApiResult<()> {
        Ok(())
    }
}
