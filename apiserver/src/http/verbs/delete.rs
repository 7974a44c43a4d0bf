//! DELETE of one object and of a collection.

use std::borrow::Cow;
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
use crate::registry::{codec, lists, object, render, yaml};
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
            let bad = |e: serde_json::Error| ApiError::bad_request(e.to_string());
            let json = match format {
                Format::Yaml => {
                    let v = yaml::first_document(body).map_err(ApiError::bad_request)?;
                    Cow::Owned(serde_json::to_vec(&v).map_err(bad)?)
                }
                _ => Cow::Borrowed(body),
            };
            let (version, kind) =
                proto::json::interpret(&json).map_err(|e| ApiError::bad_request(e.to_string()))?;
            check_kind(&version, &kind)?;
            let mut v: Value = serde_json::from_slice(&json).map_err(bad)?;
            if v.is_null() {
                v = json!({});
            }
            if let Some(o) = v.as_object_mut() {
                o.retain(|k, _| !k.eq_ignore_ascii_case("kind") && !k.eq_ignore_ascii_case("apiVersion"));
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

/// A body may say that it holds anything but options, which is an error.
fn check_kind(version: &str, kind: &str) -> ApiResult<()> {
    if version.matches('/').count() > 1 {
        return Err(ApiError::bad_request(format!("unexpected GroupVersion string: {version}")));
    }
    match kind {
        "" | "DeleteOptions" => Ok(()),
        // Kinds that upstream knows beside the options.
        "Status" if matches!(version, "" | "v1") => {
            Err(ApiError::bad_request("converting (v1.Status) to (v1.DeleteOptions): unknown conversion"))
        }
        other => {
            let version = if version.is_empty() { "meta.k8s.io/v1" } else { version };
            Err(ApiError::bad_request(format!(
                "no kind \"{other}\" is registered for version \"{version}\" in scheme \"k8s.io/apimachinery/pkg/apis/meta/internalversion/scheme/register.go:27\""
            )))
        }
    }
}

/// Deletes of a collection that one worker has on their way to the store: one after the other, each would wait for its
/// own write to disk.
const PER_WORKER: usize = 16;

/// DELETE of one object.
pub async fn delete(app: &App, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let wanted = call.wanted(super::offer(r, &call.info.subresource))?;
    let options = options(&mut call).await?;
    let cx = WriteCx {
        user: &call.user,
        manager: "",
        subresource: "",
        dry_run: options.dry_run,
        internal: false,
        applied: false,
        options: RequestOptions::Delete(&options),
        warnings: Vec::new(),
    };
    let done = app.registry.delete(r, &cx, namespace(r, &call), &call.info.name, &options).await?;
    let code = if !done.gone && options.orphan_dependents == Some(false) { 202 } else { 200 };
    let told = orphans(r, &options);
    let mut answer = if !done.gone || r.rules.returns_deleted {
        super::fits(r, wanted, false)?;
        render::object_answer(r, &done.stored, code, wanted, Include::parse(&call.query, wanted)?)?
    } else {
        success(r, wanted, &call.info.name, &done.uid)
    };
    respond::warn(&mut answer, &done.warnings);
    respond::warn(&mut answer, &told);
    Ok(answer)
}

/// Jobs leave their pods behind unless somebody says otherwise, of which their clients are told.
fn orphans(r: &Resource, options: &DeleteOptions) -> Vec<String> {
    let silent = options.propagation.is_none() && options.orphan_dependents.is_none();
    if (r.group, r.version, r.resource) != ("batch", "v1", "jobs") || !silent {
        return Vec::new();
    }
    let advice = "child pods are preserved by default when jobs are deleted; set propagationPolicy=Background to \
                  remove them or set propagationPolicy=Orphan to suppress this warning";
    vec![advice.to_owned()]
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
    let wanted = call.wanted(super::offer(r, &call.info.subresource))?;
    let include = Include::parse(&call.query, wanted)?;
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
        .buffer_unordered(app.settings.delete_collection_workers.saturating_mul(PER_WORKER))
        .collect()
        .await;
    let warnings = results.into_iter().collect::<ApiResult<Vec<_>>>()?.concat();
    super::fits(r, wanted, true)?;
    let mut answer = lists::answer(r, page.items, &page.meta, wanted, include)?;
    respond::warn(&mut answer, &warnings);
    respond::warn(&mut answer, &orphans(r, &options));
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
