//! The audit event of one request, from its arrival to the end of its answer.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use http::request::Parts;
use parking_lot::Mutex;
use serde_json::Value;
use serde_json::value::RawValue;

use super::Auditor;
use super::event::{AuthenticationMetadata, Event, ObjectRef, ResponseStatus, Stage, User};
use super::policy::{Level, Rule};
use crate::http::{Body, Response};
use crate::request::{RequestInfo, UserInfo};
use crate::status::ApiError;

/// Longer names of clients are cut.
const USER_AGENT: usize = 1024;

/// A request as it came in.
pub struct Received<'a> {
    pub parts: &'a Parts,
    pub info: &'a RequestInfo,
    /// None where nobody was recognized.
    pub user: Option<&'a UserInfo>,
    pub audit_id: &'a str,
    pub at: jiff::Timestamp,
    pub peer: Option<IpAddr>,
}

/// See the module.
pub struct Context {
    auditor: Arc<Auditor>,
    rule: Rule,
    state: Mutex<State>,
}

struct State {
    event: Event,
    body: Option<(Bytes, String)>,
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Context").field("rule", &self.rule).finish_non_exhaustive()
    }
}

impl Context {
    pub fn new(auditor: Arc<Auditor>, rule: Rule, r: &Received<'_>) -> Self {
        let header = |n: &str| r.parts.headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut user_agent = header("user-agent").to_owned();
        if user_agent.len() > USER_AGENT {
            user_agent.truncate(USER_AGENT);
            user_agent.push_str("...TRUNCATED");
        }
        let i = r.info;
        let object_ref = i.is_resource.then(|| ObjectRef {
            resource: i.resource.clone(),
            namespace: i.namespace.clone(),
            name: i.name.clone(),
            api_group: i.api_group.clone(),
            api_version: i.api_version.clone(),
            subresource: i.subresource.clone(),
            ..ObjectRef::default()
        });
        let uri = r.parts.uri.path_and_query().map_or("/", |p| p.as_str());
        let event = Event {
            kind: "Event",
            api_version: "audit.k8s.io/v1",
            level: rule.level,
            audit_id: r.audit_id.to_owned(),
            stage: Stage::RequestReceived,
            request_uri: uri.to_owned(),
            verb: i.verb.clone(),
            user: r.user.map(User::from).unwrap_or_default(),
            impersonated_user: None,
            authentication_metadata: None,
            source_ips: source_ips(&r.parts.headers, r.peer),
            user_agent,
            object_ref,
            response_status: None,
            request_object: None,
            response_object: None,
            request_received_timestamp: r.at,
            stage_timestamp: r.at,
            annotations: BTreeMap::new(),
        };
        Self { auditor, rule, state: Mutex::new(State { event, body: None }) }
    }

    /// At which level the request is audited.
    pub fn level(&self) -> Level {
        self.rule.level
    }

    /// Adds an annotation; the first value of a key stays.
    pub fn annotate(&self, key: &str, value: String) {
        let mut s = self.state.lock();
        match s.event.annotations.get(key) {
            Some(old) if *old != value => {
                tracing::warn!(key, audit_id = s.event.audit_id, "an audit annotation has a value already");
            }
            Some(_) => {}
            None => {
                s.event.annotations.insert(key.to_owned(), value);
            }
        }
    }

    pub fn impersonated(&self, user: &UserInfo, constraint: &str) {
        let mut s = self.state.lock();
        s.event.impersonated_user = Some(user.into());
        if !constraint.is_empty() {
            let impersonation_constraint = constraint.to_owned();
            s.event.authentication_metadata = Some(AuthenticationMetadata { impersonation_constraint });
        }
    }

    /// Keeps the body; it is only read when an event with it is written.
    pub fn request_body(&self, body: &Bytes, content_type: &str) {
        if !body.is_empty() {
            self.state.lock().body = Some((body.clone(), content_type.to_owned()));
        }
    }

    /// The request was received. False: it may not be served.
    pub fn received(&self) -> bool {
        let stored = self.emit(Stage::RequestReceived);
        if !stored {
            self.auditor.metrics.rejected.inc();
        }
        stored
    }

    /// Nobody was recognized: one event that says so.
    pub fn unauthenticated(&self, e: &ApiError, attempted: &str) {
        let message = if attempted.is_empty() {
            "Authentication failed, no credentials provided".to_owned()
        } else {
            format!("Authentication failed, attempted: {attempted}")
        };
        self.state.lock().event.response_status =
            Some(ResponseStatus { message, code: e.code, ..ResponseStatus::default() });
        self.emit(Stage::ResponseStarted);
    }

    /// The handler answered. What runs long tells its start here and its end with its body.
    pub fn responded(
        self: &Arc<Self>,
        response: Response,
        error: Option<&ApiError>,
        long_running: bool,
    ) -> Response {
        self.take_request();
        {
            let mut s = self.state.lock();
            let code = response.status().as_u16();
            s.event.response_status = Some(match error {
                Some(e) => e.into(),
                None => success(&response).unwrap_or_default(),
            });
            if let Some(r) = &mut s.event.response_status {
                r.code = code;
            }
        }
        if !long_running {
            let mut response = response;
            if self.rule.level >= Level::RequestResponse {
                // The event holds the whole list, and so must this server for a moment.
                response = response.map(Body::gathered);
                let object = body_json(response.body(), &response, self.rule.omit_managed_fields);
                self.state.lock().event.response_object = object;
            }
            self.emit(Stage::ResponseComplete);
            return response;
        }
        self.emit(Stage::ResponseStarted);
        let end = End(Arc::clone(self));
        response.map(|b| b.followed_by(end))
    }

    /// The handler failed in a way that it may not.
    pub fn panicked(&self) {
        self.take_request();
        self.state.lock().event.response_status = Some(ResponseStatus {
            status: "Failure",
            message: "APIServer panic'd".to_owned(),
            reason: "InternalError".into(),
            details: None,
            code: 500,
        });
        self.emit(Stage::Panic);
    }

    /// Reads the request's body into the event, once.
    fn take_request(&self) {
        let mut s = self.state.lock();
        let Some((bytes, kind)) = s.body.take() else { return };
        // The name of an object that is created is in its body.
        let named = s.event.object_ref.as_ref().is_some_and(|o| !o.name.is_empty());
        let wanted = self.rule.level >= Level::Request;
        if !wanted && named {
            return;
        }
        let Some(mut v) = parse(&bytes, &kind) else { return };
        if let Some(o) = &mut s.event.object_ref {
            let text = |p: &str| crate::lookup::text(&v, p).to_owned();
            for (field, pointer) in [
                (&mut o.namespace, "/metadata/namespace"),
                (&mut o.name, "/metadata/name"),
                (&mut o.uid, "/metadata/uid"),
                (&mut o.resource_version, "/metadata/resourceVersion"),
            ] {
                if field.is_empty() {
                    *field = text(pointer);
                }
            }
        }
        if wanted {
            if self.rule.omit_managed_fields {
                drop_managed_fields(&mut v);
            }
            s.event.request_object = serde_json::value::to_raw_value(&v).ok();
        }
    }

    fn emit(&self, stage: Stage) -> bool {
        if self.rule.omit.has(stage) {
            return true;
        }
        let event = {
            let mut s = self.state.lock();
            s.event.stage = stage;
            if stage != Stage::RequestReceived {
                s.event.stage_timestamp = jiff::Timestamp::now();
            }
            Arc::new(s.event.clone())
        };
        self.auditor.process(&event)
    }
}

/// Tells the end of a long answer when it is dropped.
struct End(Arc<Context>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.emit(Stage::ResponseComplete);
    }
}

/// The parts of a `Status` answer that is no failure, such as that of a delete.
fn success(r: &Response) -> Option<ResponseStatus> {
    let Body::Full(b) = r.body() else { return None };
    if b.len() > 4096 || !b.starts_with(b"{\"kind\":\"Status\"") {
        return None;
    }
    let mut v: Value = serde_json::from_slice(b).ok()?;
    let text = |p: &str| crate::lookup::text(&v, p).to_owned();
    let (message, reason) = (text("/message"), text("/reason"));
    let status = if text("/status") == "Success" { "Success" } else { "Failure" };
    let details = v.get_mut("details").map(Value::take).map(Box::new);
    Some(ResponseStatus { status, message, reason: reason.into(), details, code: 0 })
}

/// A body as a JSON value; none where it is no object in a format that is known here.
fn parse(bytes: &[u8], content_type: &str) -> Option<Value> {
    if content_type.starts_with("application/vnd.kubernetes.protobuf") {
        return proto::envelope::decode(bytes).ok();
    }
    if content_type.contains("yaml") {
        return crate::registry::yaml::first_document(bytes).ok();
    }
    serde_json::from_slice(bytes).ok()
}

fn body_json(body: &Body, r: &Response, omit_managed_fields: bool) -> Option<Box<RawValue>> {
    let Body::Full(b) = body else { return None };
    let kind = r.headers().get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/json") && !omit_managed_fields {
        // As it is, checked to be JSON.
        let text = std::str::from_utf8(b).ok()?.trim_end();
        return serde_json::from_str::<&RawValue>(text).ok().map(ToOwned::to_owned);
    }
    if !(kind.starts_with("application/json")
        || kind.contains("yaml")
        || kind.contains("kubernetes.protobuf"))
    {
        return None;
    }
    let mut v = parse(b, kind)?;
    if omit_managed_fields {
        drop_managed_fields(&mut v);
    }
    serde_json::value::to_raw_value(&v).ok()
}

/// Of the object itself, of the items of a list and of the rows of a table.
fn drop_managed_fields(v: &mut Value) {
    let drop_of = |o: &mut Value| {
        if let Some(m) = o.get_mut("metadata").and_then(Value::as_object_mut) {
            m.remove("managedFields");
        }
    };
    drop_of(v);
    for (list, inner) in [("items", None), ("rows", Some("object"))] {
        for i in v.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            match inner {
                Some(k) => {
                    if let Some(o) = i.get_mut(k) {
                        drop_of(o);
                    }
                }
                None => drop_of(i),
            }
        }
    }
}

/// The addresses that the request claims to come through, ending with the one it really came from.
pub fn source_ips(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let header = |n: &str| headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let mut ips: Vec<IpAddr> =
        header("x-forwarded-for").split(',').filter_map(|p| p.trim().parse().ok()).collect();
    if let Ok(real) = header("x-real-ip").trim().parse()
        && !ips.contains(&real)
    {
        ips.push(real);
    }
    if let Some(p) = peer.map(|p| p.to_canonical())
        && ips.last() != Some(&p)
    {
        ips.push(p);
    }
    ips.iter().map(ToString::to_string).collect()
}

/// The kinds of credentials that a request shows, as upstream names them.
pub fn attempted(headers: &HeaderMap, certificates: bool) -> String {
    let mut out: Vec<String> = Vec::new();
    if let Some(a) = headers.get(http::header::AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        match a.split_once(' ').map(|(s, _)| s.to_ascii_lowercase()).as_deref() {
            Some("basic") => out.push("basic".to_owned()),
            Some("bearer") => out.push("bearer".to_owned()),
            _ => {}
        }
    }
    if certificates {
        out.push("x509".to_owned());
    }
    out.join(", ")
}
