//! Bootstrap tokens, with which new nodes introduce themselves: [`signing`] lets them check that the cluster is the
//! one whose token they hold, [`cleaning`] removes tokens that have expired. Both are off by default.

pub mod cleaning;
pub mod signing;

use std::sync::Arc;

use component_base::controller::informer::Informer;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::runtime::watcher;

use crate::context::Context;

const NAMESPACE: &str = "kube-system";
const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";

/// The secrets that hold bootstrap tokens.
fn tokens(ctx: &Context) -> Arc<Informer<Secret>> {
    let api = Api::namespaced(ctx.clients.root(), NAMESPACE);
    let config = watcher::Config::default().fields(&format!("type={SECRET_TYPE}"));
    ctx.informers.selected("bootstrap tokens", api, config)
}

/// An entry of the secret; empty if it is not there or no text.
fn entry<'a>(secret: &'a Secret, key: &str) -> &'a str {
    secret
        .data
        .as_ref()
        .and_then(|d| d.get(key))
        .and_then(|v| std::str::from_utf8(&v.0).ok())
        .unwrap_or_default()
}

/// When the token expires: a moment that has passed if that can't be read; `None` if never.
fn expiration(secret: &Secret) -> Option<Timestamp> {
    match entry(secret, "expiration") {
        "" => None,
        text => Some(text.parse().unwrap_or(Timestamp::MIN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::ByteString;

    #[test]
    fn what_cannot_be_read_has_expired() {
        let secret = |text: &str| Secret {
            data: Some([("expiration".to_owned(), ByteString(text.as_bytes().to_vec()))].into()),
            ..Secret::default()
        };
        assert_eq!(expiration(&Secret::default()), None);
        assert_eq!(expiration(&secret("1970-01-01T00:00:10Z")), Timestamp::from_second(10).ok());
        assert_eq!(expiration(&secret("tomorrow")), Some(Timestamp::MIN));
    }
}
