//! From an authorized request to its handler.

use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use http::request::Parts;
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::negotiate::{self, Offer, Route, Wanted};
use super::query::Query;
use super::{Response, respond, verbs};
use crate::app::App;
use crate::metrics::parts;
use crate::registry::method_not_allowed;
use crate::registry::names::path_segment;
use crate::registry::resource::Resource;
use crate::request::{RequestInfo, UserInfo};
use crate::status::{ApiError, ApiResult};
use crate::{aggregator, connect, discovery};

/// Bodies may have this many bytes.
pub const BODY_LIMIT: usize = 3 * 1024 * 1024;

/// One request on its way through a handler.
pub struct Call<'a> {
    pub parts: Parts,
    /// None once it was read.
    pub body: Option<Incoming>,
    /// The body, where it was read.
    pub bytes: Bytes,
    pub info: &'a RequestInfo,
    pub query: Query,
    pub user: UserInfo,
    pub pretty: bool,
    pub warnings: Vec<String>,
}

impl Call<'_> {
    /// The format and shape that the client wants.
    pub fn wanted(&self, offer: Offer) -> ApiResult<Wanted> {
        // Custom resources have no routes of their own.
        if offer != Offer::Custom {
            let listed = matches!(self.info.verb.as_str(), "list" | "watch");
            negotiate::routed(&self.parts.headers, if listed { Route::List } else { Route::Any })?;
        }
        negotiate::accept(&self.parts.headers, self.pretty, offer)
    }

    /// Reads the whole body, the first time; it is kept.
    pub async fn read_body(&mut self) -> ApiResult<Bytes> {
        if let Some(b) = self.body.take() {
            self.bytes = read(b).await?;
            let kind = self.parts.headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
            crate::audit::request_body(&self.bytes, kind.unwrap_or_default());
        }
        Ok(self.bytes.clone())
    }
}

/// Reads a whole body.
async fn read(body: Incoming) -> ApiResult<Bytes> {
    match Limited::new(body, BODY_LIMIT).collect().await {
        Ok(b) => Ok(b.to_bytes()),
        Err(e) if e.is::<LengthLimitError>() => {
            Err(ApiError::too_large(format!("Request entity too large: limit is {BODY_LIMIT}")))
        }
        Err(e) => Err(ApiError::bad_request(format!("the body of the request could not be read: {e}"))),
    }
}

/// The work of one handler, with no more state than it needs.
type Answer<'a> = Pin<Box<dyn Future<Output = ApiResult<Response>> + Send + 'a>>;

/// Answers an authorized request.
pub async fn route(app: &Arc<App>, call: Call<'_>) -> ApiResult<Response> {
    let info = call.info;
    if let Some(service) = app.aggregator.target(info) {
        return Ok(Box::pin(aggregator::proxy::answer(app, call, &service)).await);
    }
    if !info.is_resource {
        return Box::pin(discovery::paths::answer(app, call)).await;
    }
    let table = app.registry.table();
    if !table.serves(&info.api_group, &info.api_version) {
        if table.is_builtin(&info.api_group) {
            return Err(ApiError::no_such_path());
        }
        return Ok(respond::text(404, "404 page not found\n"));
    }
    let Some(r) = table.get(&info.api_group, &info.api_version, &info.resource) else {
        return Err(ApiError::no_such_path());
    };
    let r = Arc::clone(r);
    drop(table);
    check_scope(&r, info)?;
    // Versions of custom resources may be deprecated by their definition.
    let warning = r.custom.as_ref().and_then(|c| c.warning()).map(str::to_owned);
    let mut answer = dispatch(app, call, &r).await?;
    if let Some(w) = warning {
        respond::warn(&mut answer, &[w]);
    }
    Ok(answer)
}

async fn dispatch(app: &Arc<App>, mut call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let info = call.info;
    if !connect::is_connecting(&info.subresource) {
        // Read whatever comes of it: a connection with an unread body cannot be used again.
        let size = call.read_body().await?.len();
        let verb = ["create", "update", "patch", "delete"].into_iter().find(|v| info.verb == *v);
        if let Some(v) = verb.filter(|_| size > 0) {
            parts::body(r.group, r.resource, v, size);
        }
    }
    if info.subresource.is_empty() {
        if info.parts.len() > 2 {
            return Err(ApiError::no_such_path());
        }
        return main(app, call, r).await;
    }
    subresource(app, call, r).await
}

/// Namespaced resources are listed everywhere but named and created only in a namespace; others only outside.
fn check_scope(r: &Resource, info: &RequestInfo) -> ApiResult<()> {
    let named = info.parts.len() > 1;
    // No namespace holds namespaces, and no name holds a slash.
    let nested = info.resource == "namespaces" && !info.namespace.is_empty() && !named;
    if nested || info.verb == "proxy" || info.name.contains('/') && named {
        return Err(ApiError::no_such_path());
    }
    // Where nothing can be done with one object, none has a path.
    let on_one = ["get", "update", "patch", "delete"].iter().any(|v| r.has_verb(v));
    if named && info.subresource.is_empty() && !on_one {
        return Err(ApiError::no_such_path());
    }
    let in_namespace = !info.namespace.is_empty() && info.resource != "namespaces";
    if r.namespaced && !in_namespace && named {
        return Err(ApiError::no_such_path());
    }
    if !r.namespaced && in_namespace {
        return Err(ApiError::no_such_path());
    }
    Ok(())
}

async fn main(app: &Arc<App>, call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let info = call.info;
    let named = info.parts.len() > 1;
    let verb = match info.verb.as_str() {
        // A selector for one name makes no get out of a list.
        "get" if !named => "list",
        v => v,
    };
    let fits = match verb {
        "create" => !named && (!r.namespaced || !info.namespace.is_empty()),
        "list" => !named,
        "deletecollection" => !named && (!r.namespaced || !info.namespace.is_empty()),
        "get" | "update" | "patch" | "delete" => named,
        "watch" => true,
        _ => false,
    };
    // Nothing but proxies answers to HEAD, which counts as a get elsewhere.
    if !fits || !r.has_verb(verb) || call.parts.method == Method::HEAD {
        return Err(method_not_allowed());
    }
    if let Err(why) = path_segment(&info.name)
        && named
    {
        let name = &info.name;
        let why = why.join(";");
        return Err(ApiError::bad_request(format!("Name parameter invalid: {name:?}: {why}")));
    }
    let answer: Answer<'_> = match verb {
        _ if r.storage.is_none() => Box::pin(verbs::review::answer(app, call, r)),
        "get" => Box::pin(verbs::get(app, call, r)),
        "list" => Box::pin(verbs::list(app, call, r)),
        "watch" => Box::pin(verbs::watch(app, call, r)),
        "create" => Box::pin(verbs::create(app, call, r)),
        "update" => Box::pin(verbs::update(app, call, r)),
        "patch" => Box::pin(verbs::patch::patch(app, call, r)),
        "delete" => Box::pin(verbs::delete::delete(app, call, r)),
        _ => Box::pin(verbs::delete::delete_collection(app, call, r)),
    };
    answer.await
}

async fn subresource(app: &Arc<App>, call: Call<'_>, r: &Arc<Resource>) -> ApiResult<Response> {
    let info = call.info;
    let Some(sub) = r.subresource(&info.subresource) else {
        return Err(match &r.custom {
            Some(_) => ApiError::not_found(r.group, r.resource, &info.name),
            None => ApiError::no_such_path(),
        });
    };
    if info.parts.len() > 3 && sub.name != "proxy" {
        return Err(ApiError::no_such_path());
    }
    let verb = match call.parts.method {
        Method::GET => "get",
        Method::HEAD if sub.name == "proxy" => "get",
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "",
    };
    if !sub.verbs.contains(&verb) && sub.name != "proxy" {
        return Err(method_not_allowed());
    }
    let answer: Answer<'_> = match (r.resource, sub.name) {
        (_, s) if connect::is_connecting(s) => Box::pin(connect::answer(app, call, r)),
        (_, "scale") => Box::pin(verbs::scale::answer(app, call, r, verb)),
        ("pods", "binding") => Box::pin(verbs::binding::create(app, call, r)),
        ("pods", "eviction") => Box::pin(verbs::eviction::create(app, call, r)),
        ("serviceaccounts", "token") => Box::pin(verbs::token::create(app, call, r)),
        _ => match verb {
            "get" => Box::pin(verbs::get(app, call, r)),
            "update" => Box::pin(verbs::update(app, call, r)),
            "patch" => Box::pin(verbs::patch::patch(app, call, r)),
            _ => return Err(method_not_allowed()),
        },
    };
    answer.await
}
