//! The verbs on stored objects, between HTTP and the registry: options in, negotiated answers out.

pub mod binding;
mod component_status;
pub mod delete;
pub mod eviction;
pub mod patch;
pub mod review;
pub mod scale;
pub mod token;

use std::sync::Arc;

use serde_json::Value;

use super::negotiate::{self, Offer, Shape, Wanted};
use super::router::Call;
use super::{Response, respond};
use crate::admission::RequestOptions;
use crate::app::App;
use crate::registry::options::{self, ListOptions, WriteKind, WriteOptions};
use crate::registry::read::freshness;
use crate::registry::resource::Resource;
use crate::registry::select::Filter;
use crate::registry::write::{WriteCx, Written};
use crate::registry::{codec, empties, lists, object, render};
use crate::status::{ApiError, ApiResult};
use crate::table::Include;

/// The forms in which objects of the resource can be given.
pub fn offer(r: &Resource, subresource: &str) -> Offer {
    match subresource {
        _ if r.custom.is_some() => Offer::Custom,
        "ephemeralcontainers" | "resize" => Offer::Metadata,
        _ => Offer::Transformed,
    }
}

/// GET of one object (or of a subresource that shows the object).
pub async fn get(app: &App, call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    if call.query.flag("export") {
        return Err(ApiError::bad_request(
            "the export parameter, deprecated since v1.14, is no longer supported",
        ));
    }
    let version = call.query.get("resourceVersion").unwrap_or_default();
    if !version.is_empty() && version.parse::<u64>().is_err() {
        return Err(ApiError::unknown(options::not_a_version(version).to_string()));
    }
    let freshness = freshness(version);
    let stored = app.registry.get_at(r, namespace(r, &call), &call.info.name, freshness).await?;
    fits(r, wanted, false)?;
    render::object_answer(r, &stored, 200, wanted, include)
}

/// Refuses metadata of a list where there is one object, and the other way round. Asked once there is an answer:
/// whatever went wrong before is told first.
pub(super) fn fits(r: &Resource, wanted: Wanted, list: bool) -> ApiResult<()> {
    fits_type(wanted, list, || go_type(r, list))
}

/// The same of what upstream holds in a type of this name.
fn fits_type(wanted: Wanted, list: bool, found: impl Fn() -> String) -> ApiResult<()> {
    let Shape::Metadata { list: asked, .. } = wanted.shape else { return Ok(()) };
    if asked == list {
        return Ok(());
    }
    let (asked, is) = match asked {
        true => ("PartialObjectMetadataList", "is not a list"),
        false => ("PartialObjectMetadata", "is a list"),
    };
    let found = found();
    Err(ApiError::not_acceptable(format!("you requested {asked}, but the requested object {is} ({found})")))
}

/// Upstream's internal type of an object or list, which its messages name.
fn go_type(r: &Resource, list: bool) -> String {
    let list = if list { "List" } else { "" };
    if r.custom.is_some() {
        return format!("*unstructured.Unstructured{list}");
    }
    let package = match r.storage.as_ref().map_or(r.group, |s| s.group) {
        "" => "core",
        group => group.split('.').next().unwrap_or_default(),
    };
    format!("*{package}.{}{list}", r.kind)
}

/// The namespace in which the object lives; empty for cluster-scoped ones.
pub fn namespace<'a>(r: &Resource, call: &'a Call<'_>) -> &'a str {
    if r.namespaced { &call.info.namespace } else { "" }
}

/// GET of a collection.
pub async fn list(app: &App, call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let wanted = call.wanted(offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    let options = ListOptions::parse(&call.query, false)?;
    let filter = Filter::new(r, &options)?;
    let page = app.registry.list(r, namespace(r, &call), &options, &filter).await?;
    fits(r, wanted, true)?;
    lists::answer(r, page.items, &page.meta, wanted, include)
}

/// GET with `watch`.
pub async fn watch(app: &App, call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let wanted = call.wanted(offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    let options = ListOptions::parse(&call.query, true)?;
    let name = if call.info.parts.len() > 1 { call.info.name.as_str() } else { "" };
    app.registry.watch(r, namespace(r, &call), name, &options, wanted, include).await
}

/// Name under which managed fields are recorded.
pub fn manager(call: &Call<'_>, options: &WriteOptions) -> String {
    let agent = call.parts.headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok());
    crate::patch::manager_name(&options.field_manager, agent.unwrap_or_default())
}

/// POST to a collection.
pub async fn create(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let manager_of = WriteOptions::parse(&call.query, WriteKind::Create)?;
    let manager = manager(&call, &manager_of);
    let body = call.read_body().await?;
    let mut o = codec::decode_body(r, &body, format, manager_of.field_validation, &mut call.warnings)?;
    app.registry.to_hub(r, &mut o)?;
    let namespace = if r.namespaced { call.info.namespace.as_str() } else { "" };
    let mut cx = WriteCx {
        user: &call.user,
        manager: &manager,
        subresource: "",
        dry_run: manager_of.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Write(&manager_of, WriteKind::Create),
        warnings: call.warnings,
    };
    let done = app.registry.create(r, &mut cx, namespace, o).await;
    let done = done.map_err(|e| empties::shown(e, &body).warned(&mut cx.warnings))?;
    answer_written(r, &done, wanted, include, &cx.warnings)
}

/// The answer to a create or update.
pub fn answer_written(
    r: &Resource,
    done: &Written,
    wanted: Wanted,
    include: Include,
    warnings: &[String],
) -> ApiResult<Response> {
    fits(r, wanted, false)?;
    let code = if done.created { 201 } else { 200 };
    let mut answer = render::object_answer(r, &done.stored, code, wanted, include)?;
    respond::warn(&mut answer, warnings);
    Ok(answer)
}

/// PUT of an object or of one of its subresources.
pub async fn update(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
    let format = negotiate::content_type(&call.parts.headers)?;
    let options = WriteOptions::parse(&call.query, WriteKind::Update)?;
    let manager = manager(&call, &options);
    let body = call.read_body().await?;
    let read = |warnings: &mut Vec<String>| -> ApiResult<Value> {
        let mut o = codec::decode_body(r, &body, format, options.field_validation, warnings)?;
        check_name(r, &mut o, call.info).map_err(|e| e.warned(warnings))?;
        app.registry.to_hub(r, &mut o)?;
        Ok(o)
    };
    let mut sent = Some(read(&mut call.warnings)?);
    let namespace = if r.namespaced { call.info.namespace.as_str() } else { "" };
    let mut cx = WriteCx {
        user: &call.user,
        manager: &manager,
        subresource: &call.info.subresource,
        dry_run: options.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Write(&options, WriteKind::Update),
        warnings: call.warnings,
    };
    let may_create = r.rules.create_on_update && call.info.subresource.is_empty();
    // Seldom is it asked for again, so that no copy is kept.
    let mut change = |_: Option<&Value>| sent.take().map_or_else(|| read(&mut Vec::new()), Ok);
    let done = app.registry.update(r, &mut cx, namespace, &call.info.name, may_create, &mut change).await;
    let done = done.map_err(|e| empties::shown(e, &body).warned(&mut cx.warnings))?;
    answer_written(r, &done, wanted, include, &cx.warnings)
}

/// The object in the body must be the one in the path.
pub fn check_name(r: &Resource, o: &mut Value, info: &crate::request::RequestInfo) -> ApiResult<()> {
    let ns = object::namespace(o);
    if r.namespaced && !ns.is_empty() && ns != info.namespace {
        return Err(ApiError::bad_request(
            "the namespace of the provided object does not match the namespace sent on the request",
        ));
    }
    let sent = object::name(o);
    if sent.is_empty() {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({} based on URL) was undeterminable: name must be provided",
            info.name
        )));
    }
    if sent != info.name {
        return Err(ApiError::bad_request(format!(
            "the name of the object ({sent}) does not match the name on the URL ({})",
            info.name
        )));
    }
    Ok(())
}

/// The answer with an object that is not stored.
pub fn answer_virtual(
    schema: &proto::schema::TypeDef,
    api_version: &str,
    kind: &str,
    code: u16,
    wanted: Wanted,
    o: &Value,
    warnings: &[String],
) -> ApiResult<Response> {
    fits_type(wanted, false, || {
        format!("*{}.{kind}", api_version.split(['.', '/']).next().unwrap_or_default())
    })?;
    let raw = proto::wire::to_proto(o, schema)
        .map_err(|e| ApiError::internal(format!("unable to encode a {kind}: {e}")))?;
    let mut answer = if let Shape::Metadata { beta, .. } = wanted.shape {
        respond::partial(code, wanted, o, beta)?
    } else if wanted.format == negotiate::Format::Protobuf {
        let media = negotiate::Format::Protobuf.media_type();
        respond::bytes(code, media, proto::envelope::wrap(api_version, kind, &raw))
    } else {
        // Through the wire form, so that the text is the same as for stored objects.
        let mut out = Vec::new();
        proto::wire::proto_to_json(&raw, schema, api_version, kind, &mut out)
            .map_err(|e| ApiError::internal(format!("unable to write a {kind}: {e}")))?;
        respond::json_text(code, wanted, out.into())
    };
    respond::warn(&mut answer, warnings);
    Ok(answer)
}

/// The answer with a list of objects that are not stored.
pub fn list_virtual(
    r: &Resource,
    items: Vec<Value>,
    wanted: Wanted,
    include: Include,
    warnings: &[String],
) -> ApiResult<Response> {
    fits(r, wanted, true)?;
    let mut answer = match wanted.shape {
        Shape::Metadata { beta, .. } => {
            let items: Vec<Value> = items.iter().map(|o| render::partial(o, beta)).collect();
            let list = serde_json::json!({
                "kind": "PartialObjectMetadataList", "apiVersion": render::meta_version(beta), "metadata": {},
                "items": items,
            });
            respond::json(200, wanted, &list)
        }
        Shape::Table { beta } => {
            let t = crate::table::of(r, &items, serde_json::json!({}), beta, include, true);
            respond::json(200, wanted, &t)
        }
        _ if wanted.format == negotiate::Format::Protobuf => {
            let raw: Vec<Vec<u8>> = items
                .iter()
                .map(|o| proto::wire::to_proto(o, &r.schema))
                .collect::<Result<_, _>>()
                .map_err(|e| ApiError::internal(format!("unable to encode a {}: {e}", r.kind)))?;
            let meta = proto::envelope::ListMeta::default();
            let kind = format!("{}List", r.kind);
            let body = proto::envelope::list(&r.api_version(), &kind, &meta, raw.iter().map(Vec::as_slice));
            respond::bytes(200, negotiate::Format::Protobuf.media_type(), body)
        }
        _ => {
            let list = serde_json::json!({
                "kind": format!("{}List", r.kind), "apiVersion": r.api_version(), "metadata": {}, "items": items,
            });
            respond::json(200, wanted, &list)
        }
    };
    respond::warn(&mut answer, warnings);
    Ok(answer)
}
