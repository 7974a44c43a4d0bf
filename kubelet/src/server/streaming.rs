//! exec, attach and port-forward: finds the container or sandbox that a request means, then bridges the
//! client's connection to the runtime's streaming server.

use std::sync::Arc;

use component_base::serving::{health::text, listener::Body};
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;

use super::Server;
use crate::pod::shared::PodShared;

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
pub fn resolve(server: &Server, path: &str) -> Result<Target, (StatusCode, String)> {
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

/// Answers a streaming request. The CRI client is `server.ctx.cri` (`runtime()` for Exec, Attach, PortForward).
pub async fn handle(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let plain = |status, message| text(status, "text/plain; charset=utf-8", message);
    match resolve(server, request.uri().path()) {
        Err((status, message)) => plain(status, message),
        Ok(_) => plain(
            StatusCode::NOT_IMPLEMENTED,
            "exec, attach and port-forward are not available in this kubelet yet\n".to_owned(),
        ),
    }
}
