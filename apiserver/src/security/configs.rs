//! The structured configurations of authentication and authorization: read at start, and again when they change. A
//! change that cannot be used leaves what was, and is counted.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};
use tokio_util::sync::CancellationToken;

use super::{plain, read, reload};
use crate::app::App;
use crate::authn::jwt::{self, keys};
use crate::authn::{Anonymous, Authenticator, unix};
use crate::authz::{self, Authorizer};
use crate::config::Flags;
use crate::store::Store;
use crate::store::encryption::{self, Encrypted};

/// How long new issuers may take to be found before the old ones are given up.
const ISSUERS: Duration = Duration::from_secs(60);

/// Token issuers, from the file or from the older flags.
pub fn authentication(flags: &Flags) -> anyhow::Result<jwt::config::Configuration> {
    let own = &flags.service_account_issuer;
    if let Some(file) = &flags.auth.authentication_config {
        let contents = read("--authentication-config", Some(file))?.unwrap_or_default();
        return plain(jwt::config::Configuration::parse(&contents, own)).with_context(|| {
            format!("failed to load authentication configuration from file {:?}", file.display())
        });
    }
    let ca = read("--oidc-ca-file", flags.auth.oidc_ca_file.as_deref())?;
    let ca = ca.map(String::from_utf8).transpose().context("--oidc-ca-file is not text")?;
    let config = plain(flags.auth.oidc(ca))?;
    plain(config.check(own))?;
    Ok(config)
}

/// The signature algorithms that issuers may use: all where a file names them.
pub fn algorithms(flags: &Flags) -> Vec<String> {
    if flags.auth.authentication_config.is_some() {
        return keys::ALGORITHMS.iter().map(|a| (*a).to_owned()).collect();
    }
    flags.auth.oidc_signing_algs.clone()
}

/// Who may come without credentials: the file or the flag says so, not both.
pub fn anonymous(flags: &Flags, config: &jwt::config::Configuration) -> anyhow::Result<Anonymous> {
    match (&config.anonymous, flags.anonymous_auth) {
        (Some(_), Some(_)) => bail!(
            "anonymous: Forbidden: --anonymous-auth flag cannot be set when anonymous field is configured in authentication configuration file"
        ),
        (Some(a), None) => Ok(a.rule()),
        (None, None) => Ok(Anonymous::HealthOnly),
        (None, Some(true)) => Ok(Anonymous::Everywhere),
        (None, Some(false)) => Ok(Anonymous::Nowhere),
    }
}

/// The authorizers, from the file or from the older flags.
pub fn authorization(flags: &Flags) -> anyhow::Result<authz::config::Configuration> {
    match &flags.auth.authorization_config {
        Some(file) => {
            let contents = read("--authorization-config", Some(file))?.unwrap_or_default();
            plain(authz::config::Configuration::parse(&contents))
                .with_context(|| format!("--authorization-config: {}", file.display()))
        }
        None => plain(flags.auth.authorizers(&flags.authorization_mode)),
    }
}

/// The store with encryption around it, where `--encryption-provider-config` asks for it.
pub async fn encryption(
    flags: &Flags,
    store: Arc<dyn Store>,
) -> anyhow::Result<(Arc<dyn Store>, Option<Arc<Encrypted>>)> {
    let Some(config) = encryption_config(flags)? else { return Ok((store, None)) };
    let encrypted = plain(Encrypted::new(store, &config).await)?;
    Ok((encrypted.clone(), Some(encrypted)))
}

fn encryption_config(flags: &Flags) -> anyhow::Result<Option<encryption::config::Configuration>> {
    let file = flags.auth.encryption_provider_config.as_deref();
    let Some(contents) = read("--encryption-provider-config", file)? else { return Ok(None) };
    plain(encryption::config::Configuration::parse(&contents))
        .context("--encryption-provider-config")
        .map(Some)
}

/// Takes in a changed encryption configuration until `stop`, where the flags ask for that.
pub fn follow_encryption(flags: &Flags, encrypted: &Arc<Encrypted>, stop: &CancellationToken) {
    let Some(file) = flags.auth.encryption_provider_config.clone() else { return };
    if !flags.auth.encryption_provider_config_automatic_reload {
        return;
    }
    let (flags, encrypted) = (flags.clone(), encrypted.clone());
    reload::on_change(vec![file], stop.clone(), move || {
        let (flags, encrypted) = (flags.clone(), encrypted.clone());
        async move {
            let result = match encryption_config(&flags) {
                Ok(Some(config)) => plain(encrypted.reconfigure(&config).await),
                Ok(None) => Ok(()),
                Err(e) => Err(e),
            };
            encrypted.metrics().reloaded(result.is_ok());
            told("encryption configuration", &result);
        }
    });
}

/// Takes in a changed client certificate for kubelets until `stop`.
pub fn follow_kubelet_identity(flags: &Flags, app: &Arc<App>, stop: &CancellationToken) {
    let files = flags.kubelet_client_certificate.clone().zip(flags.kubelet_client_key.clone());
    let Some((cert, key)) = files else { return };
    let app = app.clone();
    reload::on_change(vec![cert.clone(), key.clone()], stop.clone(), move || {
        let (cert, key, app) = (cert.clone(), key.clone(), app.clone());
        async move {
            let result = read("--kubelet-client-certificate", Some(&cert)).and_then(|c| {
                let k = read("--kubelet-client-key", Some(&key))?;
                app.kubelets.set_identity(&c.unwrap_or_default(), &k.unwrap_or_default())
            });
            told("client certificate for kubelets", &result);
        }
    });
}

/// Takes in changed files until `stop`.
pub fn follow(
    flags: &Flags,
    authenticator: &Arc<Authenticator>,
    authorizer: &Arc<Authorizer>,
    stop: &CancellationToken,
) {
    if let Some(file) = flags.token_auth_file.clone() {
        let authenticator = authenticator.clone();
        reload::on_change(vec![file.clone()], stop.clone(), move || {
            let (file, authenticator) = (file.clone(), authenticator.clone());
            async move {
                let result = read("--token-auth-file", Some(&file))
                    .and_then(|c| plain(authenticator.set_token_file(&c.unwrap_or_default())));
                told("token file", &result);
            }
        });
    }
    if let Some(file) = flags.auth.authentication_config.clone() {
        let (flags, authenticator) = (flags.clone(), authenticator.clone());
        reload::on_change(vec![file], stop.clone(), move || {
            let (flags, authenticator) = (flags.clone(), authenticator.clone());
            async move {
                let result = take_issuers(&flags, &authenticator).await;
                authenticator.jwt_metrics().reloaded(result.is_ok(), unix(SystemTime::now()));
                told("authentication configuration", &result);
            }
        });
    }
    if let Some(file) = flags.auth.authorization_config.clone() {
        let (flags, authorizer) = (flags.clone(), authorizer.clone());
        reload::on_change(vec![file], stop.clone(), move || {
            let (flags, authorizer) = (flags.clone(), authorizer.clone());
            async move {
                let result = authorization(&flags).and_then(|c| plain(authorizer.reconfigure(&c)));
                authorizer.metrics().reloaded(result.is_ok(), unix(SystemTime::now()));
                told("authorization configuration", &result);
            }
        });
    }
}

async fn take_issuers(flags: &Flags, authenticator: &Authenticator) -> anyhow::Result<()> {
    let config = authentication(flags)?;
    let anonymous = anonymous(flags, &config)?;
    let metrics = authenticator.jwt_metrics().clone();
    let issuers = plain(jwt::Issuers::new(&config, &algorithms(flags), metrics))?;
    plain(issuers.ready(ISSUERS).await)?;
    authenticator.set_issuers(issuers);
    authenticator.set_anonymous(anonymous);
    Ok(())
}

fn told(what: &str, result: &anyhow::Result<()>) {
    match result {
        Ok(()) => tracing::info!("the {what} was read again"),
        Err(e) => {
            tracing::error!(error = format!("{e:#}"), "the changed {what} cannot be used; the old one stays")
        }
    }
}
