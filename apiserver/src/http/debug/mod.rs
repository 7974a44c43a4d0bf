//! What operators look into: priority and fairness tables, profiles, the log level, `/statusz` and `/flagz`.
//! All of it needs authorization, as any path.

pub mod zpages;

use std::sync::Arc;

use component_base::serving::profiles;
use http::Method;

use super::router::Call;
use super::{Response, respond};
use crate::app::App;
use crate::flowcontrol::dump;
use crate::status::ApiResult;

/// Answers a path of these; none for others.
pub async fn answer(app: &Arc<App>, call: &mut Call<'_>) -> ApiResult<Option<Response>> {
    let path = call.parts.uri.path().to_owned();
    let get = matches!(call.parts.method, Method::GET | Method::HEAD);
    if let Some(name) = path.strip_prefix("/debug/api_priority_and_fairness/") {
        let Some(flow) = &app.flow else { return Ok(None) };
        let details = call.query.get("includeRequestDetails").is_some();
        return Ok(dump::answer(flow, name, details).map(|t| respond::text(200, t)));
    }
    if path == "/statusz" && get {
        return zpages::statusz(app, call).map(Some);
    }
    if path == "/flagz" && get {
        return zpages::flagz(app, call).map(Some);
    }
    if !app.settings.profiling {
        return Ok(None);
    }
    if path == "/debug/flags/v" {
        return log_level(call).await.map(Some);
    }
    if path == "/debug/flags" || path.starts_with("/debug/flags/") {
        let page = "<html>\n<head>\n<title>/debug/flags/</title>\n</head>\n<body>\n/debug/flags/<br>\n<br>\nflags:<br>\n<table>\n<tr>v<br>\n</table>\n</body>\n</html>\n";
        return Ok(Some(respond::bytes(200, "text/html; charset=utf-8", page)));
    }
    Ok(profiles::answer(&path).map(|p| respond::bytes(p.status.as_u16(), p.content_type, p.body)))
}

/// `PUT /debug/flags/v`: the body is the new level.
async fn log_level(call: &mut Call<'_>) -> ApiResult<Response> {
    if call.parts.method != Method::PUT {
        return Ok(respond::text(406, "unsupported http method"));
    }
    let body = call.read_body().await?;
    let text = String::from_utf8_lossy(&body).trim().to_owned();
    let set = text.parse::<u8>().map_err(|e| e.to_string()).and_then(component_base::logs::set_level);
    Ok(match set {
        Ok(()) => respond::text(200, format!("successfully set klog.logging.verbosity to {text}")),
        Err(e) => respond::text(400, format!("failed set klog.logging.verbosity {text}: {e}")),
    })
}
