//! Requests that this server passes on to a kubelet, a pod or a service: logs, exec, attach, port-forward and the
//! proxy subresources.
//!
//! [`answer`] is the one entrance: it receives the request with its body and connection (upgrades work through
//! [`hyper::upgrade::on`]), already authenticated and authorized.

mod admit;
pub mod kubelet;
mod links;
pub mod logs;
pub mod proxy;
pub mod streams;

use std::sync::Arc;

pub use kubelet::Kubelets;

use crate::app::App;
use crate::http::Response;
use crate::http::router::Call;
use crate::registry::resource::Resource;
use crate::status::{ApiError, ApiResult};

/// Subresources whose bodies and connections are passed on.
pub fn is_connecting(subresource: &str) -> bool {
    matches!(subresource, "log" | "exec" | "attach" | "portforward" | "proxy")
}

/// Answers a connecting subresource.
pub async fn answer(app: &Arc<App>, mut call: Call<'_>, r: &Resource) -> ApiResult<Response> {
    // Logs are read, not connected to.
    if call.info.subresource != "log" {
        admit::admit(app, &mut call, r).await?;
    }
    match (r.resource, call.info.subresource.as_str()) {
        ("pods", "log") => logs::answer(app, call, r).await,
        ("pods", "exec" | "attach" | "portforward") => streams::answer(app, call, r).await,
        (_, "proxy") => proxy::answer(app, call, r).await,
        _ => Err(ApiError::no_such_path()),
    }
}
