//! Objects as webhooks see them. Plugins work on objects in the storage version (custom resources: in that of the
//! request); a webhook is shown the version that
//! the request or, by `matchPolicy: Equivalent`, the webhook's rules speak of, and what it changes is brought back.

use std::sync::Arc;

use proto::json::Strictness;
use proto::schema::TypeRef;
use serde_json::Value;

use super::review::{Kind, Resource as ReviewResource};
use super::rules::Gvr;
use crate::admission::Attributes;
use crate::http::verbs::scale;
use crate::registry::resource::{Resource, api_version};
use crate::registry::{Registry, codec, object};
use crate::status::{ApiError, ApiResult};

/// A resource in the version in which a webhook is asked.
#[derive(Clone)]
pub struct View {
    pub resource: ReviewResource,
    /// Of the object, which for some subresources is not the resource's.
    pub kind: Kind,
    /// Given where the object is one of the resource's own kind, which has versions.
    own: Option<Arc<Resource>>,
    /// The resource, whatever the object is.
    of: Arc<Resource>,
}

impl View {
    pub fn gvr(&self) -> Gvr<'_> {
        Gvr {
            group: &self.resource.group,
            version: &self.resource.version,
            resource: &self.resource.resource,
        }
    }

    /// The type of the object; none where it is not known.
    pub fn schema(&self) -> Option<TypeRef> {
        match &self.own {
            Some(r) => Some(r.schema.clone()),
            None => proto::schema::by_gvk(&self.kind.group, &self.kind.version, &self.kind.kind)
                .map(TypeRef::Static),
        }
    }

    fn new(r: &Arc<Resource>, subresource: &str) -> Self {
        let own = Kind { group: r.group.to_owned(), version: r.version.to_owned(), kind: r.kind.to_owned() };
        let sub = r.subresource(subresource).map(|s| &s.kind).filter(|k| k.kind != r.kind);
        let kind = match sub {
            Some(k) if k.version.is_empty() => Kind { kind: k.kind.to_owned(), ..own },
            Some(k) => {
                Kind { group: k.group.to_owned(), version: k.version.to_owned(), kind: k.kind.to_owned() }
            }
            None => own,
        };
        Self {
            resource: ReviewResource {
                group: r.group.to_owned(),
                version: r.version.to_owned(),
                resource: r.resource.to_owned(),
            },
            kind,
            own: sub.is_none().then(|| Arc::clone(r)),
            of: Arc::clone(r),
        }
    }
}

/// The view of the request itself.
pub fn requested(registry: &Registry, attrs: &Attributes<'_>) -> ApiResult<View> {
    let table = registry.table();
    let r = table.get(attrs.group, attrs.version, attrs.resource).ok_or_else(|| {
        let version = api_version(attrs.group, attrs.version);
        ApiError::internal(format!("{version} {} is not served", attrs.resource))
    })?;
    Ok(View::new(r, attrs.subresource))
}

/// Other names under which the same stored objects are served: other versions, and for events another group.
pub fn equivalents(registry: &Registry, attrs: &Attributes<'_>) -> Vec<View> {
    let table = registry.table();
    let Some(r) = table.get(attrs.group, attrs.version, attrs.resource) else { return Vec::new() };
    let Some(storage) = &r.storage else { return Vec::new() };
    let same = |x: &&Arc<Resource>| {
        !Arc::ptr_eq(x, r) && x.storage.as_ref().is_some_and(|s| Arc::ptr_eq(s, storage))
    };
    let other = match (attrs.group, attrs.resource) {
        ("", "events") => Some("events.k8s.io"),
        ("events.k8s.io", "events") => Some(""),
        _ => None,
    };
    std::iter::once(attrs.group)
        .chain(other)
        .filter_map(|g| table.group(g))
        .flat_map(|g| &g.versions)
        .filter_map(|v| v.resource(attrs.resource))
        .filter(same)
        .filter(|x| attrs.subresource.is_empty() || x.subresource(attrs.subresource).is_some())
        .map(|x| View::new(x, attrs.subresource))
        .collect()
}

/// The object as the webhook sees it.
pub async fn show(attrs: &Attributes<'_>, view: &View, o: &Value) -> ApiResult<Value> {
    let mut shown = match (&view.own, &view.of) {
        (Some(r), _) => match &r.custom {
            Some(c) => c.definition.convert(o.clone(), c.version()).await?,
            None => {
                let mut v = o.clone();
                codec::from_storage(r, &mut v)?;
                v
            }
        },
        (None, r) if attrs.subresource == "scale" => scale::of_object(r, o)?,
        (None, _) => o.clone(),
    };
    object::set_type(&mut shown, &api_version(&view.kind.group, &view.kind.version), &view.kind.kind);
    Ok(shown)
}

/// Brings an object that a webhook changed back: read as its kind, in the storage version, with defaults. `before` is
/// the object in the storage version that was shown.
pub async fn take(
    registry: &Registry,
    attrs: &Attributes<'_>,
    view: &View,
    patched: &Value,
    before: &Value,
) -> ApiResult<Value> {
    let internal = |e: String| ApiError::internal(e);
    let sent = (text(patched, "apiVersion"), text(patched, "kind"));
    let expected = api_version(&view.kind.group, &view.kind.version);
    if sent != (expected.as_str(), view.kind.kind.as_str()) {
        return Err(internal(format!(
            "a webhook may not change apiVersion and kind: {expected} {} became {} {}",
            view.kind.kind, sent.0, sent.1
        )));
    }
    if let Some(r) = &view.own {
        let mut o = read_changed(r, patched).map_err(internal)?;
        registry.to_hub(r, &mut o)?;
        // Custom resources are worked on in the version of the request.
        if r.custom.is_some() {
            let requested = requested(registry, attrs)?.of;
            if let Some(c) = requested.custom.as_ref().filter(|_| requested.version != r.version) {
                o = c.definition.convert(o, c.version()).await?;
                registry.to_hub(&requested, &mut o)?;
            }
        }
        return Ok(o);
    }
    let Some(schema) = proto::schema::by_gvk(&view.kind.group, &view.kind.version, &view.kind.kind) else {
        return Err(internal(format!("the type table has no {}", view.kind.kind)));
    };
    let decoded = proto::json::normalize(patched, schema, Strictness::Ignore)
        .map_err(|e| internal(e.message(&view.kind.kind, &view.kind.version, &view.kind.kind, b"")))?;
    let mut o = decoded.value;
    if attrs.subresource == "scale" {
        let mut whole = before.clone();
        scale::into_object(&view.of, &mut whole, &o)?;
        return Ok(whole);
    }
    object::set_type(&mut o, &expected, &view.kind.kind);
    Ok(o)
}

fn text<'a>(o: &'a Value, field: &str) -> &'a str {
    o.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// An object that was changed inside the server, in `r`'s version, as if a client had sent it.
fn read_changed(r: &Resource, o: &Value) -> Result<Value, String> {
    let mut o = match &r.custom {
        Some(c) => {
            let mut o = o.clone();
            c.coerce(&mut o, Strictness::Ignore)?;
            o
        }
        None => {
            let decoded = proto::json::normalize(o, &r.schema, Strictness::Ignore);
            decoded.map_err(|e| e.message(r.kind, r.version, r.kind, b""))?.value
        }
    };
    object::set_type(&mut o, &r.api_version(), r.kind);
    Ok(o)
}
