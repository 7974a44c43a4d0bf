//! One served resource: what it is called, where it is stored and by which rules it lives.

use std::sync::Arc;

use proto::schema::TypeRef;

use super::rules::Rules;
use super::storage::Storage;
use super::strategy::{DynStrategy, StrategyRef};
use crate::status::ApiResult;

/// One resource in one version.
pub struct Resource {
    /// Names, verbs and subresources.
    pub def: proto::Resource,
    pub rules: Rules,
    /// The type of its objects in this version.
    pub schema: TypeRef,
    /// None for kinds that are only asked, never stored.
    pub storage: Option<Arc<Storage>>,
    pub strategy: Option<StrategyRef>,
}

impl std::ops::Deref for Resource {
    type Target = proto::Resource;
    fn deref(&self) -> &proto::Resource {
        &self.def
    }
}

impl Resource {
    pub fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }

    /// The rules of the kind, where it has any.
    pub fn strategy(&self) -> Option<&dyn DynStrategy> {
        self.strategy.as_deref()
    }

    /// Whether this version is the one in which objects are stored.
    pub fn is_storage_version(&self) -> bool {
        self.storage.as_ref().is_none_or(|s| s.group == self.group && s.version == self.version)
    }

    /// The storage, or the answer for kinds that have none.
    pub fn storage(&self) -> ApiResult<&Arc<Storage>> {
        self.storage.as_ref().ok_or_else(super::method_not_allowed)
    }
}

pub use proto::resources::api_version;
