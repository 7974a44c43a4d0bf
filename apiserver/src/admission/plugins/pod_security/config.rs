//! The plugin's configuration: the policy of namespaces that say nothing, and whom the standards spare.

use super::policy::{Level, LevelVersion, Policy, parse_version};
use crate::field::{Error, ErrorList, Path};
use crate::registry::names;

/// `PodSecurityConfiguration` (`pod-security.admission.config.k8s.io`).
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Configuration {
    defaults: Defaults,
    pub exemptions: Exemptions,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
struct Defaults {
    enforce: String,
    enforce_version: String,
    audit: String,
    audit_version: String,
    warn: String,
    warn_version: String,
}

/// Whom the standards spare.
#[derive(Debug, Clone, Default, serde::Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Exemptions {
    pub usernames: Vec<String>,
    pub namespaces: Vec<String>,
    pub runtime_classes: Vec<String>,
}

impl Configuration {
    fn modes(&self) -> [(&'static str, &str, &str); 3] {
        let d = &self.defaults;
        [
            ("enforce", &d.enforce, &d.enforce_version),
            ("audit", &d.audit, &d.audit_version),
            ("warn", &d.warn, &d.warn_version),
        ]
    }

    /// The policy of namespaces without labels.
    pub fn defaults(&self) -> Policy {
        let [enforce, audit, warn] = self.modes().map(|(_, level, version)| LevelVersion {
            level: Level::parse(level).unwrap_or_default(),
            version: parse_version(version).flatten(),
        });
        Policy { enforce, audit, warn }
    }

    /// Everything wrong with it.
    pub fn validate(&self) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("defaults");
        for (mode, level, version) in self.modes() {
            if !level.is_empty() && Level::parse(level).is_none() {
                let why = "must be one of privileged, baseline, restricted";
                errors.push(Error::invalid(&path.child(mode), level, why));
            }
            if !version.is_empty() && parse_version(version).is_none() {
                let at = path.child(&format!("{mode}-version"));
                errors.push(Error::invalid(&at, version, "must be \"latest\" or \"v1.x\""));
            }
        }
        let path = Path::new("exemptions");
        let mut check = |field: &str, list: &[String], rule: fn(&str) -> Result<(), Vec<String>>| {
            for (i, name) in list.iter().enumerate() {
                let at = path.child(field).index(i);
                if list[..i].contains(name) {
                    errors.push(Error::duplicate(&at, name));
                }
                if let Err(messages) = rule(name) {
                    errors.push(Error::invalid(&at, name, messages.join(", ")));
                }
            }
        };
        let e = &self.exemptions;
        check("namespaces", &e.namespaces, names::dns1123_label);
        check("runtimeClasses", &e.runtime_classes, names::dns1123_subdomain);
        let named = |n: &str| {
            if n.is_empty() { Err(vec!["username must not be empty".to_owned()]) } else { Ok(()) }
        };
        check("usernames", &e.usernames, named);
        errors
    }
}
