//! `--admission-control-config-file`: an `AdmissionConfiguration` with the configurations of single plugins, inside or
//! in files of their own. Everything is read and checked before the first plugin is built.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::plugins::{
    event_rate_limit, image_policy, pod_security, pod_toleration_restriction, resource_quota,
};

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];

/// What the plugins were configured to.
#[derive(Debug, Default)]
pub struct Configs {
    pub event_rate_limit: event_rate_limit::Configuration,
    /// `clusterDefaultNodeSelector` and the selectors that single namespaces may use.
    pub pod_node_selector: BTreeMap<String, String>,
    pub pod_security: pod_security::Configuration,
    pub pod_toleration_restriction: pod_toleration_restriction::Configuration,
    pub resource_quota: resource_quota::Configuration,
    /// None where it is not configured: the plugin does not run without.
    pub image_policy: Option<image_policy::Configuration>,
    /// With which credentials webhooks are called: the kubeconfig files of the two webhook plugins.
    pub mutating_webhooks: Option<PathBuf>,
    pub validating_webhooks: Option<PathBuf>,
    /// The configurations of all plugins as they were written, by plugin name.
    pub raw: BTreeMap<String, Value>,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Vec<Entry>,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    #[serde(default)]
    path: PathBuf,
    configuration: Option<Value>,
}

/// `apiserver.config.k8s.io/v1` `WebhookAdmissionConfiguration`.
#[derive(Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct WebhookAdmission {
    #[serde(default)]
    kube_config_file: PathBuf,
    #[serde(default)]
    static_manifests_dir: PathBuf,
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
}

/// The kubeconfig file of a webhook plugin.
fn webhooks(name: &str, v: &Value) -> Result<Option<PathBuf>, String> {
    let group = "apiserver.config.k8s.io";
    let c: WebhookAdmission = versioned(name, v, group, "WebhookAdmissionConfiguration")?;
    let fail = |why: &str| Err(format!("the configuration of admission plugin {name}: {why}"));
    if !c.static_manifests_dir.as_os_str().is_empty() {
        return fail(
            "staticManifestsDir requires the ManifestBasedAdmissionControlConfig feature gate, which is off",
        );
    }
    let path = c.kube_config_file;
    if path.as_os_str().is_empty() {
        return Ok(None);
    }
    if !path.is_absolute() {
        return fail(&format!("kubeConfigFile: Invalid value: {path:?}: must be an absolute file path"));
    }
    Ok(Some(path))
}

fn read(path: &Path) -> Result<Value, String> {
    let fail =
        |e: String| format!("unable to read admission control configuration from {}: {e}", path.display());
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    serde_yaml::from_str(&text).map_err(|e| fail(e.to_string()))
}

fn typed<T: DeserializeOwned>(name: &str, v: &Value) -> Result<T, String> {
    serde_json::from_value(v.clone())
        .map_err(|e| format!("the configuration of admission plugin {name}: {e}"))
}

/// The value as one of `group`'s versions of `kind`.
fn versioned<T: DeserializeOwned>(name: &str, v: &Value, group: &str, kind: &str) -> Result<T, String> {
    let (api_version, k) = (v["apiVersion"].as_str().unwrap_or(""), v["kind"].as_str().unwrap_or(""));
    if api_version.split('/').next() != Some(group) || k != kind {
        return Err(format!(
            "the configuration of admission plugin {name} must be a {kind} of {group}, not {k:?} of {api_version:?}"
        ));
    }
    typed(name, v)
}

impl Configs {
    /// Reads the file; nothing is configured where there is none.
    ///
    /// # Errors
    /// A file that cannot be read, or with something that no plugin understands.
    pub fn load(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self::default()) };
        let value = read(path)?;
        // A file from before there were versions configures this plugin alone.
        if value.get("kind").is_none() && value.get("podNodeSelectorPluginConfig").is_some() {
            return Self::of(BTreeMap::from([("PodNodeSelector".to_owned(), value)]), Path::new(""));
        }
        let (api_version, kind) =
            (value["apiVersion"].as_str().unwrap_or(""), value["kind"].as_str().unwrap_or(""));
        if kind != "AdmissionConfiguration" || !VERSIONS.contains(&api_version) {
            return Err(format!(
                "{}: want an AdmissionConfiguration of {}, not {kind:?} of {api_version:?}",
                path.display(),
                VERSIONS[0]
            ));
        }
        let file: File = serde_json::from_value(value).map_err(|e| format!("{}: {e}", path.display()))?;
        let mut raw = BTreeMap::new();
        for e in file.plugins {
            let v = match e.configuration.filter(|c| !c.is_null()) {
                Some(c) => c,
                None if e.path.as_os_str().is_empty() => continue,
                None => read(&path.parent().unwrap_or(Path::new(".")).join(&e.path))?,
            };
            // The first entry of a name counts.
            raw.entry(e.name).or_insert(v);
        }
        Self::of(raw, path.parent().unwrap_or(Path::new("")))
    }

    /// `folder`: of the file that all this is from.
    fn of(raw: BTreeMap<String, Value>, folder: &Path) -> Result<Self, String> {
        let mut out = Self::default();
        for (name, v) in &raw {
            match name.as_str() {
                "EventRateLimit" => {
                    let group = "eventratelimit.admission.k8s.io";
                    out.event_rate_limit = versioned(name, v, group, "Configuration")?;
                }
                "PodNodeSelector" => {
                    let own = v.get("podNodeSelectorPluginConfig").unwrap_or(&Value::Null);
                    if !own.is_null() {
                        out.pod_node_selector = typed(name, own)?;
                    }
                }
                "PodSecurity" => {
                    let group = "pod-security.admission.config.k8s.io";
                    out.pod_security = versioned(name, v, group, "PodSecurityConfiguration")?;
                    let errors = out.pod_security.validate();
                    if !errors.is_empty() {
                        return Err(format!(
                            "the configuration of admission plugin {name}: {}",
                            errors.aggregate()
                        ));
                    }
                }
                "PodTolerationRestriction" => {
                    let group = "podtolerationrestriction.admission.k8s.io";
                    out.pod_toleration_restriction = versioned(name, v, group, "Configuration")?;
                }
                "ResourceQuota" => {
                    let new = v["kind"] == "ResourceQuotaConfiguration";
                    let (group, kind) = if new {
                        ("apiserver.config.k8s.io", "ResourceQuotaConfiguration")
                    } else {
                        ("resourcequota.admission.k8s.io", "Configuration")
                    };
                    out.resource_quota = versioned(name, v, group, kind)?;
                }
                "ImagePolicyWebhook" => {
                    let c = image_policy::Configuration::read(v, folder);
                    let c = c.map_err(|e| format!("the configuration of admission plugin {name}: {e}"))?;
                    out.image_policy = Some(c);
                }
                "MutatingAdmissionWebhook" => out.mutating_webhooks = webhooks(name, v)?,
                "ValidatingAdmissionWebhook" => out.validating_webhooks = webhooks(name, v)?,
                _ => {}
            }
        }
        out.raw = raw;
        Ok(out)
    }

    /// Whether the plugin can run with what it was configured to.
    pub fn check(&self, plugin: &str) -> Result<(), String> {
        match plugin {
            "ImagePolicyWebhook" if self.image_policy.is_none() => {
                return Err(format!("admission plugin {plugin}: no config specified"));
            }
            "EventRateLimit" => {}
            _ => return Ok(()),
        }
        let errors = self.event_rate_limit.validate();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(format!("admission plugin {plugin}: {}", errors.aggregate()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Configs, String> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("config.yaml"), text).unwrap();
        let nested = "apiVersion: eventratelimit.admission.k8s.io/v1alpha1\nkind: Configuration\nlimits: [{type: Server, qps: 1, burst: 1}]\n";
        std::fs::write(dir.path().join("events.yaml"), nested).unwrap();
        Configs::load(Some(&dir.path().join("config.yaml")))
    }

    #[test]
    fn files() {
        let c = load(
            "apiVersion: apiserver.config.k8s.io/v1
kind: AdmissionConfiguration
plugins:
- name: EventRateLimit
  path: events.yaml
- name: PodNodeSelector
  configuration: {podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: a=b}}
- name: PodSecurity
  configuration:
    apiVersion: pod-security.admission.config.k8s.io/v1
    kind: PodSecurityConfiguration
    defaults: {enforce: baseline, enforce-version: v1.30}
    exemptions: {namespaces: [kube-system]}
- name: ResourceQuota
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: ResourceQuotaConfiguration
    limitedResources: [{resource: pods, matchContains: [cpu]}]
- name: MutatingAdmissionWebhook
  configuration:
    apiVersion: apiserver.config.k8s.io/v1
    kind: WebhookAdmissionConfiguration
    kubeConfigFile: /etc/hooks.kubeconfig
",
        )
        .unwrap();
        assert!(c.check("EventRateLimit").is_ok() && Configs::default().check("EventRateLimit").is_err());
        assert_eq!(c.pod_node_selector["clusterDefaultNodeSelector"], "a=b");
        assert_eq!(c.raw.len(), 5);
        assert_eq!(c.mutating_webhooks.unwrap(), Path::new("/etc/hooks.kubeconfig"));
        assert!(c.validating_webhooks.is_none());
        let old = load("podNodeSelectorPluginConfig: {clusterDefaultNodeSelector: c=d}").unwrap();
        assert_eq!(old.pod_node_selector["clusterDefaultNodeSelector"], "c=d");
    }

    #[test]
    fn mistakes() {
        let head = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";
        let fails = |t: String, why: &str| {
            let e = load(&t).unwrap_err();
            assert!(e.contains(why), "{e}");
        };
        fails("kind: Other\n".to_owned(), "want an AdmissionConfiguration");
        fails(format!("{head}plugin: []\n"), "unknown field `plugin`");
        fails(format!("{head}plugins: [{{name: EventRateLimit, path: absent}}]\n"), "unable to read");
        fails(
            format!("{head}plugins: [{{name: EventRateLimit, configuration: {{kind: X}}}}]\n"),
            "must be a Configuration",
        );
        let hooks = "apiVersion: apiserver.config.k8s.io/v1, kind: WebhookAdmissionConfiguration";
        for (more, why) in [
            ("kubeConfigFile: hooks", "must be an absolute file path"),
            ("staticManifestsDir: /x", "feature gate"),
        ] {
            let entry = format!("{{name: ValidatingAdmissionWebhook, configuration: {{{hooks}, {more}}}}}");
            fails(format!("{head}plugins: [{entry}]\n"), why);
        }
        let level = "apiVersion: pod-security.admission.config.k8s.io/v1, kind: PodSecurityConfiguration, defaults: {enforce: x}";
        fails(
            format!("{head}plugins: [{{name: PodSecurity, configuration: {{{level}}}}}]\n"),
            "defaults.enforce: Invalid value: \"x\"",
        );
    }
}
