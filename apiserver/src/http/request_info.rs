//! Reads from path, method and query what a request is about, by upstream's rules: authorization and metrics
//! depend on the same reading.

use http::Method;

use super::query::Query;
use crate::request::RequestInfo;

/// The meaning of one request.
pub fn resolve(method: &Method, path: &str, query: &Query) -> RequestInfo {
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: method.as_str().to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let decoded: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(|p| percent_encoding::percent_decode_str(p).decode_utf8_lossy().into_owned())
        .collect();
    let mut parts = decoded.as_slice();
    if parts.len() < 3 {
        return info;
    }
    match parts[0].as_str() {
        "api" => parts = &parts[1..],
        "apis" if parts.len() >= 4 => {
            info.api_group.clone_from(&parts[1]);
            parts = &parts[2..];
        }
        _ => return info,
    }
    info.is_resource = true;
    info.api_version.clone_from(&parts[0]);
    parts = &parts[1..];

    let mut old_watch = false;
    if parts[0] == "watch" || parts[0] == "proxy" {
        if parts.len() < 2 {
            info.is_resource = false;
            return info;
        }
        old_watch = parts[0] == "watch";
        info.verb.clone_from(&parts[0]);
        parts = &parts[1..];
    } else {
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
    }

    if parts[0] == "namespaces" && parts.len() > 1 {
        info.namespace.clone_from(&parts[1]);
        if parts.len() > 2 && parts[2] != "status" && parts[2] != "finalize" {
            parts = &parts[2..];
        }
    }
    info.parts = parts.to_vec();
    info.resource.clone_from(&parts[0]);
    if let Some(n) = parts.get(1) {
        info.name.clone_from(n);
    }
    if !old_watch && let Some(s) = parts.get(2) {
        info.subresource.clone_from(s);
    }

    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch") { "watch" } else { "list" }.to_owned();
    }
    if info.name.is_empty() && (info.verb == "list" || info.verb == "watch") {
        // A selector for one name is authorized as an access to that name.
        if let Some(name) = query.get("fieldSelector").and_then(single_name) {
            info.name = name.to_owned();
        }
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".to_owned();
    }
    info
}

fn single_name(selector: &str) -> Option<&str> {
    selector.split(',').find_map(|t| {
        let v = t.trim().strip_prefix("metadata.name=")?;
        let v = v.strip_prefix('=').unwrap_or(v);
        (!v.is_empty() && crate::registry::names::path_segment(v).is_ok()).then_some(v)
    })
}

/// Requests that may run longer than the request timeout.
pub fn is_long_running(info: &RequestInfo) -> bool {
    if !info.is_resource {
        return info.path.starts_with("/debug/pprof/") || super::operation::is_long_running(&info.path);
    }
    info.verb == "watch"
        || info.verb == "proxy"
        || matches!(info.subresource.as_str(), "attach" | "exec" | "proxy" | "log" | "portforward")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(method: Method, url: &str) -> RequestInfo {
        let (path, q) = url.split_once('?').map_or((url, None), |(p, q)| (p, Some(q)));
        resolve(&method, path, &Query::parse(q))
    }

    #[test]
    fn resources() {
        let i = read(Method::GET, "/api/v1/namespaces/a/pods/p/log");
        assert_eq!(
            (
                i.verb.as_str(),
                i.namespace.as_str(),
                i.resource.as_str(),
                i.name.as_str(),
                i.subresource.as_str()
            ),
            ("get", "a", "pods", "p", "log")
        );
        assert!(is_long_running(&i));
        let i = read(Method::GET, "/apis/apps/v1/deployments?watch=true");
        assert_eq!(
            (i.verb.as_str(), i.api_group.as_str(), i.resource.as_str()),
            ("watch", "apps", "deployments")
        );
        let i = read(Method::PUT, "/api/v1/namespaces/a/finalize");
        assert_eq!(
            (i.resource.as_str(), i.name.as_str(), i.namespace.as_str(), i.subresource.as_str()),
            ("namespaces", "a", "a", "finalize")
        );
        let i = read(Method::DELETE, "/api/v1/namespaces/a/pods");
        assert_eq!(i.verb, "deletecollection");
        let i = read(Method::GET, "/api/v1/watch/namespaces/a/pods");
        assert_eq!((i.verb.as_str(), i.resource.as_str(), i.namespace.as_str()), ("watch", "pods", "a"));
        let i = read(Method::GET, "/api/v1/nodes?fieldSelector=metadata.name%3Dn1");
        assert_eq!((i.verb.as_str(), i.name.as_str()), ("list", "n1"));
    }

    #[test]
    fn others() {
        for p in ["/", "/healthz", "/api/v1", "/apis/apps/v1", "/openapi/v3/apis/apps/v1"] {
            let i = read(Method::GET, p);
            assert!(!i.is_resource, "{p}");
            assert_eq!(i.verb, "get");
        }
    }
}
