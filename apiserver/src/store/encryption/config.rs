//! `EncryptionConfiguration`: which resources are encrypted by which providers.

use std::collections::{BTreeSet, HashMap};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use component_base::duration::GoDuration;
use serde::{Deserialize, Serialize};

use crate::config_file;
use crate::field::{Error, ErrorList, Path};

const KIND: &str = "EncryptionConfiguration";
const AES_KEYS: &[usize] = &[16, 24, 32];
const BOX_KEYS: &[usize] = &[32];

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    pub resources: Vec<Rule>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Rule {
    /// `secrets`, `deployments.apps`, `*.apps`, `*.` (the core group), `*.*`.
    pub resources: Vec<String>,
    /// The first encrypts, all decrypt.
    pub providers: Vec<Provider>,
}

/// One of these, exactly.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Provider {
    pub aesgcm: Option<Keys>,
    pub aescbc: Option<Keys>,
    pub secretbox: Option<Keys>,
    pub identity: Option<Identity>,
    pub kms: Option<Kms>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Identity {}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Keys {
    pub keys: Vec<Key>,
}

#[derive(Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Key {
    pub name: String,
    /// In base64.
    pub secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Key {
    /// The key's bytes; only of a configuration that was checked.
    pub fn bytes(&self) -> Vec<u8> {
        STANDARD.decode(&self.secret).unwrap_or_default()
    }
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Kms {
    pub api_version: String,
    pub name: String,
    pub cachesize: Option<i32>,
    /// `unix:///path` or `unix:///@name`.
    pub endpoint: String,
    pub timeout: Option<GoDuration>,
}

impl Kms {
    /// How long one call may take.
    pub fn timeout(&self) -> std::time::Duration {
        self.timeout.unwrap_or(GoDuration::from_secs(3)).0
    }

    /// The socket's path.
    pub fn socket(&self) -> Option<&str> {
        self.endpoint.strip_prefix("unix://").filter(|p| !p.is_empty())
    }
}

/// A resource and its group; a star stands for all.
pub type GroupResource = (String, String);

/// `RESOURCE.GROUP`; without a dot the group is the core's.
pub fn group_resource(name: &str) -> GroupResource {
    let (resource, group) = name.split_once('.').unwrap_or((name, ""));
    (group.to_owned(), resource.to_owned())
}

impl Configuration {
    /// Reads and checks a file's contents.
    pub fn parse(contents: &[u8]) -> Result<Self, String> {
        let (_, config): (_, Self) = config_file::read(contents, config_file::GROUP, KIND, &["v1"])?;
        let errors = config.validate();
        if !errors.is_empty() {
            return Err(format!("invalid encryption configuration: {}", errors.aggregate()));
        }
        config.check_masks()?;
        Ok(config)
    }

    /// Which providers every named resource has, in order.
    pub fn by_resource(&self) -> HashMap<GroupResource, Vec<&Provider>> {
        let mut out: HashMap<GroupResource, Vec<&Provider>> = HashMap::new();
        for rule in &self.resources {
            for name in &rule.resources {
                out.entry(group_resource(name)).or_default().extend(&rule.providers);
            }
        }
        out
    }

    /// A rule that an earlier one makes ineffective is a mistake.
    fn check_masks(&self) -> Result<(), String> {
        let mut wild: Vec<GroupResource> = Vec::new();
        for rule in &self.resources {
            let earlier = wild.clone();
            for name in &rule.resources {
                let (group, resource) = group_resource(name);
                let masks = |w: &&GroupResource| w.0 == "*" || (w.0 == group && w.1 == "*");
                if let Some(w) = earlier.iter().find(masks) {
                    let mask = if w.0 == "*" { "*.*".to_owned() } else { format!("*.{}", w.0) };
                    return Err(format!("resource {name:?} is masked by earlier rule {mask:?}"));
                }
                if resource == "*" {
                    wild.push((group, resource));
                }
            }
        }
        Ok(())
    }

    fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = Path::new("resources");
        if self.resources.is_empty() {
            errors.push(Error::required(&root, format!("at least one {root} is required")));
        }
        let mut kms_names = BTreeSet::new();
        for (i, rule) in self.resources.iter().enumerate() {
            let (resources, providers) = (root.index(i).child("resources"), root.index(i).child("providers"));
            if rule.resources.is_empty() {
                errors.push(Error::required(&resources, format!("at least one {resources} is required")));
            }
            validate_overlap(&rule.resources, &resources, &mut errors);
            for (j, name) in rule.resources.iter().enumerate() {
                if let Some(why) = bad_resource(name) {
                    errors.push(Error::invalid(&resources.index(j), name, why));
                }
            }
            if rule.providers.is_empty() {
                errors.push(Error::required(&providers, format!("at least one {providers} is required")));
            }
            for (j, p) in rule.providers.iter().enumerate() {
                p.validate(&providers.index(j), &mut kms_names, &mut errors);
            }
        }
        errors
    }
}

fn validate_overlap(names: &[String], path: &Path, errors: &mut ErrorList) {
    let all: Vec<GroupResource> = names.iter().map(|n| group_resource(n)).collect();
    let pairs = || all.iter().enumerate().flat_map(|(i, a)| all[i + 1..].iter().map(move |b| (a, b)));
    if pairs().any(|(a, b)| a == b) {
        let why = "the same resource cannot be specified multiple times";
        errors.push(Error::invalid(path, names, why));
    }
    let everything = |g: &GroupResource| g.0 == "*" && g.1 == "*";
    let overlaps = |a: &GroupResource, b: &GroupResource| {
        a != b && (everything(a) || everything(b) || (a.0 == b.0 && (a.1 == "*" || b.1 == "*")))
    };
    if pairs().any(|(a, b)| overlaps(a, b)) {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.push(Error::invalid(path, names, why));
    }
}

fn bad_resource(name: &str) -> Option<&'static str> {
    let (group, resource) = group_resource(name);
    if name.bytes().any(|b| b.is_ascii_uppercase()) {
        return Some("resource name should not contain capital letters");
    }
    match (group.as_str(), resource.as_str(), name) {
        (_, _, "*") => {
            Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
        }
        (_, _, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") => {
            Some("resources which do not have REST API/s cannot be encrypted")
        }
        ("events.k8s.io", ..) => Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        ),
        ("extensions", ..) => Some("'extensions' group has been removed and cannot be used for encryption"),
        ("*", r, _) if r != "*" => Some("encrypting the same resource across groups is not supported"),
        _ => None,
    }
}

impl Provider {
    fn validate(&self, path: &Path, kms_names: &mut BTreeSet<String>, errors: &mut ErrorList) {
        let given = [
            self.kms.is_some(),
            self.aesgcm.is_some(),
            self.aescbc.is_some(),
            self.secretbox.is_some(),
            self.identity.is_some(),
        ];
        match given.iter().filter(|g| **g).count() {
            0 => errors.push(Error::invalid(
                path,
                "",
                "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity",
            )),
            1 => {}
            _ => errors.push(Error::invalid(
                path,
                "",
                "more than one provider specified in a single element, should split into different list elements",
            )),
        }
        for (name, keys, lengths) in [
            ("aesgcm", &self.aesgcm, AES_KEYS),
            ("aescbc", &self.aescbc, AES_KEYS),
            ("secretbox", &self.secretbox, BOX_KEYS),
        ] {
            if let Some(k) = keys {
                validate_keys(&k.keys, lengths, &path.child(name).child("keys"), errors);
            }
        }
        if let Some(k) = &self.kms {
            k.validate(&path.child("kms"), kms_names, errors);
        }
    }
}

fn validate_keys(keys: &[Key], lengths: &[usize], path: &Path, errors: &mut ErrorList) {
    if keys.is_empty() {
        errors.push(Error::required(path, "at least one keys is required"));
    }
    for (i, key) in keys.iter().enumerate() {
        let path = path.index(i);
        if key.name.is_empty() {
            errors.push(Error::required(&path.child("name"), "name is a mandatory field for a key"));
        }
        let field = path.child("secret");
        if key.secret.is_empty() {
            errors.push(Error::required(&field, "secret is a mandatory field for a key"));
            continue;
        }
        match STANDARD.decode(&key.secret) {
            Err(_) => errors.push(Error::invalid(&field, "REDACTED", "secrets must be base64 encoded")),
            Ok(b) if !lengths.contains(&b.len()) => {
                let expected: Vec<String> = lengths.iter().map(ToString::to_string).collect();
                errors.push(Error::invalid(
                    &field,
                    "REDACTED",
                    format!(
                        "secret is not of the expected length, got {}, expected one of [{}]",
                        b.len(),
                        expected.join(" ")
                    ),
                ));
            }
            Ok(_) => {}
        }
    }
}

impl Kms {
    fn validate(&self, path: &Path, names: &mut BTreeSet<String>, errors: &mut ErrorList) {
        let name = path.child("name");
        if self.name.is_empty() {
            errors.push(Error::required(&name, "name is a mandatory field for a provider"));
        } else if self.name.contains(':') {
            let why = format!("invalid KMS provider name {}, must not contain ':'", self.name);
            errors.push(Error::invalid(&name, &self.name, why));
        } else if !names.insert(self.name.clone()) {
            let why = format!("duplicate KMS provider name {}, names must be unique", self.name);
            errors.push(Error::invalid(&name, &self.name, why));
        }
        if self.timeout.is_some_and(|t| t.0.is_zero()) {
            let why = "timeout should be a positive value";
            errors.push(Error::invalid(&path.child("timeout"), "0s", why));
        }
        let field = path.child("endpoint");
        if self.endpoint.is_empty() {
            errors.push(Error::invalid(&field, "", "endpoint is a mandatory field for a kms"));
        } else if self.socket().is_none() {
            let scheme = self.endpoint.split_once("://").map_or("", |(s, _)| s);
            let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
            errors.push(Error::invalid(&field, &self.endpoint, why));
        }
        let field = path.child("apiVersion");
        match self.api_version.as_str() {
            "v2" if self.cachesize.is_some() => errors.push(Error::invalid(
                &path.child("cachesize"),
                self.cachesize,
                "cachesize is not supported in v2",
            )),
            "v2" => {}
            "" | "v1" => errors.push(Error::forbidden(
                &field,
                "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead: this server has no KMSv1",
            )),
            other => errors.push(Error::invalid(
                &field,
                other,
                format!("unsupported apiVersion {other} for KMS provider, only v1 and v2 are supported"),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(rules: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {KIND}\nresources: {rules}\n");
        Configuration::parse(text.as_bytes())
    }

    const KEY: &str = "{aesgcm: {keys: [{name: k, secret: MDEyMzQ1Njc4OWFiY2RlZg==}]}}";

    #[test]
    fn files() {
        let c = parse(&format!(
            "[{{resources: [secrets, pandas.bears.example], providers: [{KEY}, {{identity: {{}}}}]}}]"
        ));
        let c = c.unwrap();
        let by = c.by_resource();
        assert_eq!(by[&("bears.example".to_owned(), "pandas".to_owned())].len(), 2);
        assert!(!format!("{c:?}").contains("MDEy"), "secrets are not shown");
        for (rules, want) in [
            ("[]", "resources: Required value: at least one resources is required"),
            ("[{providers: [{identity: {}}]}]", "resources[0].resources: Required value"),
            ("[{resources: [secrets]}]", "resources[0].providers: Required value"),
            (
                "[{resources: [secrets, secrets], providers: [{identity: {}}]}]",
                "the same resource cannot be specified",
            ),
            ("[{resources: [secrets, '*.'], providers: [{identity: {}}]}]", "using overlapping resources"),
            ("[{resources: [a.b, '*.*'], providers: [{identity: {}}]}]", "using overlapping resources"),
            ("[{resources: [Secrets], providers: [{identity: {}}]}]", "should not contain capital letters"),
            ("[{resources: ['*'], providers: [{identity: {}}]}]", "use '*.' to encrypt"),
            ("[{resources: ['a.*'], providers: [{identity: {}}]}]", "across groups is not supported"),
            ("[{resources: [secrets], providers: [{}]}]", "does not contain any of the expected providers"),
            ("[{resources: [secrets], providers: [{identity: {}, aescbc: {}}]}]", "more than one provider"),
            (
                "[{resources: [secrets], providers: [{aescbc: {}}]}]",
                "aescbc.keys: Required value: at least one keys",
            ),
            (
                "[{resources: [secrets], providers: [{aescbc: {keys: [{name: k, secret: '***'}]}}]}]",
                "resources[0].providers[0].aescbc.keys[0].secret: Invalid value: \"REDACTED\": secrets must be base64 encoded",
            ),
            (
                "[{resources: [secrets], providers: [{secretbox: {keys: [{name: k, secret: MDEy}]}}]}]",
                "secret is not of the expected length, got 3, expected one of [32]",
            ),
            (
                "[{resources: ['*.'], providers: [{identity: {}}]}, {resources: [secrets], providers: [{identity: {}}]}]",
                "resource \"secrets\" is masked by earlier rule \"*.\"",
            ),
        ] {
            let e = parse(rules).unwrap_err();
            assert!(e.contains(want), "{rules}: {e}");
        }
    }

    #[test]
    fn kms() {
        let kms = |k: &str| parse(&format!("[{{resources: [secrets], providers: [{{kms: {{{k}}}}}]}}]"));
        let c = kms("apiVersion: v2, name: a, endpoint: 'unix:///run/kms.sock', timeout: 7s").unwrap();
        let k = c.resources[0].providers[0].kms.clone().unwrap();
        assert_eq!((k.socket(), k.timeout().as_secs()), (Some("/run/kms.sock"), 7));
        for (k, want) in [
            ("apiVersion: v2, endpoint: 'unix:///x'", "name is a mandatory field"),
            ("apiVersion: v2, name: 'a:b', endpoint: 'unix:///x'", "must not contain ':'"),
            ("apiVersion: v2, name: a, endpoint: 'tcp://x'", "unsupported scheme \"tcp\""),
            (
                "apiVersion: v2, name: a, endpoint: 'unix:///x', cachesize: 3",
                "cachesize is not supported in v2",
            ),
            ("name: a, endpoint: 'unix:///x'", "KMSv1 is deprecated"),
            ("apiVersion: v3, name: a, endpoint: 'unix:///x'", "unsupported apiVersion v3"),
        ] {
            let e = kms(k).unwrap_err();
            assert!(e.contains(want), "{k}: {e}");
        }
    }
}
