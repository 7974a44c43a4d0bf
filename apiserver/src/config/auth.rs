//! Flags of authentication, authorization, encryption at rest and TLS.

use std::path::PathBuf;

use anyhow::bail;
use clap::{ArgAction, Args};
use component_base::duration::GoDuration;

use super::Flags;
use crate::authn::jwt::config as jwt;
use crate::authz::config as authz;

/// See the module.
#[derive(Debug, Clone, Args)]
pub struct AuthFlags {
    /// File with an AuthenticationConfiguration: token issuers, and who may come without credentials
    #[arg(long)]
    pub authentication_config: Option<PathBuf>,
    /// File with a kubeconfig of the service that is asked whose a token is
    #[arg(long)]
    pub authentication_token_webhook_config_file: Option<PathBuf>,
    /// How long its answers are remembered
    #[arg(long, default_value = "2m0s")]
    pub authentication_token_webhook_cache_ttl: GoDuration,
    /// Version of the TokenReview that is sent to it: v1 or v1beta1
    #[arg(long, default_value = "v1beta1")]
    pub authentication_token_webhook_version: String,

    /// File with an AuthorizationConfiguration
    #[arg(long)]
    pub authorization_config: Option<PathBuf>,
    /// File with the policy of the mode ABAC
    #[arg(long)]
    pub authorization_policy_file: Option<PathBuf>,
    /// File with a kubeconfig of the service that the mode Webhook asks
    #[arg(long)]
    pub authorization_webhook_config_file: Option<PathBuf>,
    /// Version of the SubjectAccessReview that is sent to it: v1 or v1beta1
    #[arg(long)]
    pub authorization_webhook_version: Option<String>,
    /// How long its yes is remembered [default: 5m0s]
    #[arg(long)]
    pub authorization_webhook_cache_authorized_ttl: Option<GoDuration>,
    /// How long its no is remembered [default: 30s]
    #[arg(long)]
    pub authorization_webhook_cache_unauthorized_ttl: Option<GoDuration>,

    /// URL of an OpenID issuer, whose tokens are accepted
    #[arg(long)]
    pub oidc_issuer_url: Option<String>,
    /// The audience that its tokens must name
    #[arg(long)]
    pub oidc_client_id: Option<String>,
    /// File with the certificate authority of the issuer; the machine's own where this is not given
    #[arg(long)]
    pub oidc_ca_file: Option<PathBuf>,
    /// The claim that names the user
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What is put before user names; "-" for nothing, the issuer where this is not given and the claim is not email
    #[arg(long)]
    pub oidc_username_prefix: Option<String>,
    /// The claim that names the user's groups
    #[arg(long)]
    pub oidc_groups_claim: Option<String>,
    /// What is put before groups
    #[arg(long)]
    pub oidc_groups_prefix: Option<String>,
    /// Claims that tokens must have, each NAME=VALUE
    #[arg(long, value_delimiter = ',')]
    pub oidc_required_claim: Vec<String>,
    /// Signature algorithms that tokens may use
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<String>,

    /// Check that the accounts of tokens exist; always done here
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub service_account_lookup: bool,
    /// Socket of an external signer of tokens; not available in this server
    #[arg(long)]
    pub service_account_signing_endpoint: Option<String>,

    /// File with an EncryptionConfiguration for what is stored
    #[arg(long)]
    pub encryption_provider_config: Option<PathBuf>,
    /// Read that file again when it changes
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub encryption_provider_config_automatic_reload: bool,

    /// Directory of the serving certificate where --tls-cert-file is not given
    #[arg(long, default_value = "/var/run/kubernetes")]
    pub cert_dir: PathBuf,
    /// Certificate and key for certain names: CERT,KEY or CERT,KEY:DOMAIN,DOMAIN
    #[arg(long, action = ArgAction::Append)]
    pub tls_sni_cert_key: Vec<String>,
    /// Oldest TLS version that is spoken: VersionTLS10, VersionTLS11, VersionTLS12 or VersionTLS13
    #[arg(long)]
    pub tls_min_version: Option<String>,
    /// Cipher suites of TLS 1.2 that are spoken, by their IANA names
    #[arg(long, value_delimiter = ',')]
    pub tls_cipher_suites: Vec<String>,
    /// Key exchanges that are spoken, by their IANA numbers
    #[arg(long, value_delimiter = ',')]
    pub tls_curve_preferences: Vec<u16>,

    /// Networks whose clients may connect; all where this is not given
    #[arg(long, value_delimiter = ',')]
    pub client_allow_cidrs: Vec<String>,
    /// Networks whose clients may not connect, even where --client-allow-cidrs would let them
    #[arg(long, value_delimiter = ',')]
    pub client_deny_cidrs: Vec<String>,
}

impl AuthFlags {
    /// Checks what clap cannot.
    pub fn check(&self, flags: &Flags) -> anyhow::Result<()> {
        if self.oidc_issuer_url.is_some() != self.oidc_client_id.is_some() {
            bail!(
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
            );
        }
        if self.oidc_issuer_url.is_none() && (self.oidc_ca_file.is_some() || self.oidc_groups_claim.is_some())
        {
            bail!(
                "oidc-issuer-url and oidc-client-id must be specified together when any oidc-* flags are set"
            );
        }
        if self.authentication_config.is_some() && self.oidc_issuer_url.is_some() {
            bail!("authentication-config file and oidc-* flags are mutually exclusive");
        }
        if self.service_account_signing_endpoint.is_some() {
            bail!(
                "--service-account-signing-endpoint: external signers are not available in this server; use \
                 --service-account-signing-key-file and --service-account-key-file"
            );
        }
        let webhook = self.authorization_webhook_config_file.is_some()
            || self.authorization_webhook_version.is_some()
            || self.authorization_webhook_cache_authorized_ttl.is_some()
            || self.authorization_webhook_cache_unauthorized_ttl.is_some();
        if self.authorization_config.is_some() && (webhook || !flags.authorization_mode.is_empty()) {
            bail!(
                "--authorization-config can not be specified when --authorization-mode or \
                 --authorization-webhook-* flags are defined"
            );
        }
        if self.encryption_provider_config_automatic_reload && self.encryption_provider_config.is_none() {
            bail!(
                "--encryption-provider-config-automatic-reload must be set with --encryption-provider-config"
            );
        }
        Ok(())
    }

    /// The authorizers that the older flags ask for.
    pub fn authorizers(&self, modes: &[String]) -> Result<authz::Configuration, String> {
        let default = ["Node", "RBAC"].map(str::to_owned);
        let modes = if modes.is_empty() { &default[..] } else { modes };
        let webhook = self.authorization_webhook_config_file.as_ref().map(|file| authz::WebhookFlags {
            config_file: file.clone(),
            version: self.authorization_webhook_version.clone().unwrap_or_else(|| "v1beta1".to_owned()),
            authorized_ttl: self
                .authorization_webhook_cache_authorized_ttl
                .unwrap_or(GoDuration::from_secs(300))
                .0,
            unauthorized_ttl: self
                .authorization_webhook_cache_unauthorized_ttl
                .unwrap_or(GoDuration::from_secs(30))
                .0,
        });
        authz::Configuration::from_flags(modes, self.authorization_policy_file.is_some(), webhook.as_ref())
    }

    /// The issuer that the older flags name, as a configuration. `ca` is the contents of `--oidc-ca-file`.
    pub fn oidc(&self, ca: Option<String>) -> Result<jwt::Configuration, String> {
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else {
            return Ok(jwt::Configuration::default());
        };
        let prefix = match self.oidc_username_prefix.as_deref() {
            Some("-") => String::new(),
            Some(p) if !p.is_empty() => p.to_owned(),
            // Names of several issuers must not meet; addresses are taken to be unique.
            _ if self.oidc_username_claim != "email" => format!("{url}#"),
            _ => String::new(),
        };
        let claim = |claim: &str, prefix: String| jwt::PrefixedClaim {
            claim: claim.to_owned(),
            prefix: Some(prefix),
            expression: String::new(),
        };
        let mut rules = Vec::new();
        for required in self.oidc_required_claim.iter().filter(|r| !r.is_empty()) {
            let (name, value) = required
                .split_once('=')
                .ok_or_else(|| format!("--oidc-required-claim: {required:?} is not NAME=VALUE"))?;
            rules.push(jwt::ClaimRule {
                claim: name.trim().to_owned(),
                required_value: value.to_owned(),
                ..jwt::ClaimRule::default()
            });
        }
        let groups = self.oidc_groups_claim.as_deref().unwrap_or_default();
        let groups_prefix = self.oidc_groups_prefix.clone().unwrap_or_default();
        Ok(jwt::Configuration {
            jwt: vec![jwt::Jwt {
                issuer: jwt::Issuer {
                    url: url.clone(),
                    certificate_authority: ca.unwrap_or_default(),
                    audiences: vec![client.clone()],
                    ..jwt::Issuer::default()
                },
                claim_mappings: jwt::Mappings {
                    username: claim(&self.oidc_username_claim, prefix),
                    groups: if groups.is_empty() {
                        jwt::PrefixedClaim::default()
                    } else {
                        claim(groups, groups_prefix)
                    },
                    ..jwt::Mappings::default()
                },
                claim_validation_rules: rules,
                ..jwt::Jwt::default()
            }],
            anonymous: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn flags(args: &[&str]) -> Flags {
        Flags::try_parse_from(["kube-apiserver"].iter().chain(args)).unwrap()
    }

    #[test]
    fn what_does_not_go_together() {
        for bad in [
            &["--oidc-issuer-url=https://x"][..],
            &["--oidc-ca-file=/x"],
            &["--authentication-config=/x", "--oidc-issuer-url=https://x", "--oidc-client-id=y"],
            &["--authorization-config=/x", "--authorization-mode=RBAC"],
            &["--authorization-config=/x", "--authorization-webhook-version=v1"],
            &["--service-account-signing-endpoint=/x"],
            &["--encryption-provider-config-automatic-reload"],
        ] {
            assert!(flags(bad).check().is_err(), "{bad:?}");
        }
        assert!(flags(&["--authorization-config=/x"]).check().is_ok());
    }

    #[test]
    fn oidc_flags() {
        let of = |more: &[&str]| {
            let base = ["--oidc-issuer-url=https://idp", "--oidc-client-id=me"];
            flags(&[&base[..], more].concat()).auth.oidc(None).unwrap().jwt.remove(0)
        };
        let prefix = |j: &jwt::Jwt| j.claim_mappings.username.prefix.clone().unwrap();
        assert_eq!(prefix(&of(&[])), "https://idp#");
        assert_eq!(prefix(&of(&["--oidc-username-prefix=-"])), "");
        assert_eq!(prefix(&of(&["--oidc-username-claim=email"])), "");
        let j = of(&["--oidc-required-claim=a=b,c=d", "--oidc-groups-claim=g", "--oidc-groups-prefix=p:"]);
        assert_eq!(j.claim_validation_rules.len(), 2);
        assert_eq!(j.claim_mappings.groups.prefix.as_deref(), Some("p:"));
        let config = jwt::Configuration { jwt: vec![j], anonymous: None };
        assert!(config.check(&[]).is_ok());
        assert!(config.check(&["https://idp".to_owned()]).is_err());
    }

    #[test]
    fn authorizers() {
        let kinds = |args: &[&str]| {
            let f = flags(args);
            let c = f.auth.authorizers(&f.authorization_mode);
            c.map(|c| c.authorizers.into_iter().map(|a| a.kind).collect::<Vec<_>>())
        };
        assert_eq!(kinds(&[]).unwrap(), ["Node", "RBAC"]);
        assert!(kinds(&["--authorization-mode=Webhook"]).is_err());
        let webhook = ["--authorization-mode=Node,Webhook", "--authorization-webhook-config-file=/x"];
        assert_eq!(kinds(&webhook).unwrap(), ["Node", "Webhook"]);
    }
}
