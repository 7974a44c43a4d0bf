//! `componentstatuses`, deprecated since v1.19 and still what `kubectl get cs` asks: whether the store, the scheduler
//! and the controller manager are well. As upstream, the two daemons are asked where they serve by default on this
//! machine, and their certificates are not looked at: what is told is no secret, and nothing is sent to them.

use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use serde_json::{Value, json};

use super::{answer_virtual, list_virtual};
use crate::app::App;
use crate::http::Response;
use crate::http::negotiate::Offer;
use crate::http::router::Call;
use crate::registry::resource::Resource;
use crate::status::{ApiError, ApiResult};
use crate::table::Include;
use crate::webhook::client::cause;
use crate::webhook::connect::Connector;
use crate::webhook::tls;

/// The daemons by name, each with the port where it serves.
const DAEMONS: [(&str, u16); 2] = [("scheduler", 10259), ("controller-manager", 10257)];
const STORE: &str = "etcd-0";

/// How long a daemon has to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// As much of its answer is read.
const ANSWER_LIMIT: usize = 10 * 1024;

/// GET of one or all.
pub async fn answer(app: &App, call: &Call<'_>, r: &Resource) -> ApiResult<Response> {
    let offer = if call.info.parts.len() > 1 { Offer::Metadata } else { Offer::Transformed };
    let wanted = call.wanted(offer)?;
    let warnings = ["v1 ComponentStatus is deprecated in v1.19+".to_owned()];
    if call.info.parts.len() > 1 {
        let name = call.info.name.as_str();
        let found = match DAEMONS.iter().find(|(n, _)| *n == name) {
            Some(&(_, port)) => daemon(name, port).await,
            None if name == STORE => store(app).await,
            None => return Err(ApiError::not_found(r.group, "componentstatus", name)),
        };
        return answer_virtual(&r.schema, "v1", r.kind, 200, wanted, &found, &warnings);
    }
    let mut items = join_all(DAEMONS.map(|(name, port)| daemon(name, port))).await;
    items.push(store(app).await);
    list_virtual(r, items, wanted, Include::parse(&call.query, wanted)?, &warnings)
}

async fn store(app: &App) -> Value {
    let health = match app.registry.table().feed() {
        Some(feed) => feed.store().current_revision().await.map_err(|e| e.to_string()),
        None => Ok(0),
    };
    status(STORE, health.map(|_| "ok".to_owned()))
}

async fn daemon(name: &str, port: u16) -> Value {
    let url = format!("https://127.0.0.1:{port}/healthz");
    let asked = tokio::time::timeout(PATIENCE, ask(&url)).await;
    status(name, asked.unwrap_or_else(|_| Err(format!("Get \"{url}\": context deadline exceeded"))))
}

/// What the daemon says of itself, or why it is not well.
async fn ask(url: &str) -> Result<String, String> {
    let failed = |why: String| format!("Get \"{url}\": {why}");
    let tls = tls::config(&tls::Trust::Nothing, None, &[b"http/1.1"])?;
    let connector = Connector { tls, server_name: None, service: None, allow_plain: false };
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let request = Request::get(url).body(Empty::<Bytes>::new()).map_err(|e| failed(e.to_string()))?;
    let answer = client.request(request).await.map_err(|e| failed(cause(&e)))?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), ANSWER_LIMIT).collect().await;
    let text = body.map(|b| String::from_utf8_lossy(&b.to_bytes()).into_owned()).unwrap_or_default();
    if code.is_success() || code.is_redirection() {
        return Ok(text);
    }
    Err(format!("HTTP probe failed with statuscode: {}", code.as_u16()))
}

fn status(name: &str, health: Result<String, String>) -> Value {
    let (healthy, message) = match health {
        Ok(message) => ("True", message),
        Err(why) => ("False", why),
    };
    json!({
        "kind": "ComponentStatus", "apiVersion": "v1", "metadata": {"name": name},
        "conditions": [{"type": "Healthy", "status": healthy, "message": message}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_is_not_there_is_not_well() {
        // Bound and closed again: nobody listens.
        let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = socket.local_addr().expect("its address").port();
        drop(socket);
        let s = daemon("scheduler", port).await;
        let message = s["conditions"][0]["message"].as_str().expect("a message");
        assert!(
            s["conditions"][0]["status"] == "False"
                && message.starts_with(&format!("Get \"https://127.0.0.1:{port}/healthz\": "))
                && message.ends_with(": connect: connection refused"),
            "{s}"
        );
    }
}
