//! Resources that nobody may use unless a quota bounds them: `limitedResources` of the plugin's configuration.

use std::collections::BTreeSet;
use std::sync::Arc;

use component_base::quota::{Tracked, scope};
use jiff::Timestamp;
use serde_json::Value;

use super::enforced;
use crate::admission::{Attributes, Operation};
use crate::lookup::{items, text};
use crate::status::{ApiError, ApiResult};

/// The plugin's configuration (`ResourceQuotaConfiguration`).
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    #[serde(rename = "limitedResources")]
    limited: Vec<Limited>,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Limited {
    #[serde(rename = "apiGroup")]
    group: String,
    resource: String,
    /// Parts of the names of what is limited.
    match_contains: Vec<String>,
    match_scopes: Vec<Scope>,
}

/// A `ScopedResourceSelectorRequirement`.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
struct Scope {
    scope_name: String,
    operator: String,
    values: Vec<String>,
}

impl Scope {
    fn matches(&self, object: &Value) -> bool {
        let values: Vec<&str> = self.values.iter().map(String::as_str).collect();
        scope::holds(&self.scope_name, &self.operator, &values, object)
    }
}

/// The names of the scopes of a quota that the object is in.
fn scopes_of<'a>(quota: &'a Value, object: &'a Value) -> impl Iterator<Item = &'a str> {
    let plain = items(quota, "/spec/scopes").iter().filter_map(Value::as_str);
    let plain = plain.filter(|s| scope::holds(s, "Exists", &[], object));
    let selected = items(quota, "/spec/scopeSelector/matchExpressions").iter().filter(|e| {
        let values: Vec<&str> = items(e, "/values").iter().filter_map(Value::as_str).collect();
        scope::holds(text(e, "/scopeName"), text(e, "/operator"), &values, object)
    });
    plain.chain(selected.map(|e| text(e, "/scopeName")))
}

impl Configuration {
    /// Refuses an object that uses what is limited and that no quota covers.
    pub fn check(
        &self,
        attrs: &Attributes<'_>,
        tracked: &Tracked,
        object: &Value,
        quotas: &[Arc<Value>],
    ) -> ApiResult<()> {
        if self.limited.is_empty() {
            return Ok(());
        }
        let mut usage = tracked.usage(object, Timestamp::now());
        if let Some(old) = attrs.old.filter(|_| attrs.operation == Operation::Update) {
            // Only what comes on top counts.
            let before = tracked.usage(old, Timestamp::now());
            if usage.iter().all(|(k, v)| before.get(k).is_some_and(|b| v <= b)) {
                return Ok(());
            }
        }
        usage.retain(|_, v| !v.is_zero());
        let of_kind = |l: &&Limited| l.group == attrs.group && l.resource == attrs.resource;
        let covered: BTreeSet<String> = quotas
            .iter()
            .filter(|q| scope::matches(q, tracked, object))
            .flat_map(|q| enforced(q).into_keys().filter(|k| tracked.counts(k)))
            .collect();
        let open: Vec<&str> = usage
            .keys()
            .filter(|k| {
                let parts = self.limited.iter().filter(of_kind).flat_map(|l| &l.match_contains);
                parts.into_iter().any(|part| k.contains(part.as_str())) && !covered.contains(*k)
            })
            .map(String::as_str)
            .collect();
        if !open.is_empty() {
            let why = format!("insufficient quota to consume: {}", open.join(","));
            return Err(attrs.forbidden(Some(object), why));
        }
        if !tracked.is_pod() {
            return Ok(());
        }
        let there: BTreeSet<&str> = quotas.iter().flat_map(|q| scopes_of(q, object)).collect();
        let open: Vec<String> = self
            .limited
            .iter()
            .flat_map(|l| &l.match_scopes)
            .filter(|s| s.matches(object) && !there.contains(s.scope_name.as_str()))
            .map(|s| format!("{{{} {} [{}]}}", s.scope_name, s.operator, s.values.join(" ")))
            .collect();
        if open.is_empty() {
            return Ok(());
        }
        let why = format!("insufficient quota to match these scopes: [{}]", open.join(" "));
        Err(ApiError::new(500, "", why))
    }
}
