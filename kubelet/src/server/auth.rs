//! Who may use the kubelet's API: client certificates and webhook tokens, then the API server's word on
//! `nodes/…` of this node.

use component_base::serving::{
    delegated::{Action, Delegated, Refusal},
    identity::Identity,
};
use http::{Method, request::Parts};

use crate::options::KubeletConfiguration;

/// Decides about requests.
pub struct Auth {
    delegated: Option<Delegated>,
    anonymous: bool,
    tokens: bool,
    always_allow: bool,
    node: String,
}

/// The API verb of an HTTP method.
fn verb(method: &Method) -> &'static str {
    match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    }
}

/// Subresources of `nodes` that allow a path: any of them is enough, the fine-grained one first.
pub fn subresources(path: &str) -> Vec<&'static str> {
    let under = |p: &str| path == p || path.strip_prefix(p).is_some_and(|r| r.starts_with('/'));
    if under("/stats") {
        vec!["stats"]
    } else if under("/metrics") {
        vec!["metrics"]
    } else if under("/logs") {
        vec!["log"]
    } else if under("/checkpoint") {
        vec!["checkpoint"]
    } else if under("/healthz") {
        vec!["healthz", "proxy"]
    } else if under("/configz") {
        vec!["configz", "proxy"]
    } else if under("/pods") || under("/runningpods") {
        vec!["pods", "proxy"]
    } else {
        vec!["proxy"]
    }
}

impl Auth {
    pub fn new(c: &KubeletConfiguration, delegated: Option<Delegated>, node: &str) -> Self {
        Self {
            delegated,
            anonymous: c.authentication.anonymous.enabled,
            tokens: c.authentication.webhook.enabled,
            always_allow: c.authorization.mode == "AlwaysAllow",
            node: node.to_owned(),
        }
    }

    /// Admits the request or says why not.
    pub async fn admit(&self, parts: &Parts) -> Result<(), Refusal> {
        let who = self.who(parts).await?;
        if self.always_allow {
            return Ok(());
        }
        let delegated = self
            .delegated
            .as_ref()
            .ok_or_else(|| Refusal::Unavailable("authorization.mode Webhook needs --kubeconfig".into()))?;
        let mut refusal = Refusal::Unauthorized;
        for subresource in subresources(parts.uri.path()) {
            let action = Action::Resource {
                resource: "nodes".into(),
                subresource: subresource.into(),
                name: self.node.clone(),
                verb: verb(&parts.method).into(),
            };
            match delegated.authorize(&who, &action).await {
                Ok(()) => return Ok(()),
                Err(e @ Refusal::Unavailable(_)) => return Err(e),
                Err(e) => refusal = e,
            }
        }
        Err(refusal)
    }

    async fn who(&self, parts: &Parts) -> Result<Identity, Refusal> {
        let peer = parts.extensions.get::<component_base::serving::listener::Peer>();
        let has_certificate = peer.is_some_and(|p| !p.certificates.is_empty());
        let found = match &self.delegated {
            Some(d) if has_certificate || self.tokens => d.authenticate(parts).await,
            _ if has_certificate => peer
                .and_then(|p| p.certificates.first())
                .and_then(|c| component_base::serving::identity::from_der(c).ok())
                .ok_or(Refusal::Unauthorized),
            _ => Err(Refusal::Unauthorized),
        };
        match found {
            Err(Refusal::Unauthorized)
                if self.anonymous && !parts.headers.contains_key(http::header::AUTHORIZATION) =>
            {
                Ok(Identity {
                    user: "system:anonymous".into(),
                    groups: vec!["system:unauthenticated".into()],
                    ..Identity::default()
                })
            }
            other => other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_need_their_subresource() {
        assert_eq!(subresources("/stats/summary"), ["stats"]);
        assert_eq!(subresources("/metrics/cadvisor"), ["metrics"]);
        assert_eq!(subresources("/pods"), ["pods", "proxy"]);
        assert_eq!(subresources("/podsx"), ["proxy"]);
        assert_eq!(subresources("/exec/a/b/c"), ["proxy"]);
        assert_eq!(verb(&Method::POST), "create");
        assert_eq!(verb(&Method::GET), "get");
    }
}
