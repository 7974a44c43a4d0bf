//! `/statusz` and `/flagz` (KEP-4827, KEP-4828): the server about itself, as text for people, and as a versioned
//! object for those who ask for one.

use std::time::SystemTime;

use http::header;
use serde_json::{Value, json};

use crate::app::App;
use crate::http::negotiate::Format;
use crate::http::router::Call;
use crate::http::{Response, respond};
use crate::status::{ApiError, ApiResult};

const COMPONENT: &str = "kube-apiserver";
const GROUP: &str = "config.k8s.io";
/// What lists itself elsewhere and is of no use for debugging.
const NOT_LISTED: &[&str] = &["/apis", "/api", "/openid", "/openapi", "/.well-known"];

/// What the client wants.
enum Wanted {
    Text,
    Object { format: Format, version: &'static str },
}

fn header_text(page: &str) -> String {
    format!(
        "\n{COMPONENT} {page}\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n"
    )
}

/// Text, where nothing or text is asked for; an object only by its full name.
fn negotiate(call: &Call<'_>, kind: &str) -> ApiResult<Wanted> {
    let accept = call.parts.headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    if accept.trim().is_empty() {
        return Ok(Wanted::Text);
    }
    for clause in accept.split(',') {
        let mut parts = clause.split(';').map(str::trim);
        let media = parts.next().unwrap_or_default();
        let params: Vec<(&str, &str)> = parts.filter_map(|p| p.split_once('=')).collect();
        let param = |k: &str| params.iter().find(|(n, _)| *n == k).map(|(_, v)| *v);
        let format = match media {
            "text/plain" | "text/*" | "*/*" if param("as").is_none() => return Ok(Wanted::Text),
            "application/json" => Format::Json,
            "application/yaml" => Format::Yaml,
            _ => continue,
        };
        let version = ["v1beta1", "v1alpha1"].into_iter().find(|v| param("v") == Some(v));
        if let Some(version) = version
            && param("g") == Some(GROUP)
            && param("as") == Some(kind)
        {
            return Ok(Wanted::Object { format, version });
        }
    }
    Err(ApiError::not_acceptable(
        "only the following media types are accepted: application/json, application/yaml, text/plain",
    ))
}

fn object(format: Format, version: &str, kind: &str, page: &str, mut value: Value) -> Response {
    value["kind"] = kind.into();
    value["apiVersion"] = format!("{GROUP}/{version}").into();
    value["metadata"] = json!({"name": COMPONENT});
    let wanted = crate::http::negotiate::Wanted { format, ..crate::http::negotiate::Wanted::JSON };
    let mut r = respond::json(200, wanted, &value);
    if version == "v1alpha1" {
        let sentence =
            format!("This version of the {page} endpoint is deprecated. Please use a newer version.");
        respond::warn(&mut r, &[sentence]);
    }
    r
}

/// `/statusz`.
pub fn statusz(app: &App, call: &Call<'_>) -> ApiResult<Response> {
    use component_base::version::{MAJOR, MINOR};
    let version = format!("{MAJOR}.{MINOR}");
    let up = SystemTime::now().duration_since(app.started).unwrap_or_default();
    let started = jiff::Timestamp::try_from(app.started).unwrap_or_default();
    let mut paths = crate::discovery::paths::paths(app);
    paths.retain(|p| !NOT_LISTED.iter().any(|n| p.starts_with(n)));
    Ok(match negotiate(call, "Statusz")? {
        Wanted::Text => {
            let seconds = up.as_secs();
            let up = format!("{} hr {:02} min {:02} sec", seconds / 3600, seconds / 60 % 60, seconds % 60);
            let text = format!(
                "{}\nStarted: {}\nUp: {up}\nGo version: \nBinary version: {version}\nEmulation version: {version}\nPaths: {}\n",
                header_text("statusz"),
                started.strftime("%a %b %e %H:%M:%S UTC %Y"),
                paths.join(" ")
            );
            respond::text(200, text)
        }
        Wanted::Object { format, version: api } => {
            let value = json!({
                "startTime": started.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
                "uptimeSeconds": up.as_secs(),
                "goVersion": "",
                "binaryVersion": version,
                "emulationVersion": version,
                "paths": paths,
            });
            object(format, api, "Statusz", "statusz", value)
        }
    })
}

/// `/flagz`.
pub fn flagz(app: &App, call: &Call<'_>) -> ApiResult<Response> {
    let flags = app.settings.flags.shown();
    Ok(match negotiate(call, "Flagz")? {
        Wanted::Text => {
            let mut text = header_text("flagz");
            for (name, value) in &flags {
                text.push_str(&format!("{name}={value}\n"));
            }
            respond::text(200, text)
        }
        Wanted::Object { format, version } => {
            object(format, version, "Flagz", "flagz", json!({"flags": flags}))
        }
    })
}
