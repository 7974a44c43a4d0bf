//! `pods/log`: the container's log, streamed from the kubelet.

use std::sync::Arc;

use bytes::Bytes;
use component_base::streaming::reading;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use serde_json::Value;

use super::kubelet;
use crate::app::App;
use crate::field::{Error, ErrorList, Path};
use crate::http::query::Query;
use crate::http::router::Call;
use crate::http::{Body, Response, respond};
use crate::registry::resource::Resource;
use crate::registry::{object, render};
use crate::status::{ApiError, ApiResult};

/// GET of a log.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    let (namespace, name) = (call.info.namespace.as_str(), call.info.name.as_str());
    let options = options(&call.query, name)?;
    let pod = render::value(r, &app.registry.get(r, namespace, name).await?)?;
    let container = container(&pod, call.query.get("container"))?;
    let node = pod.pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or_default();
    if node.is_empty() {
        // Upstream has no content for pods that run nowhere yet, and so no type of it.
        let mut nothing = Response::new(Body::Empty);
        *nothing.status_mut() = StatusCode::NO_CONTENT;
        return Ok(nothing);
    }
    crate::metrics::parts::pod_logs(call.query.flag("insecureSkipTLSVerifyBackend"));
    let host = kubelet::of_node(app, node).await?;
    let url = format!("https://{host}/containerLogs/{namespace}/{name}/{container}?{options}");
    let request = Request::get(&url)
        .body(Full::new(Bytes::new()))
        .map_err(|e| ApiError::internal(format!("{url}: {e}")))?;
    let answer = app
        .kubelets
        .client
        .request(request)
        .await
        .map_err(|e| ApiError::internal(format!("Get \"{url}\": {}", root_cause(&e))))?;
    if answer.status() != StatusCode::OK {
        return Err(refusal(answer, name, container).await);
    }
    let body = answer.into_body().map_err(std::io::Error::other).boxed_unsync();
    if reading::wanted(&call.parts.headers)
        && let Some(own) = call.body.take()
    {
        let request = Request::from_parts(call.parts, own);
        return Ok(reading::serve(request, body.into_data_stream()).map(Body::Boxed));
    }
    let mut r = respond::bytes(200, "text/plain", Body::Boxed(body));
    r.headers_mut().remove(http::header::CACHE_CONTROL);
    Ok(r)
}

fn root_cause(e: &dyn std::error::Error) -> String {
    let mut last = e;
    while let Some(s) = last.source() {
        last = s;
    }
    last.to_string()
}

async fn refusal(answer: http::Response<hyper::body::Incoming>, pod: &str, container: &str) -> ApiError {
    let code = answer.status().as_u16();
    let text = match Limited::new(answer.into_body(), 2048).collect().await {
        Ok(b) => String::from_utf8_lossy(&b.to_bytes()).trim().to_owned(),
        Err(_) => String::new(),
    };
    match code {
        400 => ApiError::bad_request(text),
        404 => ApiError::new(
            404,
            "NotFound",
            format!("the server could not find the requested resource ( pods/log {pod}): {text}"),
        ),
        _ => ApiError::internal(format!(
            "the kubelet answered {code} for container {container} of {pod}: {text}"
        )),
    }
}

/// The query for the kubelet, of the options that it knows.
fn options(q: &Query, name: &str) -> ApiResult<String> {
    let mut e = ErrorList::new();
    let number = |f: &str, least: i64, e: &mut ErrorList| -> ApiResult<Option<i64>> {
        let v = q.int(f)?;
        if let Some(n) = v
            && n < least
        {
            let word =
                if least == 0 { "must be greater than or equal to 0" } else { "must be greater than 0" };
            e.push(Error::invalid(&Path::new(f), n, word));
        }
        Ok(v)
    };
    let mut out = url::form_urlencoded::Serializer::new(String::new());
    for f in ["follow", "previous", "timestamps"] {
        if q.flag(f) {
            out.append_pair(f, "true");
        }
    }
    if let Some(n) = number("tailLines", 0, &mut e)? {
        out.append_pair("tailLines", &n.to_string());
    }
    if let Some(n) = number("limitBytes", 1, &mut e)? {
        out.append_pair("limitBytes", &n.to_string());
    }
    let since = number("sinceSeconds", 1, &mut e)?;
    if let Some(n) = since {
        out.append_pair("sinceSeconds", &n.to_string());
    }
    if let Some(t) = q.get("sinceTime") {
        if since.is_some() {
            e.push(Error::forbidden(
                &Path::new("sinceSeconds"),
                "at most one of `sinceTime` or `sinceSeconds` may be specified",
            ));
        }
        out.append_pair("sinceTime", t);
    }
    if let Some(s) = q.get("stream").filter(|s| *s != "All") {
        if !matches!(s, "Stdout" | "Stderr") {
            e.push(Error::not_supported(&Path::new("stream"), s, &["All", "Stderr", "Stdout"]));
        }
        out.append_pair("stream", s);
    }
    if !e.is_empty() {
        return Err(ApiError::invalid("", "PodLogOptions", name, &e));
    }
    Ok(out.finish())
}

/// The container asked for, or the only one.
pub fn container<'a>(pod: &'a Value, asked: Option<&'a str>) -> ApiResult<&'a str> {
    let names = |list: &str| -> Vec<&'a str> {
        let all = pod.pointer(&format!("/spec/{list}")).and_then(Value::as_array);
        all.into_iter().flatten().filter_map(|c| c["name"].as_str()).collect()
    };
    let (main, init, debug) = (names("containers"), names("initContainers"), names("ephemeralContainers"));
    let name = object::name(pod);
    match asked {
        Some(c) if main.contains(&c) || init.contains(&c) || debug.contains(&c) => Ok(c),
        Some(c) => Err(ApiError::bad_request(format!("container {c} is not valid for pod {name}"))),
        None => match main.as_slice() {
            [one] => Ok(one),
            [] => Err(ApiError::bad_request(format!("a container name must be specified for pod {name}"))),
            many => {
                let choices = format!("[{}]", many.join(" "));
                let mut m =
                    format!("a container name must be specified for pod {name}, choose one of: {choices}");
                if !init.is_empty() {
                    m.push_str(&format!(" or one of the init containers: [{}]", init.join(" ")));
                }
                Err(ApiError::bad_request(m))
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn chooses_containers() {
        let one = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}]}});
        assert_eq!(container(&one, None).expect("only one"), "a");
        let two = json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a"}, {"name": "b"}]}});
        assert_eq!(
            container(&two, None).expect_err("two").message,
            "a container name must be specified for pod p, choose one of: [a b]"
        );
        assert!(container(&two, Some("c")).is_err());
        assert_eq!(
            options(&Query::parse(Some("follow=true&tailLines=5&container=a")), "p").expect("options"),
            "follow=true&tailLines=5"
        );
        assert!(options(&Query::parse(Some("tailLines=-1")), "p").is_err());
    }
}
