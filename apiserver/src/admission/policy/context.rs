//! What expressions see of one request: the object in the version that the policy speaks of, and the rest of the
//! variables that do not depend on the binding.

use std::sync::Arc;

use serde_json::Value;

use super::matching;
use crate::admission::Attributes;
use crate::admission::expressions::{Inputs, Named, request};
use crate::admission::webhook::forms::{self, View};
use crate::cel::authority::Authority;
use crate::registry::Registry;
use crate::status::ApiResult;

static NULL: Value = Value::Null;

/// See the module.
pub struct Context<'a> {
    attrs: &'a Attributes<'a>,
    authority: &'a Arc<dyn Authority>,
    pub object: Option<Value>,
    old: Option<Value>,
    request: Value,
    namespace: Option<Arc<Value>>,
}

fn named(v: &View) -> Named<'_> {
    Named {
        group: &v.resource.group,
        version: &v.resource.version,
        resource: &v.resource.resource,
        kind_group: &v.kind.group,
        kind_version: &v.kind.version,
        kind: &v.kind.kind,
    }
}

/// The namespace that `namespaceObject` is; none for what lives in none, and for namespaces themselves.
pub async fn namespace_object(registry: &Registry, attrs: &Attributes<'_>) -> ApiResult<Option<Arc<Value>>> {
    if attrs.namespace.is_empty() || (attrs.group.is_empty() && attrs.kind == "Namespace") {
        return Ok(None);
    }
    let mut v = matching::namespace(registry, attrs.namespace).await?;
    let shown = Arc::make_mut(&mut v);
    if let Some(m) = shown.get_mut("metadata").and_then(Value::as_object_mut) {
        m.remove("managedFields");
        m.remove("ownerReferences");
    }
    Ok(Some(v))
}

impl<'a> Context<'a> {
    pub async fn new(
        attrs: &'a Attributes<'a>,
        authority: &'a Arc<dyn Authority>,
        requested: &View,
        matched: &View,
        object: Option<&Value>,
        namespace: Option<Arc<Value>>,
    ) -> ApiResult<Self> {
        let new = match object {
            Some(o) => Some(forms::show(attrs, matched, o).await?),
            None => None,
        };
        let old = match attrs.old {
            Some(o) => Some(forms::show(attrs, matched, o).await?),
            None => None,
        };
        let name = attrs.object_name(object);
        let request = request(attrs, name, named(requested), named(matched));
        Ok(Self { attrs, authority, object: new, old, request, namespace })
    }

    /// The variables with these parameters.
    pub fn inputs<'c>(&'c self, params: Option<&'c Value>) -> Inputs<'c> {
        Inputs {
            object: self.object.as_ref().unwrap_or(&NULL),
            old: self.old.as_ref().unwrap_or(&NULL),
            request: &self.request,
            namespace: self.namespace.as_deref().unwrap_or(&NULL),
            params: params.unwrap_or(&NULL),
            authority: Some(self.authority),
            user: self.attrs.user,
        }
    }
}
