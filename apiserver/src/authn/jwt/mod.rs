//! Tokens of other issuers (OpenID Connect): verified with the issuer's keys, and made into users by the claims that
//! the configuration names.
//!
//! [`config`] is what the operator writes, [`provider`] finds and keeps an issuer's keys, [`keys`] verifies,
//! [`claims`] makes the user, [`expression`] is CEL.

pub mod claims;
pub mod config;
pub mod expression;
pub mod keys;
pub mod metrics;
pub mod provider;

use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::lookup::text;
use crate::request::UserInfo;
use crate::ttl_cache::TtlCache;
use claims::Mapper;
use metrics::Metrics;
use provider::Provider;

/// How long a token that was verified is taken from memory.
const REMEMBER: Duration = Duration::from_secs(10);
const REMEMBER_MAX: usize = 4096;
/// `nbf` may lie ahead by this much.
const NBF_LEEWAY: i64 = 300;

/// All issuers of one configuration.
pub struct Issuers {
    list: Vec<Issuer>,
    known: TtlCache<[u8; 32], UserInfo>,
    metrics: Arc<Metrics>,
}

struct Issuer {
    url: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    provider: Arc<Provider>,
    mapper: Mapper,
}

impl Issuers {
    /// Builds the authenticators and begins to look for the issuers. `algorithms` are those that signatures may use.
    pub fn new(
        config: &config::Configuration,
        algorithms: &[String],
        metrics: Arc<Metrics>,
    ) -> Result<Self, String> {
        for a in algorithms {
            if !keys::ALGORITHMS.contains(&a.as_str()) {
                return Err(format!("oidc: unsupported signing alg: {a:?}"));
            }
        }
        let mut list = Vec::new();
        for j in &config.jwt {
            let i = &j.issuer;
            let ca = i.certificate_authority.as_str();
            let provider = Provider::new(&i.url, &i.discovery_url, ca, metrics.clone())?;
            provider.start();
            list.push(Issuer {
                url: i.url.clone(),
                audiences: i.audiences.clone(),
                algorithms: algorithms.to_vec(),
                provider,
                mapper: Mapper::new(j)?,
            });
        }
        Ok(Self { list, known: TtlCache::new(REMEMBER_MAX), metrics })
    }

    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Waits until every issuer was found, for `patience` at most; the error says which was not, and why.
    pub async fn ready(&self, patience: Duration) -> Result<(), String> {
        let end = Instant::now() + patience;
        loop {
            let waiting = self.list.iter().find_map(|i| i.provider.trouble().map(|t| (&i.url, t)));
            match waiting {
                None => return Ok(()),
                Some((url, why)) if Instant::now() >= end => {
                    return Err(format!("oidc: authenticator for issuer {url:?} is not healthy: {why}"));
                }
                Some(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }

    /// None where the token is of no issuer here.
    pub async fn authenticate(&self, token: &str, now: i64) -> Result<Option<UserInfo>, String> {
        let mut parts = token.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Ok(None);
        };
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).ok();
        let Some(claims) = decode(payload).and_then(|b| serde_json::from_slice::<Value>(&b).ok()) else {
            return Ok(None);
        };
        let Some(issuer) = self.list.iter().find(|i| i.url == text(&claims, "/iss")) else { return Ok(None) };
        let id: [u8; 32] = Sha256::digest(token).into();
        if let Some(user) = self.known.get(&id, Instant::now()) {
            return Ok(Some(user));
        }
        let started = Instant::now();
        let signed = &token.as_bytes()[..header.len() + 1 + payload.len()];
        let header = decode(header).and_then(|b| serde_json::from_slice::<Value>(&b).ok());
        let result = match (header, decode(signature)) {
            (Some(header), Some(signature)) => issuer.verify(&header, &claims, signed, &signature, now).await,
            _ => Err("oidc: verify token: oidc: malformed jwt".to_owned()),
        };
        self.metrics.authenticated(&issuer.url, result.is_ok(), started.elapsed());
        let user = result?;
        let left = claims.pointer("/exp").and_then(number).map_or(0, |exp| exp - now);
        let ttl = REMEMBER.min(Duration::from_secs(u64::try_from(left).unwrap_or(0)));
        self.known.put(id, user.clone(), Instant::now(), ttl);
        Ok(Some(user))
    }
}

/// A date, which issuers write with or without fraction.
fn number(v: &Value) -> Option<i64> {
    v.as_i64().or_else(|| v.as_f64().map(|f| f as i64))
}

impl Issuer {
    async fn verify(
        &self,
        header: &Value,
        claims: &Value,
        signed: &[u8],
        signature: &[u8],
        now: i64,
    ) -> Result<UserInfo, String> {
        if self.provider.trouble().is_some() {
            return Err("oidc: authenticator not initialized".to_owned());
        }
        let bad = |why: String| Err(format!("oidc: verify token: oidc: {why}"));
        let audiences = claims::strings_or_one(claims.get("aud"));
        if !audiences.iter().any(|a| self.audiences.contains(a)) {
            return bad(format!("expected audience in {:?} got {audiences:?}", self.audiences));
        }
        match claims.pointer("/exp").and_then(number) {
            Some(exp) if now < exp => {}
            exp => {
                let exp = super::rfc3339(exp.unwrap_or(0));
                return bad(format!("token is expired (Token Expiry: {exp})"));
            }
        }
        if let Some(nbf) = claims.pointer("/nbf").and_then(number)
            && now + NBF_LEEWAY < nbf
        {
            let (now, nbf) = (super::rfc3339(now), super::rfc3339(nbf));
            return bad(format!("current time {now} before the nbf (not before) time: {nbf}"));
        }
        let algorithm = text(header, "/alg");
        if !self.algorithms.iter().any(|a| a == algorithm) {
            return bad(format!(
                "id token signed with unsupported algorithm, expected {:?} got {algorithm:?}",
                self.algorithms
            ));
        }
        if let Err(e) = self.provider.verify(algorithm, text(header, "/kid"), signed, signature).await {
            return Err(format!("oidc: verify token: {e}"));
        }
        self.mapper.user(claims)
    }
}
