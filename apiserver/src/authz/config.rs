//! Which authorizers there are, in order: from an `AuthorizationConfiguration` file or from the older flags.
//!
//! Source: KEP-3221 "Structured Authorization Configuration".

use std::path::{Path as FilePath, PathBuf};
use std::time::Duration;

use component_base::duration::GoDuration;
use serde::Deserialize;

use super::conditions::Conditions;
use crate::config_file;
use crate::field::{Error, ErrorList, Path};
use crate::registry::names;

const KIND: &str = "AuthorizationConfiguration";
const TYPES: &[&str] = &["AlwaysAllow", "AlwaysDeny", "ABAC", "Webhook", "RBAC", "Node"];
/// [`TYPES`] as messages list them.
const SORTED_TYPES: &[&str] = &["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// The webhook of the flags has this name.
const DEFAULT_NAME: &str = "default";
const MAX_CONDITIONS: usize = 64;

/// All authorizers.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Configuration {
    #[serde(default)]
    pub authorizers: Vec<Authorizer>,
}

/// One of them.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Authorizer {
    #[serde(rename = "type", default)]
    pub kind: String,
    #[serde(default)]
    pub name: String,
    pub webhook: Option<Webhook>,
}

/// How a webhook is asked.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Webhook {
    #[serde(rename = "authorizedTTL")]
    pub authorized_ttl: GoDuration,
    pub cache_authorized_requests: Option<bool>,
    #[serde(rename = "unauthorizedTTL")]
    pub unauthorized_ttl: GoDuration,
    pub cache_unauthorized_requests: Option<bool>,
    pub timeout: GoDuration,
    pub subject_access_review_version: String,
    pub match_condition_subject_access_review_version: String,
    pub failure_policy: String,
    pub connection_info: ConnectionInfo,
    pub match_conditions: Vec<MatchCondition>,
}

/// Where a webhook is.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ConnectionInfo {
    #[serde(rename = "type")]
    pub kind: String,
    pub kube_config_file: Option<String>,
}

/// A CEL expression that must be true for a request to be sent to the webhook.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct MatchCondition {
    pub expression: String,
}

impl Webhook {
    /// How long a yes is remembered; zero: not at all.
    pub fn authorized_for(&self) -> Duration {
        if self.cache_authorized_requests == Some(false) { Duration::ZERO } else { self.authorized_ttl.0 }
    }

    /// How long a no is remembered; zero: not at all.
    pub fn unauthorized_for(&self) -> Duration {
        if self.cache_unauthorized_requests == Some(false) { Duration::ZERO } else { self.unauthorized_ttl.0 }
    }

    fn defaults(&mut self) {
        for (ttl, seconds) in [(&mut self.authorized_ttl, 300), (&mut self.unauthorized_ttl, 30)] {
            if ttl.0.is_zero() {
                *ttl = GoDuration::from_secs(seconds);
            }
        }
    }
}

/// What the older flags say of a webhook.
#[derive(Debug, Clone)]
pub struct WebhookFlags {
    pub config_file: PathBuf,
    pub version: String,
    pub authorized_ttl: Duration,
    pub unauthorized_ttl: Duration,
}

impl Configuration {
    /// Reads and checks a file's contents.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        let (_, mut config): (_, Self) =
            config_file::read(contents, config_file::GROUP, KIND, &["v1", "v1beta1", "v1alpha1"])?;
        for w in config.authorizers.iter_mut().filter_map(|a| a.webhook.as_mut()) {
            w.defaults();
        }
        let errors = config.validate();
        if errors.is_empty() { Ok(config) } else { Err(errors.aggregate()) }
    }

    /// `--authorization-mode` alone.
    pub fn from_modes(modes: &[String]) -> Result<Self, String> {
        Self::from_flags(modes, false, None)
    }

    /// `--authorization-mode` with what other flags say of ABAC and the webhook.
    pub fn from_flags(modes: &[String], abac: bool, webhook: Option<&WebhookFlags>) -> Result<Self, String> {
        if modes.is_empty() {
            return Err("at least one authorization-mode must be passed".to_owned());
        }
        let has = |mode: &str| modes.iter().any(|m| m == mode);
        let mut authorizers: Vec<Authorizer> = Vec::new();
        for mode in modes {
            if !TYPES.contains(&mode.as_str()) {
                return Err(format!("authorization-mode {} is not a valid mode", super::quoted(mode)));
            }
            if authorizers.iter().any(|a| a.kind == *mode) {
                return Err(format!("authorization-mode {modes:?} has mode specified more than once"));
            }
            if mode == "ABAC" && !abac {
                return Err("authorization-mode ABAC's authorization policy file not passed".to_owned());
            }
            let (name, settings) = match (mode.as_str(), webhook) {
                ("Webhook", None) => {
                    return Err(
                        "authorization-mode Webhook's authorization config file not passed".to_owned()
                    );
                }
                ("Webhook", Some(w)) => (DEFAULT_NAME.to_owned(), Some(w.settings())),
                _ => (mode.to_lowercase(), None),
            };
            authorizers.push(Authorizer { kind: mode.clone(), name, webhook: settings });
        }
        if abac && !has("ABAC") {
            return Err("cannot specify --authorization-policy-file without mode ABAC".to_owned());
        }
        if webhook.is_some() && !has("Webhook") {
            return Err("cannot specify --authorization-webhook-config-file without mode Webhook".to_owned());
        }
        Ok(Self { authorizers })
    }

    fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = Path::new("authorizers");
        if self.authorizers.is_empty() {
            errors.push(Error::required(&root, "at least one authorization mode must be defined"));
        }
        for (i, a) in self.authorizers.iter().enumerate() {
            let (path, before) = (root.index(i), &self.authorizers[..i]);
            if a.kind.is_empty() {
                errors.push(Error::required(&path.child("type"), ""));
                continue;
            }
            if !TYPES.contains(&a.kind.as_str()) {
                errors.push(Error::not_supported(&path.child("type"), &a.kind, SORTED_TYPES));
                continue;
            }
            if a.kind != "Webhook" && before.iter().any(|b| b.kind == a.kind) {
                errors.push(Error::duplicate(&path.child("type"), &a.kind));
                continue;
            }
            let name = path.child("name");
            if a.name.is_empty() {
                errors.push(Error::required(&name, ""));
            } else if before.iter().any(|b| b.name == a.name) {
                errors.push(Error::duplicate(&name, &a.name));
            } else if let Err(why) = names::dns1123_subdomain(&a.name) {
                let why = format!("authorizer name is invalid: {}", why.join(", "));
                errors.push(Error::invalid(&name, &a.name, why));
            }
            match (&a.webhook, a.kind == "Webhook") {
                (Some(w), true) => validate_webhook(w, &path, &mut errors),
                (None, true) => {
                    errors.push(Error::required(&path.child("webhook"), "required when type=Webhook"));
                }
                (Some(_), false) => errors.push(Error::invalid(
                    &path.child("webhook"),
                    "non-null",
                    "may only be specified when type=Webhook",
                )),
                (None, false) => {}
            }
        }
        errors
    }
}

impl WebhookFlags {
    fn settings(&self) -> Webhook {
        Webhook {
            authorized_ttl: GoDuration(self.authorized_ttl),
            cache_authorized_requests: Some(!self.authorized_ttl.is_zero()),
            unauthorized_ttl: GoDuration(self.unauthorized_ttl),
            cache_unauthorized_requests: Some(!self.unauthorized_ttl.is_zero()),
            timeout: GoDuration::from_secs(30),
            failure_policy: "NoOpinion".to_owned(),
            subject_access_review_version: self.version.clone(),
            connection_info: ConnectionInfo {
                kind: "KubeConfigFile".to_owned(),
                kube_config_file: Some(self.config_file.display().to_string()),
            },
            ..Webhook::default()
        }
    }
}

fn validate_webhook(w: &Webhook, path: &Path, errors: &mut ErrorList) {
    let timeout = path.child("timeout");
    if w.timeout.0.is_zero() {
        errors.push(Error::required(&timeout, ""));
    } else if w.timeout.0 > Duration::from_secs(30) {
        errors.push(Error::invalid(&timeout, w.timeout.to_string(), "must be > 0s and <= 30s"));
    }
    one_of(path, "subjectAccessReviewVersion", &w.subject_access_review_version, &["v1", "v1beta1"], errors);
    let version = w.match_condition_subject_access_review_version.as_str();
    let field = path.child("matchConditionSubjectAccessReviewVersion");
    match version {
        "" if w.match_conditions.is_empty() => {}
        "" => errors.push(Error::required(&field, "required if match conditions are specified")),
        "v1" => {}
        other => errors.push(Error::not_supported(&field, other, &["v1"])),
    }
    one_of(path, "failurePolicy", &w.failure_policy, &["NoOpinion", "Deny"], errors);
    validate_connection(&w.connection_info, &path.child("connectionInfo"), errors);
    validate_conditions(&w.match_conditions, &path.child("matchConditions"), errors);
}

fn one_of(path: &Path, field: &str, value: &str, allowed: &[&str], errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(Error::required(&path.child(field), ""));
    } else if !allowed.contains(&value) {
        errors.push(Error::not_supported(&path.child(field), value, allowed));
    }
}

fn validate_connection(c: &ConnectionInfo, path: &Path, errors: &mut ErrorList) {
    let file = path.child("kubeConfigFile");
    match (c.kind.as_str(), &c.kube_config_file) {
        ("", _) => errors.push(Error::required(&path.child("type"), "")),
        ("InClusterConfig", Some(f)) => {
            errors.push(Error::invalid(&file, f, "can only be set when type=KubeConfigFile"));
        }
        ("InClusterConfig", None) => {}
        ("KubeConfigFile", f) => {
            let f = f.as_deref().unwrap_or_default();
            if f.is_empty() {
                errors.push(Error::required(&file, ""));
            } else if !FilePath::new(f).is_absolute() {
                errors.push(Error::invalid(&file, f, "must be an absolute path"));
            } else {
                match std::fs::metadata(f) {
                    Err(e) => errors.push(Error::invalid(&file, f, format!("error loading file: {e}"))),
                    Ok(m) if !m.is_file() => {
                        errors.push(Error::invalid(&file, f, "must be a regular file"));
                    }
                    Ok(_) => {}
                }
            }
        }
        (other, _) => errors.push(Error::not_supported(
            &path.child("type"),
            other,
            &["InClusterConfig", "KubeConfigFile"],
        )),
    }
}

fn validate_conditions(conditions: &[MatchCondition], path: &Path, errors: &mut ErrorList) {
    if conditions.len() > MAX_CONDITIONS {
        errors.push(Error::too_many(path, conditions.len(), MAX_CONDITIONS));
        return;
    }
    for (i, c) in conditions.iter().enumerate() {
        let field = path.index(i).child("expression");
        if c.expression.trim().is_empty() {
            errors.push(Error::required(&field, ""));
        } else if conditions[..i].iter().any(|b| b.expression == c.expression) {
            errors.push(Error::duplicate(&field, &c.expression));
        } else if let Err(why) = Conditions::compile(std::slice::from_ref(&c.expression)) {
            errors.push(Error::invalid(&field, &c.expression, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(authorizers: &str) -> Result<Configuration, String> {
        let text =
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {KIND}\nauthorizers: {authorizers}\n");
        Configuration::parse(text.as_bytes())
    }

    #[test]
    fn files() {
        let c = parse("[{type: Node, name: node}, {type: RBAC, name: rbac}]").unwrap();
        assert_eq!(c.authorizers.iter().map(|a| a.kind.as_str()).collect::<Vec<_>>(), ["Node", "RBAC"]);
        for (text, want) in [
            ("[]", "authorizers: Required value: at least one authorization mode must be defined"),
            ("[{name: x}]", "authorizers[0].type: Required value"),
            (
                "[{type: Foo, name: x}]",
                "authorizers[0].type: Unsupported value: \"Foo\": supported values: \"ABAC\", \"AlwaysAllow\", \"AlwaysDeny\", \"Node\", \"RBAC\", \"Webhook\"",
            ),
            (
                "[{type: RBAC, name: a}, {type: RBAC, name: b}]",
                "authorizers[1].type: Duplicate value: \"RBAC\"",
            ),
            ("[{type: RBAC, name: a}, {type: Node, name: a}]", "authorizers[1].name: Duplicate value: \"a\""),
            ("[{type: RBAC}]", "authorizers[0].name: Required value"),
            (
                "[{type: Webhook, name: w}]",
                "authorizers[0].webhook: Required value: required when type=Webhook",
            ),
            (
                "[{type: RBAC, name: r, webhook: {}}]",
                "authorizers[0].webhook: Invalid value: \"non-null\": may only be specified when type=Webhook",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text}");
        }
        assert!(parse("[{type: RBAC, name: 'A_b'}]").unwrap_err().contains("authorizer name is invalid"));
        assert!(parse("[{type: RBAC, name: r, nope: 1}]").unwrap_err().starts_with("strict decoding error"));
    }

    #[test]
    fn webhooks() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let hook = |more: &str| {
            let path = file.path().display();
            parse(&format!(
                "[{{type: Webhook, name: w, webhook: {{timeout: 3s, subjectAccessReviewVersion: v1, \
                 failurePolicy: Deny, connectionInfo: {{type: KubeConfigFile, kubeConfigFile: {path}}}, {more}}}}}]"
            ))
        };
        let c = hook("unauthorizedTTL: 7s").unwrap();
        let w = c.authorizers[0].webhook.as_ref().unwrap();
        assert_eq!((w.authorized_for().as_secs(), w.unauthorized_for().as_secs()), (300, 7));
        let c = hook("cacheAuthorizedRequests: false").unwrap();
        assert!(c.authorizers[0].webhook.as_ref().unwrap().authorized_for().is_zero());
        let e = hook("matchConditions: [{expression: 'true'}]").unwrap_err();
        assert!(e.contains(
            "authorizers[0].matchConditionSubjectAccessReviewVersion: Required value: required if match conditions"
        ));
        let e = parse("[{type: Webhook, name: w, webhook: {timeout: 31s}}]").unwrap_err();
        for want in [
            "authorizers[0].timeout: Invalid value: \"31s\": must be > 0s and <= 30s",
            "authorizers[0].subjectAccessReviewVersion: Required value",
            "authorizers[0].failurePolicy: Required value",
            "authorizers[0].connectionInfo.type: Required value",
        ] {
            assert!(e.contains(want), "{want}: {e}");
        }
    }

    #[test]
    fn flags() {
        let modes = |m: &[&str]| m.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        assert!(Configuration::from_modes(&modes(&["RBAC", "RBAC"])).unwrap_err().contains("more than once"));
        assert!(Configuration::from_modes(&modes(&["ABAC"])).unwrap_err().contains("policy file not passed"));
        assert!(Configuration::from_modes(&modes(&["Webhook"])).is_err());
        assert!(Configuration::from_flags(&modes(&["RBAC"]), true, None).is_err());
        let w = WebhookFlags {
            config_file: "/etc/webhook".into(),
            version: "v1".into(),
            authorized_ttl: Duration::ZERO,
            unauthorized_ttl: Duration::from_secs(30),
        };
        let c = Configuration::from_flags(&modes(&["Node", "Webhook"]), false, Some(&w)).unwrap();
        assert_eq!((c.authorizers[0].name.as_str(), c.authorizers[1].name.as_str()), ("node", "default"));
        assert!(c.authorizers[1].webhook.as_ref().unwrap().authorized_for().is_zero());
    }
}
