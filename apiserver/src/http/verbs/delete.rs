//! DELETE of one object and of a collection.

use std::sync::Arc;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::namespace;
use crate::admission::RequestOptions;
use crate::app::App;
use crate::http::negotiate::{self, Format, Wanted};
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::registry::options::{DeleteOptions, FieldValidation, ListOptions};
use crate::registry::resource::Resource;
use crate::registry::select::Filter;
use crate::registry::write::WriteCx;
use crate::registry::{codec, lists, object, render};
use crate::status::{ApiError, ApiResult};
use crate::table::Include;

/// Options from the body, or from the query where there is none.
async fn options(call: &mut Call<'_>) -> ApiResult<DeleteOptions> {
    let body = call.read_body().await?;
    if body.is_empty() {
        return DeleteOptions::from_query(&call.query);
    }
    let format = negotiate::content_type(&call.parts.headers)?;
    decode(&body, format)
}

/// Decodes a `DeleteOptions` body.
pub fn decode(body: &[u8], format: Format) -> ApiResult<DeleteOptions> {
    let Some(schema) = proto::schema::by_name("io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions") else {
        return Err(ApiError::internal("the type table has no DeleteOptions"));
    };
    // Every group has the kind under its own name: whichever the client sends is taken.
    let value = match format {
        Format::Protobuf => {
            let env = proto::envelope::unwrap(body).map_err(|e| ApiError::bad_request(e.to_string()))?;
            proto::wire::from_proto(env.raw, schema).map_err(|e| ApiError::bad_request(e.to_string()))?
        }
        _ => {
            let mut v: Value = match format {
                Format::Yaml => {
                    serde_yaml::from_slice(body).map_err(|e| ApiError::bad_request(e.to_string()))?
                }
                _ => serde_json::from_slice(body).map_err(|e| ApiError::bad_request(e.to_string()))?,
            };
            let kind = v.get("kind").and_then(Value::as_str).unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" {
                return Err(ApiError::bad_request("decoded object cannot be converted to DeleteOptions"));
            }
            object::set_type(&mut v, "v1", "DeleteOptions");
            let json = serde_json::to_vec(&v).map_err(|e| ApiError::bad_request(e.to_string()))?;
            codec::decode_as(
                schema,
                ("", "v1", "DeleteOptions"),
                &json,
                Format::Json,
                FieldValidation::Ignore,
                &mut Vec::new(),
            )?
        }
    };
    DeleteOptions::from_value(&value)
}

/// DELETE of one object.
pub async fn delete(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(super::offer(r))?;
    let options = options(&mut call).await?;
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: "",
        dry_run: options.dry_run,
        internal: false,
        raw: false,
        applied: false,
        options: RequestOptions::Delete(&options),
        warnings: Vec::new(),
    };
    let done = app.registry.delete(r, &cx, namespace(r, &call), &call.info.name, &options).await?;
    let code = if !done.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
    let mut answer = if !done.gone || r.rules.returns_deleted {
        render::object_answer(r, &done.stored, code, wanted, Include::parse(&call.query)?)?
    } else {
        success(r, wanted, &call.info.name, &done.uid)
    };
    respond::warn(&mut answer, &done.warnings);
    Ok(answer)
}

fn success(r: &Resource, wanted: Wanted, name: &str, uid: &str) -> Response {
    let mut details = json!({"name": name, "kind": r.resource, "uid": uid});
    if !r.group.is_empty() {
        details["group"] = r.group.into();
    }
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
    });
    respond::meta_object(200, wanted, "v1", "Status", &status)
}

/// DELETE of a collection.
pub async fn delete_collection(app: &App, mut call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let wanted = call.wanted(super::offer(r))?;
    let include = Include::parse(&call.query)?;
    let list = ListOptions::parse(&call.query, false)?;
    let filter = Filter::new(r, &list)?;
    let options = options(&mut call).await?;
    let ns = namespace(r, &call);
    let page = app.registry.list(r, ns, &list, &filter).await?;
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: "",
        dry_run: options.dry_run,
        internal: false,
        raw: false,
        applied: false,
        options: RequestOptions::Delete(&options),
        warnings: Vec::new(),
    };
    let names: Vec<(String, String)> = page
        .items
        .iter()
        .map(|s| {
            let rel = s.key.strip_prefix(&r.storage().map(|s| s.prefix.clone()).unwrap_or_default());
            let rel = rel.unwrap_or_default();
            match rel.split_once('/') {
                Some((ns, name)) if r.namespaced => (ns.to_owned(), name.to_owned()),
                _ => (String::new(), rel.to_owned()),
            }
        })
        .collect();
    let mut pending = Vec::with_capacity(names.len());
    for (ns, name) in &names {
        pending.push(delete_one(app, &cx, r, ns, name, &options));
    }
    let results: Vec<ApiResult<Vec<String>>> = futures::stream::iter(pending)
        .buffer_unordered(app.settings.delete_collection_workers)
        .collect()
        .await;
    let warnings = results.into_iter().collect::<ApiResult<Vec<_>>>()?.concat();
    let mut answer = lists::answer(r, page.items, &page.meta, wanted, include)?;
    respond::warn(&mut answer, &warnings);
    Ok(answer)
}

/// One delete of a collection, with what it warns of; that somebody else was faster is fine.
async fn delete_one(
    app: &App,
    cx: &WriteCx<'_>,
    r: &Resource,
    namespace: &str,
    name: &str,
    options: &DeleteOptions,
) -> ApiResult<Vec<String>> {
    match app.registry.delete(r, cx, namespace, name, options).await {
        Ok(done) => Ok(done.warnings),
        Err(e) if e.code == 404 => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}
