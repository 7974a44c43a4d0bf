//! Which stored objects a label and a field selector choose.

use serde_json::Value;

use super::options::ListOptions;
use super::resource::Resource;
use super::storage::Storage;
use super::{fields, labels, object};
use crate::status::{ApiError, ApiResult};

/// The selectors of one list or watch.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    group: &'static str,
    resource: &'static str,
    labels: labels::Selector,
    fields: fields::Selector,
}

impl Filter {
    /// The selectors in `o`, which may use only fields that the kind offers.
    pub fn new(r: &Resource, o: &ListOptions) -> ApiResult<Self> {
        if !o.fields.is_empty() {
            let known = crate::kinds::supported_field_selectors(r.group, r.resource);
            for t in o.fields.terms() {
                if !known.contains(&t.field.as_str()) {
                    return Err(ApiError::bad_request(unsupported(r, &t.field)));
                }
            }
        }
        Ok(Self { group: r.group, resource: r.resource, labels: o.labels.clone(), fields: o.fields.clone() })
    }

    /// Whether everything is chosen.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    /// The one name that can be chosen, where a field selector says so.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The one namespace that can be chosen.
    pub fn namespace(&self) -> Option<&str> {
        self.fields.exact("metadata.namespace")
    }

    /// Whether a decoded object is chosen.
    pub fn matches(&self, o: &Value) -> bool {
        if !self.labels.is_empty() {
            let l = object::meta(o).get("labels").and_then(Value::as_object);
            if !self.labels.matches(|k| l.and_then(|l| l.get(k)).and_then(Value::as_str)) {
                return false;
            }
        }
        if self.fields.is_empty() {
            return true;
        }
        let f = crate::kinds::selectable_fields(self.group, self.resource, o);
        self.fields.matches(|name| f.iter().find(|(k, _)| *k == name).map(|(_, v)| v.as_str()))
    }

    /// Whether stored bytes are chosen. What cannot be decoded is not.
    pub fn matches_bytes(&self, storage: &Storage, bytes: &[u8]) -> bool {
        self.is_empty() || super::codec::decode_stored(storage.schema, bytes).is_ok_and(|v| self.matches(&v))
    }
}

fn unsupported(r: &Resource, field: &str) -> String {
    match (r.group, r.resource) {
        // These kinds convert field labels themselves, others by the general rule.
        ("", _) | ("batch", "jobs") => format!("field label not supported: {field}"),
        _ => format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}
