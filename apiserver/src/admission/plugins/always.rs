//! `AlwaysAdmit` and `AlwaysDeny`: for tests of the chain. Upstream calls both deprecated.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::admission::{Attributes, Environment, Plugin};
use crate::status::{ApiError, ApiResult};

struct Admit;
struct Deny;

fn deprecated(name: &str) {
    tracing::warn!(
        plugin = name,
        "the admission plugin is deprecated: remove it from configuration and scripts"
    );
}

pub(crate) fn build_admit(_env: &Environment) -> Arc<dyn Plugin> {
    deprecated("AlwaysAdmit");
    Arc::new(Admit)
}

pub(crate) fn build_deny(_env: &Environment) -> Arc<dyn Plugin> {
    deprecated("AlwaysDeny");
    Arc::new(Deny)
}

/// A plugin of a feature that is off: it is known, and does nothing.
struct Idle;

pub(crate) fn build_idle(_env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Idle)
}

impl Plugin for Idle {
    fn name(&self) -> &'static str {
        "Idle"
    }
}

impl Plugin for Admit {
    fn name(&self) -> &'static str {
        "AlwaysAdmit"
    }
}

fn denied(attrs: &Attributes<'_>, object: Option<&Value>) -> ApiError {
    attrs.forbidden(object, "admission control is denying all modifications")
}

#[async_trait]
impl Plugin for Deny {
    fn name(&self) -> &'static str {
        "AlwaysDeny"
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        Err(denied(attrs, object.as_deref()))
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        Err(denied(attrs, object))
    }
}
