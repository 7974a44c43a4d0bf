//! `/store/v1/…`: operation of the embedded store, what `ctl store` calls. No API of upstream's: paths that are no
//! resources, and so for those alone whom RBAC allows them (of upstream's roles, `cluster-admin`).
//!
//! | request | what |
//! | --- | --- |
//! | `GET status`, `GET members` | the members, with and without asking each |
//! | `POST members` `{"name", "address"}` | takes a learner in |
//! | `POST members/NAME/promote` | lets it vote |
//! | `DELETE members/NAME` | removes it for ever |
//! | `POST leader` `{"name"}` | hands the lead over |
//! | `POST compact` `{"revision"}` | forgets history; the newest revision where none is given |
//! | `POST members/NAME/defragment` | rewrites its applied state without what it has forgotten |
//! | `GET snapshot` | a file with everything, as `ctl store snapshot restore` reads it |

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Method};
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::{Value, json};

use super::negotiate::{Offer, Wanted};
use super::router::Call;
use super::{Body, Response, respond};
use crate::app::App;
use crate::registry::storage::store_error;
use crate::status::{ApiError, ApiResult};
use crate::store::{Defragmented, Member, MemberStatus, Operation, SavedSnapshot, Store, StoreError};

/// What all paths begin with.
const PREFIX: &str = "/store/v1/";
/// Bytes of a snapshot sent at once.
const PIECE: usize = 256 << 10;

/// Whether a request may take longer than others: as long as the store is large.
pub fn is_long_running(path: &str) -> bool {
    path == "/store/v1/snapshot" || path.starts_with(PREFIX) && path.ends_with("/defragment")
}

/// Answers a path of these; none for others.
pub async fn answer(app: &Arc<App>, call: &mut Call<'_>) -> ApiResult<Option<Response>> {
    let path = call.parts.uri.path().to_owned();
    let Some(rest) = path.strip_prefix(PREFIX) else { return Ok(None) };
    let store = app.registry.table().iter().find_map(|r| r.storage.as_ref().map(|s| Arc::clone(&s.store)));
    let Some(store) = store else { return Ok(None) };
    let Some(operation) = store.operation() else {
        return Err(ApiError::bad_request(
            "this API server keeps its objects in etcd (--etcd-servers): operate that with etcdctl",
        ));
    };
    let parts: Vec<&str> = rest.split('/').collect();
    let method = call.parts.method.clone();
    let told = |e| store_error(&e);
    let body = if method == Method::POST { read(call).await? } else { Value::Null };
    let field = |name: &str| match body[name].as_str() {
        Some(v) if !v.is_empty() => Ok(v.to_owned()),
        _ => Err(ApiError::bad_request(format!("the body needs a {name}"))),
    };
    let value = match (&method, parts.as_slice()) {
        (&Method::GET, ["status"]) => {
            let members = operation.status().await.map_err(told)?;
            json!({"store": id(operation.store_id()), "members": members.iter().map(status).collect::<Vec<_>>()})
        }
        (&Method::GET, ["members"]) => list(&*operation, &operation.members().await.map_err(told)?),
        (&Method::POST, ["members"]) => {
            let added = operation.add(&field("name")?, &field("address")?).await;
            list(&*operation, &added.map_err(told)?)
        }
        (&Method::POST, ["members", name, "promote"]) => {
            list(&*operation, &operation.promote(name).await.map_err(told)?)
        }
        (&Method::POST, ["members", name, "defragment"]) => {
            let Defragmented { before, after } = operation.defragment(name).await.map_err(told)?;
            json!({"member": name, "before": before, "after": after})
        }
        (&Method::DELETE, ["members", name]) => {
            list(&*operation, &operation.remove(name).await.map_err(told)?)
        }
        (&Method::POST, ["leader"]) => {
            let to = field("name")?;
            operation.transfer_leader(&to).await.map_err(told)?;
            json!({"leader": to})
        }
        (&Method::POST, ["compact"]) => json!({"compacted": compact(&*store, &body).await?}),
        (&Method::GET, ["snapshot"]) => {
            return Ok(Some(snapshot(operation.snapshot().await.map_err(told)?)));
        }
        _ => return Ok(None),
    };
    let wanted = call.wanted(Offer::Plain).unwrap_or(Wanted { pretty: call.pretty, ..Wanted::JSON });
    Ok(Some(respond::json(200, wanted, &value)))
}

/// The body as JSON; nothing is an empty object.
async fn read(call: &mut Call<'_>) -> ApiResult<Value> {
    let body = call.read_body().await?;
    if body.is_empty() {
        return Ok(json!({}));
    }
    let value: Result<Value, _> = serde_json::from_slice(&body);
    value.map_err(|e| ApiError::bad_request(format!("the body is no JSON: {e}")))
}

fn id(number: u64) -> String {
    format!("{number:016x}")
}

fn member(m: &Member) -> Value {
    json!({"id": id(m.id), "name": m.name, "address": m.address, "learner": m.learner})
}

fn list(operation: &dyn Operation, members: &[Member]) -> Value {
    json!({"store": id(operation.store_id()), "members": members.iter().map(member).collect::<Vec<_>>()})
}

fn status(m: &MemberStatus) -> Value {
    let mut value = member(&m.member);
    match &m.status {
        Ok(s) => {
            value["leader"] = json!(s.leader == m.member.id);
            value["follows"] = json!(if s.leader == 0 { String::new() } else { id(s.leader) });
            value["term"] = json!(s.term);
            value["committed"] = json!(s.committed);
            value["applied"] = json!(s.applied);
            value["revision"] = json!(s.revision);
            value["compactRevision"] = json!(s.compacted);
            value["size"] = json!(s.size);
            value["version"] = json!(s.version);
            value["alarms"] = json!(s.alarms);
        }
        Err(e) => value["error"] = json!(e),
    }
    value
}

/// Compacts at the revision asked for, or at the newest.
async fn compact(store: &dyn Store, body: &Value) -> ApiResult<u64> {
    let revision = match &body["revision"] {
        Value::Null => store.current_revision().await.map_err(|e| store_error(&e))?,
        asked => match asked.as_u64().filter(|r| *r > 0) {
            Some(r) => r,
            None => return Err(ApiError::bad_request("revision must be a positive number")),
        },
    };
    match store.compact(revision).await {
        Ok(()) => Ok(revision),
        Err(StoreError::Compacted { oldest, .. }) if body["revision"].is_null() => Ok(oldest),
        Err(e @ (StoreError::Compacted { .. } | StoreError::Future { .. })) => {
            Err(ApiError::bad_request(e.to_string()))
        }
        Err(e) => Err(store_error(&e)),
    }
}

/// The file, read as the client takes it.
fn snapshot(saved: Box<dyn SavedSnapshot>) -> Response {
    let (size, revision) = (saved.size(), saved.revision());
    let saved: Arc<dyn SavedSnapshot> = saved.into();
    let pieces = futures::stream::unfold(0u64, move |offset| {
        let saved = Arc::clone(&saved);
        async move {
            let read = tokio::task::spawn_blocking(move || saved.read(offset, PIECE)).await;
            let piece: std::io::Result<Bytes> = match read {
                Ok(Ok(piece)) if piece.is_empty() => return None,
                Ok(piece) => piece.map_err(std::io::Error::other),
                Err(e) => Err(std::io::Error::other(e)),
            };
            // After a failure the body ends, short of its length.
            let next = offset + piece.as_ref().map_or(u64::MAX / 2, |p| p.len() as u64);
            Some((piece.map(http_body::Frame::data), next))
        }
    });
    let body = StreamBody::new(pieces).boxed_unsync();
    let mut response = respond::bytes(200, "application/octet-stream", Body::Boxed(body));
    let headers = response.headers_mut();
    headers.insert(http::header::CONTENT_LENGTH, HeaderValue::from(size));
    headers.insert("store-revision", HeaderValue::from(revision));
    response
}
