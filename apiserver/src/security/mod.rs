//! Who may connect, who he is and what he may: built from the flags, and kept up to date with the files that they
//! name.
//!
//! [`tokens`] reads the keys of service-account tokens, [`tls`] builds the TLS side, [`networks`] decides on addresses,
//! [`reload`] watches files, [`configs`] takes in changed configurations.

pub mod configs;
pub mod networks;
pub mod reload;
pub mod tls;
pub mod tokens;

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use component_base::serving::listener::{Gate, Intake};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::authn::{self, Authenticator, request_header};
use crate::authz::Authorizer;
use crate::bootstrap;
use crate::config::Flags;
use crate::lookup::{ObjectLookup, ObjectWriter};
use tokens::Tokens;

/// The contents of a flag's file; none where the flag is not given.
pub fn read(flag: &str, path: Option<&Path>) -> anyhow::Result<Option<Vec<u8>>> {
    path.map(|p| std::fs::read(p).with_context(|| format!("{flag}: reading {}", p.display()))).transpose()
}

/// An error that is a sentence, as one with context.
pub fn plain<T>(r: Result<T, String>) -> anyhow::Result<T> {
    r.map_err(|e| anyhow!(e))
}

/// The CAs that clients are verified with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientCas {
    /// Contents of `--client-ca-file`.
    pub clients: Option<Vec<u8>>,
    /// Contents of `--requestheader-client-ca-file`.
    pub proxies: Option<Vec<u8>>,
}

impl ClientCas {
    fn read(flags: &Flags) -> anyhow::Result<Self> {
        Ok(Self {
            clients: read("--client-ca-file", flags.client_ca_file.as_deref())?,
            proxies: read("--requestheader-client-ca-file", flags.requestheader_client_ca_file.as_deref())?,
        })
    }

    /// The config map from which delegating servers learn the CAs.
    pub fn published(&self, flags: &Flags) -> Vec<(String, String)> {
        let text = |b: &[u8]| String::from_utf8_lossy(b).into_owned();
        let list = |l: &[String]| serde_json::to_string(l).unwrap_or_default();
        let mut out = Vec::new();
        if let Some(ca) = &self.clients {
            out.push(("client-ca-file".to_owned(), text(ca)));
        }
        if let Some(ca) = &self.proxies {
            for (key, value) in [
                ("requestheader-client-ca-file", text(ca)),
                ("requestheader-allowed-names", list(&flags.requestheader_allowed_names)),
                ("requestheader-username-headers", list(&flags.requestheader_username_headers)),
                ("requestheader-uid-headers", list(&flags.requestheader_uid_headers)),
                ("requestheader-group-headers", list(&flags.requestheader_group_headers)),
                ("requestheader-extra-headers-prefix", list(&flags.requestheader_extra_headers_prefix)),
            ] {
                out.push((key.to_owned(), value));
            }
        }
        out
    }
}

fn request_header_config(flags: &Flags, client_ca: Vec<u8>) -> request_header::Config {
    request_header::Config {
        client_ca,
        allowed_names: flags.requestheader_allowed_names.clone(),
        username_headers: flags.requestheader_username_headers.clone(),
        uid_headers: flags.requestheader_uid_headers.clone(),
        group_headers: flags.requestheader_group_headers.clone(),
        extra_headers_prefixes: flags.requestheader_extra_headers_prefix.clone(),
    }
}

/// Everything about security that the server is made of.
pub struct Security {
    pub authenticator: Arc<Authenticator>,
    pub authorizer: Arc<Authorizer>,
    pub tokens: Tokens,
    pub cas: ClientCas,
    serving: tls::Serving,
    tls: watch::Sender<Arc<rustls::ServerConfig>>,
    gate: Option<Gate>,
}

impl Security {
    /// Reads all files that the flags name.
    pub fn build(flags: &Flags, advertised: IpAddr, objects: Arc<dyn ObjectLookup>) -> anyhow::Result<Self> {
        let tokens = Tokens::load(flags, advertised)?;
        let cas = ClientCas::read(flags)?;
        let serving = tls::Serving::new(flags, advertised)?;
        let (tls, _) = watch::channel(serving.config(&cas)?);
        let jwt = configs::authentication(flags)?;
        let auth = &flags.auth;
        let authenticator = plain(Authenticator::new(
            authn::Config {
                client_ca: cas.clients.clone(),
                request_header: cas.proxies.clone().map(|ca| request_header_config(flags, ca)),
                token_file: read("--token-auth-file", flags.token_auth_file.as_deref())?,
                service_account: tokens.verify.clone(),
                bootstrap_tokens: flags.enable_bootstrap_token_auth,
                anonymous: configs::anonymous(flags, &jwt)?,
                jwt: (jwt, configs::algorithms(flags)),
                token_webhook: auth.authentication_token_webhook_config_file.as_ref().map(|file| {
                    authn::token_webhook::Config {
                        config_file: file.clone(),
                        version: auth.authentication_token_webhook_version.clone(),
                        cache_ttl: auth.authentication_token_webhook_cache_ttl.0,
                    }
                }),
                api_audiences: tokens.audiences.clone(),
            },
            objects,
        ))?;
        let policy = read("--authorization-policy-file", auth.authorization_policy_file.as_deref())?;
        let authorizer = plain(Authorizer::configured(&configs::authorization(flags)?, policy.as_deref()))?;
        Ok(Self {
            authenticator: Arc::new(authenticator),
            authorizer: Arc::new(authorizer),
            tokens,
            cas,
            serving,
            tls,
            gate: plain(networks::gate(&auth.client_allow_cidrs, &auth.client_deny_cidrs))?,
        })
    }

    /// How the listener takes connections in.
    pub fn intake(&self) -> Intake {
        Intake { tls: Some(self.tls.subscribe()), gate: self.gate.clone(), ..Intake::default() }
    }

    /// Follows all files until `stop`. `settings` is what was published of the CAs through `writer`.
    pub fn follow(
        self,
        flags: &Flags,
        writer: Arc<dyn ObjectWriter>,
        settings: bootstrap::Settings,
        stop: &CancellationToken,
    ) {
        configs::follow(flags, &self.authenticator, &self.authorizer, stop);
        let files = self.serving.files().into_iter();
        let cas = [&flags.client_ca_file, &flags.requestheader_client_ca_file];
        let files: Vec<_> = files.chain(cas.into_iter().flatten().cloned()).collect();
        let flags = flags.clone();
        let shared =
            Arc::new((self.authenticator, self.serving, self.tls, parking_lot::Mutex::new(self.cas)));
        reload::on_change(files, stop.clone(), move || {
            let (flags, shared, writer) = (flags.clone(), shared.clone(), writer.clone());
            let mut settings = settings.clone();
            async move {
                let (authenticator, serving, tls, known) = &*shared;
                let result = ClientCas::read(&flags).and_then(|cas| {
                    tls.send_replace(serving.config(&cas)?);
                    let changed = *known.lock() != cas;
                    if changed {
                        if let Some(ca) = &cas.clients {
                            plain(authenticator.set_client_ca(ca))?;
                        }
                        if let Some(ca) = &cas.proxies {
                            plain(
                                authenticator.set_request_header(request_header_config(&flags, ca.clone())),
                            )?;
                        }
                        known.lock().clone_from(&cas);
                    }
                    Ok((cas, changed))
                });
                match result {
                    Ok((cas, changed)) => {
                        tracing::info!("certificates were read again");
                        settings.authentication_config = cas.published(&flags);
                        if changed && let Err(e) = bootstrap::authentication_config(&*writer, &settings).await
                        {
                            tracing::error!(error = %e, "the new CAs could not be published");
                        }
                    }
                    Err(e) => {
                        tracing::error!(
                            error = format!("{e:#}"),
                            "changed certificates cannot be used; the old ones stay"
                        );
                    }
                }
            }
        });
    }
}
