//! Which stored objects a label and a field selector choose.
//!
//! What is selected by is kept decoded beside the stored objects. There is one exception: the fields of custom resources
//! that a webhook converts are those of the version that the client speaks, which nobody knows before the webhook was
//! asked. Terms on them are set apart ([`Converted`]) and looked up in what the client will get.

use std::sync::Arc;

use super::options::ListOptions;
use super::resource::Resource;
use super::{fields, labels};
use crate::cache::{Object, Predicate};
use crate::crd::Served;
use crate::crd::convert::Conversion;
use crate::status::{ApiError, ApiResult};

/// The selectors of one list or watch.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    labels: labels::Selector,
    fields: fields::Selector,
    converted: Option<Converted>,
}

/// The part of a filter that looks into objects in the version of the client.
#[derive(Clone)]
pub struct Converted {
    served: Arc<Served>,
    fields: fields::Selector,
}

impl std::fmt::Debug for Converted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Converted").field("fields", &self.fields).finish_non_exhaustive()
    }
}

impl Converted {
    /// Whether an object is chosen: its text in the version of the client.
    pub fn matches(&self, text: &[u8]) -> bool {
        let Ok(o) = serde_json::from_slice::<serde_json::Value>(text) else { return false };
        let selectable = &self.served.version().selectable;
        self.fields.terms().iter().all(|t| {
            let field = selectable.iter().find(|s| s.name == t.field);
            (field.map(|s| s.value(&o)).unwrap_or_default() == t.value.as_str()) == t.equal
        })
    }
}

impl Filter {
    /// The selectors in `o`, which may use only fields that the kind offers.
    pub fn new(r: &Resource, o: &ListOptions) -> ApiResult<Self> {
        let mut fields = o.fields.clone();
        if !fields.is_empty() {
            let known = crate::kinds::supported_field_selectors(r.group, r.resource);
            fields.rename(|field| {
                if let Some(c) = &r.custom {
                    return match c.selects(field) {
                        true => Ok(field.to_owned()),
                        false => Err(ApiError::bad_request(unsupported(r, field))),
                    };
                }
                let indexed = crate::kinds::indexed_field(r.group, r.resource, field);
                if known.contains(&field) || known.contains(&indexed) {
                    Ok(indexed.to_owned())
                } else {
                    Err(ApiError::bad_request(unsupported(r, field)))
                }
            })?;
        }
        let converted = r.custom.as_ref().and_then(|c| {
            if !matches!(c.definition.conversion, Conversion::Webhook(_)) {
                return None;
            }
            let others = fields.take_others(&["metadata.name", "metadata.namespace"]);
            (!others.is_empty()).then(|| Converted { served: Arc::clone(c), fields: others })
        });
        Ok(Self { labels: o.labels.clone(), fields, converted })
    }

    /// What must be looked up in objects as the client gets them, if anything.
    pub fn converted(&self) -> Option<&Converted> {
        self.converted.as_ref()
    }

    /// Whether everything is chosen.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty() && self.converted.is_none()
    }

    /// The one name that can be chosen, where a field selector says so.
    pub fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    /// The one namespace that can be chosen.
    pub fn namespace(&self) -> Option<&str> {
        self.fields.exact("metadata.namespace")
    }

    /// Whether an object is chosen, as far as that shows without [`Self::converted`].
    pub fn matches(&self, o: &Object) -> bool {
        self.labels.matches(|k| o.labels.get(k)) && self.fields.matches(|f| o.fields.get(f))
    }

    /// The filter as the cache's watches take it; none where everything is chosen, and where the cache cannot know.
    pub fn predicate(&self) -> Option<Predicate> {
        if self.is_empty() || self.converted.is_some() {
            return None;
        }
        let filter = self.clone();
        Some(Arc::new(move |o: &Object| filter.matches(o)))
    }
}

fn unsupported(r: &Resource, field: &str) -> String {
    match r.custom {
        Some(_) => format!("field label not supported: {field}"),
        None => crate::kinds::fields::unsupported(r.group, r.version, r.resource, field),
    }
}
