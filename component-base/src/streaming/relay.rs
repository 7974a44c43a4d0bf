//! Passing an upgraded connection through unchanged.

use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;

use super::backend::{Answer, Backend, forwarded, upgrade};
use crate::serving::listener::Body;

pub(super) async fn run(
    mut request: Request<Incoming>,
    backend: &dyn Backend,
) -> anyhow::Result<Response<Body>> {
    let headers = forwarded(request.headers());
    let (head, mut far) = match upgrade(backend, request.method().clone(), headers).await? {
        Answer::Refused(response) => return Ok(response),
        Answer::Upgraded { head, io } => (head, io),
    };
    let near = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        match near.await {
            Ok(near) => {
                // Either side may just vanish: that is how most streams end.
                let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(near), &mut far).await;
            }
            Err(e) => tracing::debug!(error = %e, "the client did not finish its upgrade"),
        }
    });
    Ok(Response::from_parts(head, Empty::new().map_err(|never| match never {}).boxed_unsync()))
}
