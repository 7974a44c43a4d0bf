//! Whether a webhook is called for a request, and in which version.

use std::sync::Arc;

use serde_json::Value;

use super::forms::{self, View};
use super::hook::Hook;
use super::{Webhooks, rules};
use crate::admission::expressions::{self, Inputs, Named, Outcome};
use crate::admission::{Attributes, Operation};
use crate::cel::authority::Authority;
use crate::registry::labels::Selector;
use crate::registry::{Registry, object};
use crate::status::{ApiError, ApiResult};

/// Label queries on an object's metadata.
fn selects(selector: &Selector, o: &Value) -> bool {
    let labels = object::meta(o).get("labels").and_then(Value::as_object);
    selector.matches(|k| labels.and_then(|l| l.get(k)).and_then(Value::as_str))
}

fn broken(hook: &Hook, field: &str) -> ApiError {
    ApiError::internal(format!("webhook {:?}: {field} cannot be read", hook.name))
}

/// The view in which `hook` is called, or none where it does not match. `view` is the request's own; `object` the
/// object as it is now, in the storage version.
pub async fn view(
    webhooks: &Webhooks,
    registry: &Registry,
    hook: &Hook,
    attrs: &Attributes<'_>,
    view: &View,
    object: Option<&Value>,
) -> ApiResult<Option<View>> {
    let matched = if hook.rules.iter().any(|r| r.matches(attrs, view.gvr())) {
        Some(view.clone())
    } else if hook.equivalent {
        let others = forms::equivalents(registry, attrs);
        hook.rules.iter().find_map(|r| others.iter().find(|v| r.matches(attrs, v.gvr())).cloned())
    } else {
        None
    };
    // What costs most comes last: nothing is looked up for a webhook that the rules do not match.
    if matched.is_none() || !object_matches(hook, attrs, object)? {
        return Ok(None);
    }
    Ok(if namespace_matches(webhooks, hook, attrs, object).await? { matched } else { None })
}

async fn namespace_matches(
    webhooks: &Webhooks,
    hook: &Hook,
    attrs: &Attributes<'_>,
    object: Option<&Value>,
) -> ApiResult<bool> {
    let about_namespace = attrs.resource == "namespaces";
    if attrs.namespace.is_empty() && !about_namespace {
        return Ok(true);
    }
    let selector = hook.namespaces.as_ref().ok_or_else(|| broken(hook, "namespaceSelector"))?;
    if selector.is_empty() {
        return Ok(true);
    }
    let written = matches!(attrs.operation, Operation::Create | Operation::Update);
    if about_namespace && attrs.subresource.is_empty() && written {
        return Ok(object.is_some_and(|o| selects(selector, o)));
    }
    let name = namespace_of(attrs, object);
    let labels = webhooks.namespace_labels(&name).await?;
    Ok(selector.matches(|k| labels.get(k)))
}

/// The namespace that the request is about: for namespaces themselves their name.
pub fn namespace_of(attrs: &Attributes<'_>, object: Option<&Value>) -> String {
    if attrs.namespace.is_empty() && attrs.group.is_empty() && attrs.resource == "namespaces" {
        return attrs.object_name(object).to_owned();
    }
    attrs.namespace.to_owned()
}

fn object_matches(hook: &Hook, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<bool> {
    let selector = hook.objects.as_ref().ok_or_else(|| broken(hook, "objectSelector"))?;
    if selector.is_empty() {
        return Ok(true);
    }
    let has = |o: Option<&Value>| o.is_some_and(|o| o.get("metadata").is_some() && selects(selector, o));
    Ok(has(object) || has(attrs.old))
}

/// What the conditions of a webhook are evaluated for.
pub struct Case<'a> {
    pub attrs: &'a Attributes<'a>,
    pub requested: &'a View,
    pub view: &'a View,
    /// As the webhook would see them.
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    /// `admit` or `validating`
    pub phase: &'static str,
}

/// Whether the webhook's conditions hold.
pub fn conditions_hold(
    webhooks: &Webhooks,
    authority: &Arc<dyn Authority>,
    hook: &Hook,
    case: &Case<'_>,
) -> ApiResult<bool> {
    if hook.conditions.is_empty() {
        return Ok(true);
    }
    static NULL: Value = Value::Null;
    let attrs = case.attrs;
    let name = attrs.object_name(case.object);
    let request = expressions::request(attrs, name, named(case.requested), named(case.view));
    let inputs = Inputs {
        object: case.object.unwrap_or(&NULL),
        old: case.old.unwrap_or(&NULL),
        request: &request,
        namespace: &NULL,
        params: &NULL,
        authority: Some(authority),
        user: attrs.user,
    };
    let operation = rules::operation(attrs.operation);
    match hook.conditions.evaluate(&inputs) {
        Outcome::Matches => Ok(true),
        Outcome::Excluded(_) => {
            webhooks.metrics.exclude(&hook.name, case.phase, operation);
            Ok(false)
        }
        Outcome::Failed { message, .. } => {
            webhooks.metrics.evaluation_error(&hook.name, case.phase, operation);
            if hook.fail_open {
                return Ok(false);
            }
            Err(ApiError::forbidden(attrs.group, attrs.resource, name, message))
        }
    }
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
