//! exec, attach and port-forward: finds the container or sandbox that a request means, then bridges the
//! client's connection to the runtime's streaming server.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::{
    serving::{health::text, listener::Body},
    streaming::{
        self, Purpose, Streams,
        backend::{Backend, Io},
    },
};
use http::{Request, Response, StatusCode, Uri};
use hyper::body::Incoming;
use k8s_cri::v1;
use tokio::net::TcpStream;

use super::Server;
use crate::pod::shared::PodShared;

/// Status and text of a refusal.
type Refused = (StatusCode, String);

/// What a streaming request is about.
#[derive(Clone)]
pub enum Target {
    /// `/exec/{namespace}/{pod}[/{uid}]/{container}`: a running container.
    Exec { pod: Arc<PodShared>, container: String, container_id: String },
    /// `/attach/…`: likewise.
    Attach { pod: Arc<PodShared>, container: String, container_id: String },
    /// `/portForward/{namespace}/{pod}[/{uid}]`: the pod's sandbox.
    PortForward { pod: Arc<PodShared>, sandbox_id: String },
}

/// Finds the target of a path; the error is the answer's status and text.
pub fn resolve(server: &Server, path: &str) -> Result<Target, Refused> {
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    let (kind, namespace, name, uid, container) = match segments.as_slice() {
        ["portForward", ns, pod] => ("portForward", *ns, *pod, None, ""),
        ["portForward", ns, pod, uid] => ("portForward", *ns, *pod, Some(*uid), ""),
        [kind @ ("exec" | "attach"), ns, pod, container] => (*kind, *ns, *pod, None, *container),
        [kind @ ("exec" | "attach"), ns, pod, uid, container] => (*kind, *ns, *pod, Some(*uid), *container),
        _ => return Err((StatusCode::NOT_FOUND, "404 page not found\n".into())),
    };
    let pod = server
        .pods
        .find(namespace, name, uid)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} does not exist\n")))?;
    if kind == "portForward" {
        let sandbox_id = pod
            .sandbox_id()
            .ok_or_else(|| (StatusCode::NOT_FOUND, format!("pod {name:?} has no running sandbox\n")))?;
        return Ok(Target::PortForward { pod, sandbox_id });
    }
    let container_id = pod
        .container_id(container, true)
        .ok_or_else(|| (StatusCode::NOT_FOUND, format!("container not found ({container:?})\n")))?;
    let container = container.to_owned();
    Ok(if kind == "exec" {
        Target::Exec { pod, container, container_id }
    } else {
        Target::Attach { pod, container, container_id }
    })
}

/// The runtime's streaming server, which answers at a one-time address.
struct Runtime {
    uri: Uri,
}

#[async_trait::async_trait]
impl Backend for Runtime {
    async fn dial(&self) -> anyhow::Result<Box<dyn Io>> {
        let host = self.uri.host().context("the runtime's streaming address has no host")?;
        let port = self.uri.port_u16().unwrap_or(80);
        let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
            .await
            .with_context(|| format!("connecting to the runtime's streaming server {host}:{port}"))?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }

    fn uri(&self) -> &Uri {
        &self.uri
    }
}

/// Which streams a query asks for, under the kubelet's names and the API server's.
fn streams(query: &[(String, String)]) -> Streams {
    let on = |names: [&str; 2]| {
        query.iter().any(|(k, v)| names.contains(&k.as_str()) && matches!(v.as_str(), "1" | "true"))
    };
    let tty = on(["tty", "tty"]);
    Streams {
        stdin: on(["input", "stdin"]),
        stdout: on(["output", "stdout"]),
        // A terminal has one output.
        stderr: on(["error", "stderr"]) && !tty,
        tty,
    }
}

/// Asks the runtime for the address where the stream is served.
async fn address(
    server: &Server,
    target: &Target,
    query: &[(String, String)],
) -> Result<(String, Purpose), Refused> {
    let wanted = streams(query);
    let failed = |status: tonic::Status| {
        let code = match status.code() {
            tonic::Code::NotFound => StatusCode::NOT_FOUND,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        (code, format!("{}\n", status.message()))
    };
    let mut runtime = server.ctx.cri.runtime();
    let none = !wanted.stdin && !wanted.stdout && !wanted.stderr;
    if none && !matches!(target, Target::PortForward { .. }) {
        return Err((
            StatusCode::BAD_REQUEST,
            "you must specify at least 1 of stdin, stdout, stderr\n".into(),
        ));
    }
    Ok(match target {
        Target::Exec { container_id, .. } => {
            let cmd: Vec<String> =
                query.iter().filter(|(k, _)| k == "command").map(|(_, v)| v.clone()).collect();
            if cmd.is_empty() {
                return Err((StatusCode::BAD_REQUEST, "you must specify at least one command\n".into()));
            }
            let request = v1::ExecRequest {
                container_id: container_id.clone(),
                cmd,
                tty: wanted.tty,
                stdin: wanted.stdin,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
            };
            let answer = runtime.exec(request).await.map_err(failed)?;
            (answer.into_inner().url, Purpose::RemoteCommand(wanted))
        }
        Target::Attach { container_id, pod, container } => {
            // Whether there is a terminal was decided when the container was made, not by the client.
            let spec_tty = crate::pod::spec::find_container(&pod.pod(), container)
                .is_some_and(|(_, c)| c.tty == Some(true));
            let wanted = Streams { tty: spec_tty, stderr: wanted.stderr && !spec_tty, ..wanted };
            let request = v1::AttachRequest {
                container_id: container_id.clone(),
                stdin: wanted.stdin,
                tty: wanted.tty,
                stdout: wanted.stdout,
                stderr: wanted.stderr,
            };
            let answer = runtime.attach(request).await.map_err(failed)?;
            (answer.into_inner().url, Purpose::RemoteCommand(wanted))
        }
        Target::PortForward { sandbox_id, .. } => {
            let port = query
                .iter()
                .filter(|(k, _)| k == "port" || k == "ports")
                .flat_map(|(_, v)| v.split(','))
                .filter_map(|p| p.parse().ok())
                .collect();
            let request = v1::PortForwardRequest { pod_sandbox_id: sandbox_id.clone(), port };
            let answer = runtime.port_forward(request).await.map_err(failed)?;
            (answer.into_inner().url, Purpose::PortForward)
        }
    })
}

/// Answers a streaming request.
pub async fn handle(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let plain = |(status, message): Refused| text(status, "text/plain; charset=utf-8", message);
    let target = match resolve(server, request.uri().path()) {
        Ok(target) => target,
        Err(refused) => return plain(refused),
    };
    let query = super::routes::query(request.uri());
    let (url, purpose) = match address(server, &target, &query).await {
        Ok(found) => found,
        Err(refused) => return plain(refused),
    };
    match url.parse::<Uri>() {
        Ok(uri) => streaming::serve(request, &Runtime { uri }, purpose).await,
        Err(e) => plain((
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("the runtime gave the streaming address {url:?}: {e}\n"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_by_both_names() {
        let q = |list: &[(&str, &str)]| -> Vec<(String, String)> {
            list.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
        };
        let s = streams(&q(&[("input", "1"), ("output", "1"), ("error", "1"), ("tty", "1")]));
        assert_eq!(s, Streams { stdin: true, stdout: true, stderr: false, tty: true });
        let s = streams(&q(&[("stdout", "true"), ("stderr", "true"), ("stdin", "false")]));
        assert_eq!(s, Streams { stdin: false, stdout: true, stderr: true, tty: false });
    }
}
