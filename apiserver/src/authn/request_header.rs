//! Front proxies: a proxy with a certificate of its own CA names the user in headers.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::HeaderMap;
use rustls::pki_types::CertificateDer;

use super::x509::{X509, common_name};
use crate::request::UserInfo;

/// The `--requestheader-*` flags.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// Contents of `--requestheader-client-ca-file`.
    pub client_ca: Vec<u8>,
    /// `--requestheader-allowed-names`; empty allows any name.
    pub allowed_names: Vec<String>,
    pub username_headers: Vec<String>,
    pub uid_headers: Vec<String>,
    pub group_headers: Vec<String>,
    pub extra_headers_prefixes: Vec<String>,
}

/// See the module.
pub struct RequestHeader {
    config: Config,
    ca: X509,
}

impl RequestHeader {
    pub fn new(mut config: Config) -> Result<Self, String> {
        let ca = X509::new("--requestheader-client-ca-file", &config.client_ca)?;
        config.client_ca = Vec::new();
        Ok(Self { config, ca })
    }

    /// None where the client is no front proxy or names nobody.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<Option<UserInfo>, String> {
        let Some(leaf) = chain.first() else { return Ok(None) };
        let Some(name) = first(headers, &self.config.username_headers) else { return Ok(None) };
        if self.ca.verify(chain, now).is_err() {
            // Not from our proxies: the headers mean nothing, the certificate may still be a client's.
            return Ok(None);
        }
        let proxy = common_name(leaf);
        if !self.config.allowed_names.is_empty() && !self.config.allowed_names.contains(&proxy) {
            return Err(format!("x509: subject with cn={proxy} is not in the allowed list"));
        }
        let groups = self
            .config
            .group_headers
            .iter()
            .flat_map(|h| headers.get_all(h.as_str()))
            .filter_map(|v| v.to_str().ok())
            .map(str::to_owned)
            .collect();
        let uid = first(headers, &self.config.uid_headers).unwrap_or_default();
        Ok(Some(UserInfo { name, uid, groups, extra: self.extra(headers) }))
    }

    /// Takes the configured headers out.
    pub fn strip(&self, headers: &mut HeaderMap) {
        let c = &self.config;
        for name in c.username_headers.iter().chain(&c.uid_headers).chain(&c.group_headers) {
            headers.remove(name.as_str());
        }
        for prefix in &c.extra_headers_prefixes {
            strip_prefixed(headers, prefix);
        }
    }

    fn extra(&self, headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
        let mut out: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in headers {
            for prefix in &self.config.extra_headers_prefixes {
                let Some(key) = strip_prefix_ignore_case(name.as_str(), prefix) else { continue };
                if let Ok(v) = value.to_str() {
                    out.entry(decode_key(key)).or_default().push(v.to_owned());
                }
            }
        }
        out
    }
}

/// Takes the headers out that front proxies use by convention, whoever sent them.
pub fn strip_standard(headers: &mut HeaderMap) {
    for name in ["x-remote-user", "x-remote-uid", "x-remote-group"] {
        headers.remove(name);
    }
    strip_prefixed(headers, "x-remote-extra-");
}

fn strip_prefixed(headers: &mut HeaderMap, prefix: &str) {
    let found: Vec<http::HeaderName> =
        headers.keys().filter(|k| strip_prefix_ignore_case(k.as_str(), prefix).is_some()).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

/// A header's rest after a prefix, whatever the case.
pub(crate) fn strip_prefix_ignore_case<'a>(name: &'a str, prefix: &str) -> Option<&'a str> {
    let head = name.get(..prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then(|| &name[prefix.len()..])
}

/// Keys come in lower case, with what headers cannot hold percent-encoded.
pub(crate) fn decode_key(key: &str) -> String {
    let lower = key.to_ascii_lowercase();
    percent_encoding::percent_decode_str(&lower).decode_utf8().map(|s| s.into_owned()).unwrap_or(lower)
}

fn first(headers: &HeaderMap, names: &[String]) -> Option<String> {
    names
        .iter()
        .filter_map(|n| headers.get(n.as_str()))
        .filter_map(|v| v.to_str().ok())
        .find(|v| !v.is_empty())
        .map(str::to_owned)
}
