//! Who is called: `WebhookClientConfig` of `admissionregistration.k8s.io` and `apiextensions.k8s.io`, and the service
//! reference of an `APIService`.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

/// Port of a service reference that names none.
const DEFAULT_PORT: u16 = 443;

/// Where a webhook is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Target {
    /// An `https` URL.
    Url(String),
    /// A service of the cluster; `path` starts with a slash or is empty.
    Service { namespace: String, name: String, path: String, port: u16 },
}

/// Who is called and what it is trusted by. Equal configurations share connections.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientConfig {
    pub target: Target,
    /// Certificates in PEM; empty for the system's authorities.
    pub ca_bundle: Vec<u8>,
}

impl ClientConfig {
    /// Reads a `WebhookClientConfig`.
    ///
    /// # Errors
    /// Neither or both of `url` and `service` are given, or the bundle is no base64.
    pub fn from_value(v: &Value) -> Result<Self, String> {
        let text = |v: &Value, f: &str| v.get(f).and_then(Value::as_str).unwrap_or_default().to_owned();
        let target = match (v.get("url").and_then(Value::as_str), v.get("service").filter(|s| s.is_object()))
        {
            (Some(url), None) => Target::Url(url.to_owned()),
            (None, Some(s)) => Target::Service {
                namespace: text(s, "namespace"),
                name: text(s, "name"),
                path: absolute(&text(s, "path")),
                port: port(s.get("port"))?,
            },
            _ => return Err("webhook configuration must have either service or URL".to_owned()),
        };
        let ca_bundle = STANDARD
            .decode(text(v, "caBundle"))
            .map_err(|e| format!("unable to load root certificates: {e}"))?;
        Ok(Self { target, ca_bundle })
    }

    /// The URL of calls: that given, or the service's name as a host.
    pub fn url(&self) -> String {
        match &self.target {
            Target::Url(u) => u.clone(),
            Target::Service { path, port, .. } => {
                format!("https://{}:{port}{path}", self.service_host().unwrap_or_default())
            }
        }
    }

    /// `NAME.NAMESPACE.svc`: what a service's certificate is checked for.
    pub fn service_host(&self) -> Option<String> {
        match &self.target {
            Target::Url(_) => None,
            Target::Service { namespace, name, .. } => Some(format!("{name}.{namespace}.svc")),
        }
    }
}

fn absolute(path: &str) -> String {
    if path.is_empty() || path.starts_with('/') { path.to_owned() } else { format!("/{path}") }
}

/// The port of a service reference.
///
/// # Errors
/// It is out of range.
pub fn port(v: Option<&Value>) -> Result<u16, String> {
    match v.and_then(Value::as_i64) {
        None | Some(0) => Ok(DEFAULT_PORT),
        Some(n) => u16::try_from(n).map_err(|_| format!("port {n} is not valid")),
    }
}
