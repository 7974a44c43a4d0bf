//! `KubeSchedulerConfiguration` (kubescheduler.config.k8s.io/v1): the file as written, defaults and validation.

pub mod args;
pub mod extender;

use component_base::duration::GoDuration;
use serde::{Deserialize, Serialize};

/// API versions of the file that are understood.
pub const VERSIONS: &[&str] = &["kubescheduler.config.k8s.io/v1"];
/// Kind of the file.
pub const KIND: &str = "KubeSchedulerConfiguration";

/// The scheduler's configuration file.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parallelism: Option<i32>,
    pub leader_election: LeaderElection,
    pub client_connection: ClientConnection,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_profiling: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enable_contention_profiling: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_of_nodes_to_score: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_initial_backoff_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod_max_backoff_seconds: Option<i64>,
    pub profiles: Vec<ProfileConfig>,
    pub extenders: Vec<extender::Extender>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delay_cache_until_active: Option<bool>,
}

/// Who leads when several schedulers run.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct LeaderElection {
    pub leader_elect: bool,
    pub lease_duration: GoDuration,
    pub renew_deadline: GoDuration,
    pub retry_period: GoDuration,
    pub resource_lock: String,
    pub resource_name: String,
    pub resource_namespace: String,
}

impl Default for LeaderElection {
    fn default() -> Self {
        Self {
            leader_elect: true,
            lease_duration: GoDuration::from_secs(15),
            renew_deadline: GoDuration::from_secs(10),
            retry_period: GoDuration::from_secs(2),
            resource_lock: "leases".into(),
            resource_name: "kube-scheduler".into(),
            resource_namespace: "kube-system".into(),
        }
    }
}

/// How to reach the API server.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClientConnection {
    pub kubeconfig: String,
    pub accept_content_types: String,
    pub content_type: String,
    pub qps: f32,
    pub burst: i32,
}

/// One profile: a scheduler name and its plugins.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ProfileConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheduler_name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub percentage_of_nodes_to_score: Option<i64>,
    pub plugins: PluginsConfig,
    pub plugin_config: Vec<PluginArgs>,
}

/// Plugins switched on and off, everywhere (`multiPoint`) or at one extension point.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginsConfig {
    pub pre_enqueue: PluginSet,
    pub queue_sort: PluginSet,
    pub pre_filter: PluginSet,
    pub filter: PluginSet,
    pub post_filter: PluginSet,
    pub pre_score: PluginSet,
    pub score: PluginSet,
    pub reserve: PluginSet,
    pub permit: PluginSet,
    pub pre_bind: PluginSet,
    pub bind: PluginSet,
    pub post_bind: PluginSet,
    pub multi_point: PluginSet,
}

/// Plugins to add and to take away (`*` takes all defaults away).
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginSet {
    pub enabled: Vec<PluginRef>,
    pub disabled: Vec<PluginRef>,
}

/// A plugin with its weight.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginRef {
    pub name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight: Option<i64>,
}

/// Arguments of one plugin.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PluginArgs {
    pub name: String,
    pub args: serde_json::Value,
}

impl Configuration {
    /// Fills in what the file leaves out.
    pub fn set_defaults(&mut self) {
        if self.profiles.is_empty() {
            self.profiles.push(ProfileConfig::default());
        }
        if let [only] = self.profiles.as_mut_slice() {
            only.scheduler_name.get_or_insert_with(|| "default-scheduler".into());
        }
        self.parallelism.get_or_insert(16);
        self.percentage_of_nodes_to_score.get_or_insert(0);
        self.pod_initial_backoff_seconds.get_or_insert(1);
        self.pod_max_backoff_seconds.get_or_insert(10);
        self.enable_profiling.get_or_insert(true);
        self.enable_contention_profiling.get_or_insert(true);
        let c = &mut self.client_connection;
        if c.content_type.is_empty() {
            c.content_type = "application/vnd.kubernetes.protobuf".into();
        }
        if c.qps == 0.0 {
            c.qps = 50.0;
        }
        if c.burst == 0 {
            c.burst = 100;
        }
    }

    /// Lets NodeResourcesFit leave alone what extenders manage and say so.
    pub fn pass_over_managed(&mut self) {
        let managed = self.extenders.iter().flat_map(|e| &e.managed_resources);
        let names: Vec<serde_json::Value> =
            managed.filter(|r| r.ignored_by_scheduler).map(|r| r.name.as_str().into()).collect();
        if names.is_empty() {
            return;
        }
        const FIT: &str = "NodeResourcesFit";
        for p in &mut self.profiles {
            let i = p.plugin_config.iter().position(|a| a.name == FIT).unwrap_or_else(|| {
                p.plugin_config.push(PluginArgs { name: FIT.into(), args: serde_json::json!({}) });
                p.plugin_config.len() - 1
            });
            match &mut p.plugin_config[i].args["ignoredResources"] {
                serde_json::Value::Array(list) => list.extend(names.iter().cloned()),
                other => *other = names.clone().into(),
            }
        }
    }

    /// Everything that is wrong, one line each.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        let mut check = |ok: bool, what: String| {
            if !ok {
                out.push(what);
            }
        };
        let initial = self.pod_initial_backoff_seconds.unwrap_or(1);
        let max = self.pod_max_backoff_seconds.unwrap_or(10);
        check(initial > 0, format!("podInitialBackoffSeconds: {initial} must be greater than 0"));
        check(max >= initial, format!("podMaxBackoffSeconds: {max} must not be less than {initial}"));
        check(self.parallelism.unwrap_or(1) > 0, "parallelism: must be greater than 0".into());
        let percent = |p: Option<i64>| (0..=100).contains(&p.unwrap_or(0));
        check(
            percent(self.percentage_of_nodes_to_score),
            "percentageOfNodesToScore: must be between 0 and 100".into(),
        );
        for p in extender::problems(&self.extenders) {
            check(false, p);
        }
        let l = &self.leader_election;
        check(
            !l.leader_elect || (l.lease_duration > l.renew_deadline && l.renew_deadline > l.retry_period),
            "leaderElection: leaseDuration must exceed renewDeadline, which must exceed retryPeriod".into(),
        );
        check(
            l.resource_lock == "leases",
            format!("leaderElection.resourceLock: {:?} is not supported, use \"leases\"", l.resource_lock),
        );
        let mut seen = std::collections::HashSet::new();
        for (i, p) in self.profiles.iter().enumerate() {
            let name = p.scheduler_name.as_deref().unwrap_or("");
            check(!name.is_empty(), format!("profiles[{i}].schedulerName: Required value"));
            check(seen.insert(name), format!("profiles[{i}].schedulerName: Duplicate value: {name:?}"));
            check(
                percent(p.percentage_of_nodes_to_score),
                format!("profiles[{i}].percentageOfNodesToScore: must be between 0 and 100"),
            );
            let mut args = std::collections::HashSet::new();
            for a in &p.plugin_config {
                let once = args.insert(a.name.as_str());
                check(once, format!("profiles[{i}].pluginConfig: repeated config for plugin {}", a.name));
            }
        }
        out
    }
}
