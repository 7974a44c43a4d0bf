//! Which stored objects a label and a field selector choose.

use std::sync::Arc;

use super::options::ListOptions;
use super::resource::Resource;
use super::{fields, labels};
use crate::cache::{Object, Predicate};
use crate::status::{ApiError, ApiResult};

/// The selectors of one list or watch.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    labels: labels::Selector,
    fields: fields::Selector,
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
        Ok(Self { labels: o.labels.clone(), fields })
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

    /// Whether an object is chosen.
    pub fn matches(&self, o: &Object) -> bool {
        self.labels.matches(|k| o.labels.get(k)) && self.fields.matches(|f| o.fields.get(f))
    }

    /// The filter as the cache's watches take it; none where everything is chosen.
    pub fn predicate(&self) -> Option<Predicate> {
        if self.is_empty() {
            return None;
        }
        let filter = self.clone();
        Some(Arc::new(move |o: &Object| filter.matches(o)))
    }
}

fn unsupported(r: &Resource, field: &str) -> String {
    match (r.group, r.resource) {
        // These kinds convert field labels themselves, others by the general rule.
        _ if r.custom.is_some() => format!("field label not supported: {field}"),
        ("", _) | ("batch", "jobs") => format!("field label not supported: {field}"),
        _ => format!(
            "\"{field}\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\""
        ),
    }
}
