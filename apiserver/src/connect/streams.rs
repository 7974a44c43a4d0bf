//! `pods/exec`, `attach` and `portforward`: joins the client's upgraded connection with the kubelet's.

use std::sync::Arc;

use anyhow::Context as _;
use async_trait::async_trait;
use component_base::streaming::backend::{Backend, Io};
use component_base::streaming::{self, Purpose, Streams};
use http::{Request, Uri};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{kubelet, logs};
use crate::app::App;
use crate::http::query::Query;
use crate::http::router::Call;
use crate::http::{Body, Response};
use crate::metrics::parts;
use crate::registry::render;
use crate::registry::resource::Resource;
use crate::status::{ApiError, ApiResult};

/// Answers an upgrade request for a pod.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let subresource = call.info.subresource.as_str();
    let pod = render::value(r, &app.registry.get(r, namespace, name).await?)?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        return Err(ApiError::bad_request(format!("pod {name} does not have a host assigned")));
    }
    let host = kubelet::of_node(app, node).await?;
    let (target, purpose) = if subresource == "portforward" {
        let ports: String = url::form_urlencoded::Serializer::new(String::new())
            .extend_pairs(call.query.all("ports").map(|p| ("port", p)))
            .finish();
        (format!("https://{host}/portForward/{namespace}/{name}?{ports}"), Purpose::PortForward)
    } else {
        let container = logs::container(&pod, call.query.get("container"))?;
        let streams = streams(&call.query)?;
        let options = options(&call.query, streams);
        let target = format!("https://{host}/{subresource}/{namespace}/{name}/{container}?{options}");
        (target, Purpose::RemoteCommand(streams))
    };
    let uri: Uri = target.parse().map_err(|e| ApiError::internal(format!("{target}: {e}")))?;
    let backend = Kubelet { uri, tls: Arc::clone(&app.kubelets.tls) };
    let body = call.body.take().ok_or_else(|| ApiError::internal("the request's body was read already"))?;
    let header = |n: http::HeaderName| {
        call.parts.headers.get(n).and_then(|v| v.to_str().ok()).unwrap_or_default().to_ascii_lowercase()
    };
    if header(http::header::UPGRADE) == "websocket" {
        let tunnel = header(http::header::SEC_WEBSOCKET_PROTOCOL).contains("spdy/3.1");
        // What is no tunnel is put into SPDY for the kubelet.
        parts::stream(subresource, if tunnel { "tunnel" } else { "translator" });
    }
    let request = Request::from_parts(call.parts, body);
    Ok(streaming::serve(request, &backend, purpose).await.map(Body::Boxed))
}

fn streams(q: &Query) -> ApiResult<Streams> {
    let s = Streams {
        stdin: q.flag("stdin"),
        stdout: q.flag("stdout"),
        stderr: q.flag("stderr"),
        tty: q.flag("tty"),
    };
    if !s.stdin && !s.stdout && !s.stderr {
        return Err(ApiError::bad_request("you must specify at least 1 of stdin, stdout, stderr"));
    }
    Ok(s)
}

/// The kubelet's names of the options.
fn options(q: &Query, s: Streams) -> String {
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    out.extend_pairs(q.all("command").map(|c| ("command", c)));
    for (on, name) in [(s.stdin, "input"), (s.stdout, "output"), (s.stderr, "error"), (s.tty, "tty")] {
        if on {
            out.append_pair(name, "1");
        }
    }
    out.finish()
}

/// One kubelet, called with this server's client certificate.
struct Kubelet {
    uri: Uri,
    tls: Arc<ClientConfig>,
}

#[async_trait]
impl Backend for Kubelet {
    async fn dial(&self) -> anyhow::Result<Box<dyn Io>> {
        let host = self.uri.host().context("the kubelet's address has no host")?;
        let tcp =
            TcpStream::connect((host.trim_matches(['[', ']']), self.uri.port_u16().unwrap_or(10250))).await?;
        tcp.set_nodelay(true)?;
        let name =
            ServerName::try_from(host.trim_matches(['[', ']']).to_owned()).context("the kubelet's name")?;
        Ok(Box::new(TlsConnector::from(Arc::clone(&self.tls)).connect(name, tcp).await?))
    }

    fn uri(&self) -> &Uri {
        &self.uri
    }
}
