//! Whether a request is a policy's or a binding's, and in which version it is shown.

use std::sync::{Arc, OnceLock};

use serde_json::Value;

use crate::admission::webhook::forms::{self, View};
use crate::admission::webhook::rules::Rule;
use crate::admission::{Attributes, Operation};
use crate::cache::Freshness;
use crate::lookup::{items, text};
use crate::registry::labels::Selector;
use crate::registry::{Registry, object, storage};
use crate::status::{ApiError, ApiResult};

/// `MatchResources`, made ready.
#[derive(Debug)]
pub struct Matching {
    rules: Vec<NamedRule>,
    excluded: Vec<NamedRule>,
    /// `matchPolicy: Equivalent`
    equivalent: bool,
    /// None: the selector cannot be read.
    namespaces: Option<Selector>,
    objects: Option<Selector>,
}

#[derive(Debug)]
struct NamedRule {
    rule: Rule,
    /// Empty: whatever the name.
    names: Vec<String>,
}

/// The request, as far as matching looks at it. `name` is the object's.
pub struct Request<'a> {
    registry: &'a Registry,
    attrs: &'a Attributes<'a>,
    requested: &'a View,
    object: Option<&'a Value>,
    /// Other names of the resource, once somebody asked.
    equivalents: OnceLock<Vec<View>>,
}

impl<'a> Request<'a> {
    pub fn new(
        registry: &'a Registry,
        attrs: &'a Attributes<'a>,
        requested: &'a View,
        object: Option<&'a Value>,
    ) -> Self {
        Self { registry, attrs, requested, object, equivalents: OnceLock::new() }
    }

    fn equivalents(&self) -> &[View] {
        self.equivalents.get_or_init(|| forms::equivalents(self.registry, self.attrs))
    }
}

impl Matching {
    /// From a `MatchResources`.
    pub fn new(m: &Value) -> Self {
        let rules = |field: &str| {
            let one = |r: &Value| NamedRule {
                rule: Rule::from_value(r),
                names: items(r, "/resourceNames")
                    .iter()
                    .filter_map(Value::as_str)
                    .map(str::to_owned)
                    .collect(),
            };
            items(m, field).iter().map(one).collect()
        };
        let selector = |field: &str| match m.get(field) {
            None | Some(Value::Null) => Some(Selector::default()),
            Some(s) => Selector::from_value(s),
        };
        Self {
            rules: rules("/resourceRules"),
            excluded: rules("/excludeResourceRules"),
            equivalent: text(m, "/matchPolicy") != "Exact",
            namespaces: selector("namespaceSelector"),
            objects: selector("objectSelector"),
        }
    }

    /// The view in which the request matches, or none where it does not.
    pub async fn view(&self, r: &Request<'_>) -> ApiResult<Option<View>> {
        // A failing look-up matters only where the rules match.
        let namespace = self.namespace(r).await;
        if matches!(namespace, Ok(false)) || !self.object(r)? {
            return Ok(None);
        }
        if self.by_rules(&self.excluded, r).is_some() {
            return Ok(None);
        }
        let matched = match self.rules.is_empty() {
            true => Some(r.requested.clone()),
            false => self.by_rules(&self.rules, r),
        };
        if matched.is_some() {
            namespace?;
        }
        Ok(matched)
    }

    fn by_rules(&self, rules: &[NamedRule], r: &Request<'_>) -> Option<View> {
        if rules.is_empty() {
            return None;
        }
        let name = r.attrs.object_name(r.object);
        let named = |rule: &NamedRule| rule.names.is_empty() || rule.names.iter().any(|n| n == name);
        if rules.iter().any(|x| x.rule.matches(r.attrs, r.requested.gvr()) && named(x)) {
            return Some(r.requested.clone());
        }
        if !self.equivalent {
            return None;
        }
        let others = r.equivalents();
        rules
            .iter()
            .filter(|x| named(x))
            .find_map(|x| others.iter().find(|v| x.rule.matches(r.attrs, v.gvr())).cloned())
    }

    async fn namespace(&self, r: &Request<'_>) -> ApiResult<bool> {
        let attrs = r.attrs;
        let about_namespace = attrs.group.is_empty() && attrs.resource == "namespaces";
        if attrs.namespace.is_empty() && !about_namespace {
            return Ok(true);
        }
        let selector = self.namespaces.as_ref().ok_or_else(|| unreadable("namespaceSelector"))?;
        if selector.is_empty() {
            return Ok(true);
        }
        let written = matches!(attrs.operation, Operation::Create | Operation::Update);
        if about_namespace && attrs.subresource.is_empty() && written {
            return Ok(r.object.is_some_and(|o| selects(selector, o)));
        }
        let name = match about_namespace {
            true => attrs.object_name(r.object),
            false => attrs.namespace,
        };
        let namespace = namespace(r.registry, name).await?;
        Ok(selects(selector, &namespace))
    }

    fn object(&self, r: &Request<'_>) -> ApiResult<bool> {
        let selector = self.objects.as_ref().ok_or_else(|| unreadable("objectSelector"))?;
        if selector.is_empty() {
            return Ok(true);
        }
        let has = |o: Option<&Value>| o.is_some_and(|o| o.get("metadata").is_some() && selects(selector, o));
        Ok(has(r.object) || has(r.attrs.old))
    }
}

fn unreadable(field: &str) -> ApiError {
    ApiError::internal(format!("{field} cannot be read"))
}

fn selects(selector: &Selector, o: &Value) -> bool {
    let labels = object::meta(o).get("labels").and_then(Value::as_object);
    selector.matches(|k| labels.and_then(|l| l.get(k)).and_then(Value::as_str))
}

/// A namespace, from the watch cache; where it is not in there yet, from the store.
pub async fn namespace(registry: &Registry, name: &str) -> ApiResult<Arc<Value>> {
    let table = registry.table();
    let namespaces = table
        .get("", "v1", "namespaces")
        .and_then(|r| r.storage.as_ref())
        .ok_or_else(|| ApiError::internal("namespaces are not served"))?;
    let key = namespaces.key("", name);
    for freshness in [Freshness::Any, Freshness::Newest] {
        let found = namespaces.cache.get(&key, freshness).await.map_err(|e| storage::store_error(&e))?;
        if let Some(o) = found {
            return Ok(Arc::new(namespaces.decode_bytes(&o.key, &o.bytes, o.mod_revision)?));
        }
    }
    Err(ApiError::not_found("", "namespaces", name))
}
