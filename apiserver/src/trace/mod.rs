//! Traces of requests (KEP-647): a span per sampled request, sent in batches over OTLP.
//!
//! The exporter is our own few messages over the gRPC library that is here anyway: the OpenTelemetry crates would
//! bring a second set of message types and a runtime of their own for what is one unary call.
//!
//! | file | what |
//! | --- | --- |
//! | `config.rs` | `--tracing-config-file` |
//! | `context.rs` | W3C trace context, sampling |
//! | `otlp.rs` | the messages |
//! | `export.rs` | the task that sends |

pub mod config;
pub mod context;
pub mod export;
pub mod otlp;

use std::time::SystemTime;

use http::{HeaderMap, HeaderValue};

use crate::request::{RequestInfo, UserInfo};
use context::{Parent, SpanId, TraceId};

tokio::task_local! {
    static CURRENT: Parent;
}

/// Runs what serves a request; the calls that it makes ([`propagate`]) belong to its span.
pub async fn scope<F: Future>(span: Option<Parent>, f: F) -> F::Output {
    match span {
        Some(p) => CURRENT.scope(p, f).await,
        None => f.await,
    }
}

/// Tells a server that is called which span the call belongs to, where the request is traced.
pub fn propagate(headers: &mut HeaderMap) {
    let value = CURRENT.try_with(Parent::to_string).ok().and_then(|t| HeaderValue::from_str(&t).ok());
    if let Some(v) = value {
        headers.insert("traceparent", v);
    }
}

/// Traces of one server.
pub struct Tracer {
    /// Of a million requests so many are sampled.
    per_million: u32,
    exporter: export::Exporter,
}

/// A sampled request.
pub struct Span {
    trace: TraceId,
    id: SpanId,
    parent: Option<SpanId>,
    /// The trace of a client that is not trusted to decide about sampling.
    link: Option<Parent>,
    name: String,
    start: SystemTime,
    attributes: Vec<(&'static str, String)>,
}

impl Tracer {
    /// Reads the configuration and starts the task that sends.
    pub fn start(c: &config::Config) -> anyhow::Result<Self> {
        Ok(Self { per_million: c.sampling_rate_per_million, exporter: export::Exporter::start(&c.endpoint)? })
    }

    /// Begins a request's span, where it is sampled. Administrators' clients may hand in the trace to go on with; of
    /// others it is only noted.
    pub fn begin(
        &self,
        method: &str,
        info: &RequestInfo,
        headers: &HeaderMap,
        user: &UserInfo,
        audit_id: &str,
    ) -> Option<Span> {
        let parent = Parent::read(headers);
        let trusted = parent.filter(|_| user.in_group("system:masters"));
        let (trace, sampled) = match trusted {
            Some(p) => (p.trace, p.sampled),
            None => {
                let trace = TraceId::random();
                (trace, trace.is_among(self.per_million))
            }
        };
        if !sampled {
            return None;
        }
        let agent = headers.get(http::header::USER_AGENT).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Some(Span {
            trace,
            id: SpanId::random(),
            parent: trusted.map(|p| p.span),
            link: parent.filter(|_| trusted.is_none()),
            name: format!("{method} {}", template(info)),
            start: SystemTime::now(),
            attributes: vec![
                ("http.request.method", method.to_owned()),
                ("url.path", info.path.clone()),
                ("user_agent.original", agent.to_owned()),
                ("audit-id", audit_id.to_owned()),
            ],
        })
    }

    /// Ends it with the code of the answer.
    pub fn end(&self, mut span: Span, code: u16) {
        span.attributes.push(("http.response.status_code", code.to_string()));
        self.exporter.send(otlp::span(&span, SystemTime::now(), code >= 500));
    }
}

impl Span {
    /// What calls made for the request are part of.
    pub fn as_parent(&self) -> Parent {
        Parent { trace: self.trace, span: self.id, sampled: true }
    }
}

/// The path with placeholders for names.
fn template(info: &RequestInfo) -> String {
    if !info.is_resource {
        return info.path.clone();
    }
    let mut t = if info.api_group.is_empty() {
        format!("/api/{}", info.api_version)
    } else {
        format!("/apis/{}/{}", info.api_group, info.api_version)
    };
    if !info.namespace.is_empty() && info.resource != "namespaces" {
        t.push_str("/namespaces/{:namespace}");
    }
    t.push('/');
    t.push_str(&info.resource);
    if info.parts.len() > 1 {
        t.push_str("/{:name}");
    }
    if !info.subresource.is_empty() {
        t.push('/');
        t.push_str(&info.subresource);
    }
    t
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates() {
        let info = RequestInfo {
            is_resource: true,
            api_version: "v1".into(),
            namespace: "a".into(),
            resource: "pods".into(),
            name: "p".into(),
            subresource: "log".into(),
            parts: vec!["pods".into(), "p".into(), "log".into()],
            ..RequestInfo::default()
        };
        assert_eq!(template(&info), "/api/v1/namespaces/{:namespace}/pods/{:name}/log");
    }

    #[tokio::test]
    async fn sampling_and_trust() {
        let of = |per_million| Tracer {
            per_million,
            exporter: export::Exporter::start("127.0.0.1:1").expect("an exporter"),
        };
        let info = RequestInfo::default();
        let mut headers = HeaderMap::new();
        let value = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        headers.insert("traceparent", value.parse().expect("a header"));
        let eve = UserInfo::default();
        let root = UserInfo { groups: vec!["system:masters".into()], ..UserInfo::default() };
        assert!(of(0).begin("GET", &info, &headers, &eve, "").is_none());
        let linked = of(1_000_000).begin("GET", &info, &headers, &eve, "").expect("sampled");
        assert!(linked.parent.is_none() && linked.link.is_some());
        let child = of(0).begin("GET", &info, &headers, &root, "").expect("the client decides");
        assert_eq!(child.trace.to_string(), "0af7651916cd43dd8448eb211c80319c");
        assert!(child.parent.is_some() && child.link.is_none());
        let mut sent = HeaderMap::new();
        propagate(&mut sent);
        assert!(sent.is_empty(), "no request is served here");
        scope(Some(child.as_parent()), async { propagate(&mut sent) }).await;
        let sent = Parent::read(&sent).expect("a parent");
        assert!(sent.trace == child.trace && sent.span == child.id && sent.sampled);
    }
}
