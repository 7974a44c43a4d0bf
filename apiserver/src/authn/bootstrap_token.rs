//! Bootstrap tokens: secrets `kube-system/bootstrap-token-ID`, with which new nodes ask for their certificates.

use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::unix;
use crate::lookup::{self, ObjectLookup, text};
use crate::request::UserInfo;

const SECRET_TYPE: &str = "bootstrap.kubernetes.io/token";
const DEFAULT_GROUP: &str = "system:bootstrappers";

/// See the module.
pub struct BootstrapTokens {
    objects: Arc<dyn ObjectLookup>,
}

impl BootstrapTokens {
    pub fn new(objects: Arc<dyn ObjectLookup>) -> Self {
        Self { objects }
    }

    /// None where the token has another form or does not match a live secret.
    pub async fn authenticate(&self, token: &str, now: SystemTime) -> Result<Option<UserInfo>, String> {
        let Some((id, secret)) = split(token) else { return Ok(None) };
        let name = format!("bootstrap-token-{id}");
        let stored = self
            .objects
            .get(lookup::SECRETS, "kube-system", &name)
            .await
            .map_err(|e| format!("reading the secret kube-system/{name}: {e}"))?;
        Ok(stored.and_then(|s| judge(&s, id, secret, unix(now))))
    }
}

fn split(token: &str) -> Option<(&str, &str)> {
    let (id, secret) = token.split_once('.')?;
    let ok =
        |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (ok(id, 6) && ok(secret, 16)).then_some((id, secret))
}

fn judge(object: &Value, id: &str, secret: &str, now: i64) -> Option<UserInfo> {
    let field = |key: &str| {
        let encoded = text(object, &format!("/data/{key}"));
        STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok()).unwrap_or_default()
    };
    let dead = object.pointer("/metadata/deletionTimestamp").is_some_and(|v| !v.is_null());
    if dead || text(object, "/type") != SECRET_TYPE || field("token-id") != id {
        return None;
    }
    let stored = field("token-secret");
    if !same(stored.as_bytes(), secret.as_bytes()) || field("usage-bootstrap-authentication") != "true" {
        return None;
    }
    let expiration = field("expiration");
    if !expiration.is_empty() {
        // An expiration that cannot be read counts as passed.
        let at: jiff::Timestamp = expiration.parse().ok()?;
        if at.as_second() <= now {
            return None;
        }
    }
    let mut groups = vec![DEFAULT_GROUP.to_owned()];
    for g in field("auth-extra-groups").split(',').map(str::trim).filter(|g| !g.is_empty()) {
        if !g.strip_prefix(DEFAULT_GROUP).is_some_and(|rest| rest.starts_with(':')) {
            return None;
        }
        groups.push(g.to_owned());
    }
    groups.sort();
    groups.dedup();
    Some(UserInfo { name: format!("system:bootstrap:{id}"), groups, ..UserInfo::default() })
}

/// Equality in constant time.
pub(super) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn secret(more: &[(&str, &str)]) -> Value {
        let mut data = json!({});
        let base = [
            ("token-id", "abcdef"),
            ("token-secret", "0123456789abcdef"),
            ("usage-bootstrap-authentication", "true"),
        ];
        for (k, v) in base.iter().chain(more) {
            data[*k] = STANDARD.encode(v).into();
        }
        json!({"metadata":{"name":"bootstrap-token-abcdef"},"type":SECRET_TYPE,"data":data})
    }

    #[test]
    fn tokens() {
        let ask = |s: &Value, secret: &str| judge(s, "abcdef", secret, 1_000_000_000);
        let good = "0123456789abcdef";
        let u = ask(&secret(&[("auth-extra-groups", "system:bootstrappers:kubeadm")]), good).unwrap();
        assert_eq!(u.name, "system:bootstrap:abcdef");
        assert_eq!(u.groups, ["system:bootstrappers", "system:bootstrappers:kubeadm"]);
        assert!(ask(&secret(&[]), "0123456789abcdee").is_none());
        assert!(ask(&secret(&[("usage-bootstrap-authentication", "false")]), good).is_none());
        assert!(ask(&secret(&[("expiration", "2001-01-01T00:00:00Z")]), good).is_none());
        assert!(ask(&secret(&[("expiration", "2100-01-01T00:00:00Z")]), good).is_some());
        assert!(ask(&secret(&[("expiration", "soon")]), good).is_none());
        assert!(ask(&secret(&[("auth-extra-groups", "system:masters")]), good).is_none());
        assert!(split("abcdef.0123456789abcdef").is_some());
        assert!(split("abc.0123456789abcdef").is_none());
        assert!(split("ABCDEF.0123456789abcdef").is_none());
    }
}
