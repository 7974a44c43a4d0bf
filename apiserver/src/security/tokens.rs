//! The keys and names of service-account tokens, from the `--service-account-*` flags.

use std::net::{IpAddr, SocketAddr};

use super::{plain, read};
use crate::authn::{keys, service_account};
use crate::config::Flags;

/// What service-account tokens need.
pub struct Tokens {
    pub verify: Option<service_account::Config>,
    pub signing: Option<keys::SigningKey>,
    pub audiences: Vec<String>,
    pub jwks: Option<serde_json::Value>,
    pub openid: Option<serde_json::Value>,
}

impl Tokens {
    /// Reads the key files.
    pub fn load(flags: &Flags, advertised: IpAddr) -> anyhow::Result<Self> {
        let issuers = flags.service_account_issuer.clone();
        let audiences =
            if flags.api_audiences.is_empty() { issuers.clone() } else { flags.api_audiences.clone() };
        let mut public = Vec::new();
        for f in &flags.service_account_key_file {
            let pem = read("--service-account-key-file", Some(f))?.unwrap_or_default();
            public.extend(plain(keys::public_keys("--service-account-key-file", &pem))?);
        }
        let signing = match read(
            "--service-account-signing-key-file",
            flags.service_account_signing_key_file.as_deref(),
        )? {
            Some(pem) => Some(plain(keys::SigningKey::from_pem("--service-account-signing-key-file", &pem))?),
            None => None,
        };
        if public.is_empty()
            && let Some(s) = &signing
        {
            public.push(s.public().clone());
        }
        let issuer = issuers.first().cloned().unwrap_or_default();
        let uri = flags.service_account_jwks_uri.clone().unwrap_or_else(|| {
            let host = match flags.external_hostname.as_str() {
                "" => SocketAddr::new(advertised, flags.secure_port).to_string(),
                name => format!("{name}:{}", flags.secure_port),
            };
            format!("https://{host}/openid/v1/jwks")
        });
        let jwks = (!public.is_empty()).then(|| keys::jwks(&public));
        let openid = keys::openid_configuration(&issuer, &uri, &public).filter(|_| jwks.is_some());
        let verify = (!public.is_empty() && !issuers.is_empty()).then(|| service_account::Config {
            issuers,
            keys: public,
            api_audiences: audiences.clone(),
        });
        Ok(Self { verify, signing, audiences, jwks, openid })
    }
}
