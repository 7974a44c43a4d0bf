//! The plugins in upstream's order, chosen by `--enable-admission-plugins` and `--disable-admission-plugins`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::policy::{self, Policies};
use super::webhook::{self, Webhooks};
use super::{Attributes, Operation, Phase, Plugin, plugins};
use crate::authz::Authorizer;
use crate::authz::devices::DeviceAccess;
use crate::authz::escalation::Escalation;
use crate::lookup::{ObjectLookup, ObjectWriter};
use crate::metrics::parts;
use crate::status::ApiResult;

/// What the plugins work with.
#[derive(Clone)]
pub struct Environment {
    pub objects: Arc<dyn ObjectLookup>,
    /// Writes of usage and the like.
    pub writer: Arc<dyn ObjectWriter>,
    pub authorizer: Arc<Authorizer>,
    pub settings: Settings,
    /// What webhooks are configured and how they are called.
    pub webhooks: Arc<Webhooks>,
    /// What admission policies are in force.
    pub policies: Arc<Policies>,
    /// `--admission-control-config-file`.
    pub configs: Arc<super::config::Configs>,
}

/// Flags that single plugins read.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--default-not-ready-toleration-seconds`.
    pub default_not_ready_toleration_seconds: i64,
    /// `--default-unreachable-toleration-seconds`.
    pub default_unreachable_toleration_seconds: i64,
}

impl Default for Settings {
    fn default() -> Self {
        Self { default_not_ready_toleration_seconds: 300, default_unreachable_toleration_seconds: 300 }
    }
}

type Build = fn(&Environment) -> Arc<dyn Plugin>;

/// Name, on by default, constructor (none: upstream knows the name, we do not have the plugin yet).
type Known = (&'static str, bool, Option<Build>);

/// Charges for a write, and so must come after all who may refuse it.
const LAST: &str = "ResourceQuota";

/// All names that upstream's flags know, in upstream's order.
const KNOWN: &[Known] = &[
    ("AlwaysAdmit", false, Some(plugins::always::build_admit)),
    ("NamespaceAutoProvision", false, Some(plugins::namespaces::build_auto_provision)),
    ("NamespaceLifecycle", true, Some(plugins::namespace_lifecycle::build)),
    ("NamespaceExists", false, Some(plugins::namespaces::build_exists)),
    ("LimitPodHardAntiAffinityTopology", false, Some(plugins::anti_affinity::build)),
    ("LimitRanger", true, Some(plugins::limit_ranger::build)),
    ("ServiceAccount", true, Some(plugins::service_account::build)),
    ("NodeRestriction", false, Some(plugins::node_restriction::build)),
    ("TaintNodesByCondition", true, Some(plugins::taints::build_taints)),
    ("AlwaysPullImages", false, Some(plugins::always_pull_images::build)),
    ("ImagePolicyWebhook", false, Some(plugins::image_policy::build)),
    ("PodSecurity", true, Some(plugins::pod_security::build)),
    ("PodNodeSelector", false, Some(plugins::pod_node_selector::build)),
    ("Priority", true, Some(plugins::priority::build)),
    ("DefaultTolerationSeconds", true, Some(plugins::taints::build_tolerations)),
    ("PodTolerationRestriction", false, Some(plugins::pod_toleration_restriction::build)),
    ("EventRateLimit", false, Some(plugins::event_rate_limit::build)),
    ("ExtendedResourceToleration", false, Some(plugins::extended_resource_toleration::build)),
    ("DefaultStorageClass", true, Some(plugins::storage::build_default_storage_class)),
    ("StorageObjectInUseProtection", true, Some(plugins::storage::build_in_use_protection)),
    ("PodGroupProtection", true, Some(plugins::always::build_idle)),
    ("OwnerReferencesPermissionEnforcement", false, Some(plugins::owner_references::build)),
    ("PersistentVolumeClaimResize", true, Some(plugins::storage::build_resize)),
    ("RuntimeClass", true, Some(plugins::runtime_class::build)),
    ("CertificateApproval", true, Some(plugins::certificates::build_approval)),
    ("CertificateSigning", true, Some(plugins::certificates::build_signing)),
    ("ClusterTrustBundleAttest", true, Some(plugins::certificates::build_attest)),
    ("CertificateSubjectRestriction", true, Some(plugins::certificates::build_subject_restriction)),
    ("DefaultIngressClass", true, Some(plugins::storage::build_default_ingress_class)),
    ("DenyServiceExternalIPs", false, Some(plugins::service_external_ips::build)),
    ("PodTopologyLabels", true, Some(plugins::pod_topology_labels::build)),
    ("PodGroupWorkloadExists", true, Some(plugins::always::build_idle)),
    ("NodeDeclaredFeatureValidator", true, Some(plugins::pod_resize::build_features)),
    ("JobValidation", true, Some(plugins::always::build_idle)),
    ("PodResizeValidator", true, Some(plugins::pod_resize::build_resize)),
    ("MutatingAdmissionPolicy", true, Some(policy::build_mutating)),
    ("MutatingAdmissionWebhook", true, Some(webhook::build_mutating)),
    ("ValidatingAdmissionPolicy", true, Some(policy::build_validating)),
    ("ValidatingAdmissionWebhook", true, Some(webhook::build_validating)),
    (LAST, true, Some(plugins::resource_quota::build)),
    ("AlwaysDeny", false, Some(plugins::always::build_deny)),
];

/// A plugin with what counts its calls.
struct Link {
    plugin: Arc<dyn Plugin>,
    admitted: parts::PluginSeries,
    validated: parts::PluginSeries,
}

impl Link {
    fn new(plugin: Arc<dyn Plugin>) -> Self {
        let series = |r#type| parts::PluginSeries::new(plugin.name(), r#type);
        Self { admitted: series("admit"), validated: series("validate"), plugin }
    }
}

/// The plugins of this server.
pub struct Chain {
    links: Vec<Link>,
}

impl Chain {
    /// `enable` and `disable` as in the flags, and `only` as in the older `--admission-control`. Naming a plugin that is
    /// not there is an error, not a silent hole.
    pub fn new(
        env: &Environment,
        enable: &[String],
        disable: &[String],
        only: &[String],
    ) -> Result<Self, String> {
        if !only.is_empty() {
            if !enable.is_empty() || !disable.is_empty() {
                return Err(
                    "admission-control and enable-admission-plugins/disable-admission-plugins flags are mutually exclusive"
                        .to_owned(),
                );
            }
            if let Some(n) = only.iter().find(|n| !KNOWN.iter().any(|(known, ..)| known == n)) {
                return Err(format!("admission-control plugin {n:?} is unknown"));
            }
        }
        for (flag, names) in [("enable", enable), ("disable", disable)] {
            for n in names {
                if !KNOWN.iter().any(|(known, ..)| known == n) {
                    return Err(format!("--{flag}-admission-plugins: plugin {n:?} is unknown"));
                }
                if enable.contains(n) && disable.contains(n) {
                    return Err(format!(
                        "{n} in enable-admission-plugins and disable-admission-plugins overlapped"
                    ));
                }
            }
        }
        let mut list = Vec::new();
        for (name, default, build) in KNOWN {
            let asked = enable.iter().chain(only).any(|n| n == name);
            let off = disable.iter().any(|n| n == name) || (!only.is_empty() && !asked);
            if !(asked || *default) || off {
                continue;
            }
            env.configs.check(name)?;
            match build {
                Some(build) => list.push(build(env)),
                None if asked => {
                    return Err(format!(
                        "--enable-admission-plugins: {name} is not available in this server; remove it from the flag"
                    ));
                }
                None => tracing::debug!(plugin = name, "admission plugin is not available in this server"),
            }
        }
        let at = list.iter().position(|p| p.name() == LAST).unwrap_or(list.len());
        let built_in: [Arc<dyn Plugin>; 2] = [
            Arc::new(DeviceAccess::new(env.authorizer.clone(), env.objects.clone())),
            Arc::new(Escalation::new(env.authorizer.clone())),
        ];
        list.splice(at..at, built_in);
        Ok(Self { links: list.into_iter().map(Link::new).collect() })
    }

    /// Names of the plugins that run, in order.
    pub fn names(&self) -> Vec<&'static str> {
        self.links.iter().map(|l| l.plugin.name()).collect()
    }

    /// Lets every plugin change the object; twice where webhooks or policies want it.
    pub async fn admit(&self, attrs: &Attributes<'_>, mut object: Option<&mut Value>) -> ApiResult<()> {
        let started = Instant::now();
        let mut done = self.admit_round(attrs, object.as_deref_mut()).await;
        if done.is_ok() && attrs.reinvocation.begin_second() {
            done = self.admit_round(attrs, object).await;
        }
        parts::step("admit", attrs.operation.label(), &done, started.elapsed());
        done
    }

    /// The plugins that have a say in a phase of a write.
    fn of(&self, phase: Phase, operation: Operation) -> impl Iterator<Item = &Link> {
        let asked = move |l: &&Link| {
            let p = l.plugin.phase();
            (p == phase || p == Phase::Both) && l.plugin.handles(operation)
        };
        self.links.iter().filter(asked)
    }

    async fn admit_round(&self, attrs: &Attributes<'_>, mut object: Option<&mut Value>) -> ApiResult<()> {
        let mut started = Instant::now();
        for l in self.of(Phase::Mutating, attrs.operation) {
            let done = l.plugin.admit(attrs, object.as_deref_mut()).await;
            l.admitted.observe(attrs.operation, &done, lap(&mut started));
            done?;
        }
        Ok(())
    }

    /// Lets every plugin refuse the final object.
    pub async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let started = Instant::now();
        let done = self.validate_round(attrs, object).await;
        parts::step("validate", attrs.operation.label(), &done, started.elapsed());
        done
    }

    async fn validate_round(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let mut started = Instant::now();
        for l in self.of(Phase::Validating, attrs.operation) {
            let done = l.plugin.validate(attrs, object).await;
            l.validated.observe(attrs.operation, &done, lap(&mut started));
            done?;
        }
        Ok(())
    }
}

/// The time since `started`, which becomes now.
fn lap(started: &mut Instant) -> Duration {
    let before = std::mem::replace(started, Instant::now());
    started.duration_since(before)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::plugins::testing::environment;

    fn names(enable: &[&str], disable: &[&str]) -> Result<Vec<&'static str>, String> {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        Chain::new(&environment([]).0, &list(enable), &list(disable), &[]).map(|c| c.names())
    }

    #[test]
    fn flags_choose_and_upstream_orders() {
        let all = names(&["NodeRestriction"], &[]).unwrap();
        let at = |n: &str| all.iter().position(|x| *x == n);
        assert_eq!(at("NamespaceLifecycle"), Some(0));
        assert!(at("ServiceAccount") < at("NodeRestriction") && at("NodeRestriction") < at("PodSecurity"));
        assert_eq!(&all[all.len() - 2..], ["RBACEscalation", "ResourceQuota"]);
        let fewer = names(&[], &["ResourceQuota", "PodSecurity"]).unwrap();
        assert!(!fewer.contains(&"PodSecurity") && !fewer.contains(&"NodeRestriction"));
        assert_eq!(fewer.last(), Some(&"RBACEscalation"));
        assert!(names(&["Nonsense"], &[]).unwrap_err().contains("unknown"));
        assert!(names(&["ImagePolicyWebhook"], &[]).unwrap_err().contains("no config specified"));
        let only = |l: &[&str]| {
            let l: Vec<String> = l.iter().map(|s| (*s).to_owned()).collect();
            Chain::new(&environment([]).0, &[], &[], &l).map(|c| c.names())
        };
        assert_eq!(
            only(&["Priority", "LimitRanger"]).unwrap(),
            ["LimitRanger", "Priority", "DeviceAccess", "RBACEscalation"]
        );
        assert!(only(&["Nonsense"]).unwrap_err().contains("is unknown"));
        assert!(names(&["Priority"], &["Priority"]).unwrap_err().contains("overlapped"));
    }
}
