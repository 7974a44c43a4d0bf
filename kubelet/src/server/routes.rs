//! Paths of the kubelet's API.

use bytes::Bytes;
use component_base::serving::{
    health::{refused, text},
    listener::Body,
};
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::{body::Frame, body::Incoming};
use k8s_openapi::api::core::v1::Pod;
use percent_encoding::percent_decode_str;
use tokio::sync::mpsc;

use super::{Server, files, follow, logs, stats, streaming};
use crate::pod::spec;

/// What `/logs/` shows.
const SYSTEM_LOGS: &str = "/var/log";

const PLAIN: &str = "text/plain; charset=utf-8";

fn plain(status: StatusCode, message: impl Into<String>) -> Response<Body> {
    text(status, PLAIN, message.into())
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_string(value) {
        Ok(body) => text(StatusCode::OK, "application/json", body),
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()),
    }
}

/// Percent-decoded query parameters.
pub fn query(uri: &http::Uri) -> Vec<(String, String)> {
    uri.query()
        .unwrap_or_default()
        .split('&')
        .filter(|p| !p.is_empty())
        .map(|pair| {
            let (k, v) = pair.split_once('=').unwrap_or((pair, ""));
            (decode(k), decode(v))
        })
        .collect()
}

fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let bytes = text.as_bytes();
    let mut i = 0;
    while i < bytes.len() {
        let hex = |b: u8| (b as char).to_digit(16);
        match bytes[i] {
            b'%' if i + 2 < bytes.len() => match (hex(bytes[i + 1]), hex(bytes[i + 2])) {
                (Some(a), Some(b)) => {
                    out.push((a * 16 + b) as u8);
                    i += 2;
                }
                _ => out.push(b'%'),
            },
            b'+' => out.push(b' '),
            b => out.push(b),
        }
        i += 1;
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// One request on the secure port.
pub async fn handle(server: &Server, request: Request<Incoming>) -> Response<Body> {
    let (parts, body) = request.into_parts();
    if let Err(refusal) = server.auth.admit(&parts).await {
        return refused(&refusal);
    }
    let path = parts.uri.path().to_owned();
    let segments: Vec<&str> = path.trim_matches('/').split('/').collect();
    match segments.as_slice() {
        ["exec" | "attach" | "portForward", ..] => {
            let request = Request::from_parts(parts, body);
            streaming::handle(server, request).await
        }
        ["run", namespace, pod, container] | ["run", namespace, pod, _, container]
            if parts.method == Method::POST =>
        {
            run(server, namespace, pod, container, &parts.uri).await
        }
        ["containerLogs", namespace, pod, container] => {
            container_logs(server, namespace, pod, container, &parts.uri)
        }
        ["logs", ..] => system_logs(server, &path).await,
        _ => read_only(server, &path, parts.uri.query()).await,
    }
}

async fn system_logs(server: &Server, path: &str) -> Response<Body> {
    if !server.ctx.config.enable_system_log_handler {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "logs endpoint is disabled.\n");
    }
    let below = percent_decode_str(path.strip_prefix("/logs").unwrap_or_default());
    files::answer(SYSTEM_LOGS.into(), below.decode_utf8_lossy().into_owned()).await
}

/// One request on the read-only port.
pub async fn handle_read_only(server: &Server, request: Request<Incoming>) -> Response<Body> {
    read_only(server, request.uri().path(), request.uri().query()).await
}

async fn read_only(server: &Server, path: &str, query: Option<&str>) -> Response<Body> {
    let failed = |e: crate::cri::CriError| plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n"));
    match path {
        "/pods" | "/pods/" => json(&pod_list(server)),
        "/runningpods" | "/runningpods/" => json(&running_pods(server)),
        "/stats/summary" | "/stats/summary/" => match stats::summary(server).await {
            Ok(summary) => json(&summary),
            Err(e) => failed(e),
        },
        "/metrics/resource" => match stats::resource_metrics(server).await {
            Ok(body) => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
            Err(e) => failed(e),
        },
        "/metrics/cadvisor" => match stats::cadvisor_metrics(server).await {
            Ok(body) => text(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", body),
            Err(e) => failed(e),
        },
        "/metrics" => {
            count_running(server);
            server.health.answer(path, query).unwrap_or_else(not_found)
        }
        _ => server.health.answer(path, query).unwrap_or_else(not_found),
    }
}

fn not_found() -> Response<Body> {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

fn count_running(server: &Server) {
    let (mut pods, mut running, mut exited) = (0, 0, 0);
    for p in server.pods.all() {
        let r = p.runtime.read().clone();
        pods += i64::from(r.ready_sandbox().is_some());
        for c in &r.containers {
            match c.state {
                crate::cri::ContainerState::Running => running += 1,
                crate::cri::ContainerState::Exited => exited += 1,
                _ => {}
            }
        }
    }
    server.ctx.metrics.set_running(pods, running, exited);
}

fn list(items: Vec<Pod>) -> serde_json::Value {
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn pod_list(server: &Server) -> serde_json::Value {
    let items = server
        .pods
        .all()
        .iter()
        .map(|p| {
            let mut pod = (*p.pod()).clone();
            if let Some(status) = p.status.read().clone() {
                pod.status = Some(status);
            }
            pod
        })
        .collect();
    list(items)
}

fn running_pods(server: &Server) -> serde_json::Value {
    let mut items = Vec::new();
    for p in server.pods.all() {
        let running: Vec<serde_json::Value> = p
            .runtime
            .read()
            .containers
            .iter()
            .filter(|c| c.state == crate::cri::ContainerState::Running)
            .map(|c| serde_json::json!({"name": c.name, "image": c.image_ref, "resources": {}}))
            .collect();
        if running.is_empty() {
            continue;
        }
        let pod = p.pod();
        items.push(serde_json::json!({
            "metadata": {"name": spec::name(&pod), "namespace": spec::namespace(&pod), "uid": p.uid},
            "spec": {"containers": running}, "status": {}}));
    }
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
}

fn container_logs(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    uri: &http::Uri,
) -> Response<Body> {
    let options = match logs::Options::parse(&query(uri)) {
        Ok(o) => o,
        Err(e) => return plain(StatusCode::UNPROCESSABLE_ENTITY, format!("{{\"message\": {e:?}}}\n")),
    };
    let Some(found) = server.pods.find(namespace, pod, None) else {
        return plain(StatusCode::NOT_FOUND, format!("pod {pod:?} does not exist\n"));
    };
    if spec::find_container(&found.pod(), container).is_none() {
        return plain(StatusCode::NOT_FOUND, format!("container {container:?} not found in pod {pod:?}\n"));
    }
    let runtime = found.runtime.read().clone();
    let instance = match follow::choose(&runtime, container, options.previous) {
        Some(c) => c.clone(),
        None => {
            let message = if options.previous {
                format!("previous terminated container {container:?} in pod {pod:?} not found")
            } else {
                format!(
                    "container {container:?} in pod {pod:?} is waiting to start: {}",
                    waiting_reason(&found, container)
                )
            };
            return plain(StatusCode::BAD_REQUEST, message);
        }
    };
    let (tx, rx) = mpsc::channel::<Bytes>(16);
    let shared = found.clone();
    tokio::spawn(async move { follow::stream(shared, instance, options, tx).await });
    let stream = futures::stream::unfold(rx, |mut rx| async move {
        let chunk = rx.recv().await?;
        Some((Ok::<_, std::io::Error>(Frame::data(chunk)), rx))
    });
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain"));
    response
}

/// What a container that has no log yet waits for.
fn waiting_reason(pod: &crate::pod::shared::PodShared, container: &str) -> String {
    let status = pod.status.read();
    let reason = status.as_ref().and_then(|s| {
        let all = s.container_statuses.iter().chain(&s.init_container_statuses).flatten();
        all.into_iter().find(|c| c.name == container)?.state.as_ref()?.waiting.as_ref()?.reason.clone()
    });
    match reason.as_deref() {
        Some("ImagePullBackOff" | "ErrImagePull") => "trying and failing to pull image".into(),
        Some("ErrImageNeverPull" | "InvalidImageName" | "ImageInspectError") => {
            "image can't be pulled".into()
        }
        other => other.unwrap_or("ContainerCreating").to_owned(),
    }
}

/// `/run`: a command to its end, output as the answer.
async fn run(
    server: &Server,
    namespace: &str,
    pod: &str,
    container: &str,
    uri: &http::Uri,
) -> Response<Body> {
    let Some(id) = server.pods.find(namespace, pod, None).and_then(|p| p.container_id(container, true))
    else {
        return plain(
            StatusCode::NOT_FOUND,
            format!("container {container:?} of pod {pod:?} is not running\n"),
        );
    };
    let command = query(uri).into_iter().find(|(k, _)| k == "cmd").map(|(_, v)| v).unwrap_or_default();
    let words: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
    match server.ctx.cri.exec_sync(&id, words, std::time::Duration::from_secs(60)).await {
        Ok(answer) => {
            let mut out = answer.stdout;
            out.extend_from_slice(&answer.stderr);
            let status =
                if answer.exit_code == 0 { StatusCode::OK } else { StatusCode::INTERNAL_SERVER_ERROR };
            plain(status, String::from_utf8_lossy(&out).into_owned())
        }
        Err(e) => plain(StatusCode::INTERNAL_SERVER_ERROR, format!("{e}\n")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_decoded() {
        let uri: http::Uri = "/x?a=b%20c&d&e=1+2&f=%zz".parse().unwrap();
        let q = query(&uri);
        assert_eq!(q[0], ("a".into(), "b c".into()));
        assert_eq!(q[1], ("d".into(), String::new()));
        assert_eq!(q[2].1, "1 2");
        assert_eq!(q[3].1, "%zz");
    }
}
