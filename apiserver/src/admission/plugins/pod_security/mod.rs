//! `PodSecurity`: the pod security standards, as namespace labels ask for them. `enforce` refuses pods, `warn` tells
//! the client, also about the pods that a controller object would make.

mod baseline;
mod checks;
mod config;
mod policy;
mod restricted;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::admission::config::Configs;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::audit;
use crate::authz::graph::containers;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::metrics::parts;
use crate::status::{ApiError, ApiResult};
pub use config::Configuration;
use policy::{Level, LevelVersion, Policy};

/// Subresources of pods that cannot change what a pod may do.
const HARMLESS: [&str; 8] =
    ["exec", "attach", "binding", "eviction", "log", "portforward", "proxy", "status"];
/// How many existing pods a changed namespace label is tried on.
const MAX_EXISTING: usize = 3000;

struct PodSecurity {
    objects: Arc<dyn ObjectLookup>,
    /// What namespaces without labels get.
    defaults: Policy,
    configs: Arc<Configs>,
}

pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    let defaults = env.configs.pod_security.defaults();
    Arc::new(PodSecurity { objects: env.objects.clone(), defaults, configs: env.configs.clone() })
}

#[async_trait]
impl Plugin for PodSecurity {
    fn name(&self) -> &'static str {
        "PodSecurity"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let Some(object) = object else { return Ok(()) };
        if !matches!(attrs.operation, Operation::Create | Operation::Update) {
            return Ok(());
        }
        match (attrs.group, attrs.resource) {
            ("", "namespaces") if attrs.subresource.is_empty() => self.namespace(attrs, object).await,
            ("", "pods") if !HARMLESS.contains(&attrs.subresource) => self.pod(attrs, object).await,
            _ if attrs.subresource.is_empty() => match template(attrs.group, attrs.resource, object) {
                Some(pod) => self.controller(attrs, pod).await,
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }
}

/// The pod that a controller object would make.
fn template<'a>(group: &str, resource: &str, object: &'a Value) -> Option<&'a Value> {
    let at = match (group, resource) {
        ("", "podtemplates") => "/template",
        ("", "replicationcontrollers")
        | ("apps", "replicasets" | "deployments" | "statefulsets" | "daemonsets")
        | ("batch", "jobs") => "/spec/template",
        ("batch", "cronjobs") => "/spec/jobTemplate/spec/template",
        _ => return None,
    };
    object.pointer(at).filter(|t| t.is_object())
}

/// Whether an update touches what the standards look at: images, and containers added.
fn significant(new: &Value, old: &Value) -> bool {
    let image = |c: &Value| text(c, "/image").to_owned();
    let lists = ["/spec/containers", "/spec/initContainers"].iter().any(|p| {
        let (a, b) = (items(new, p), items(old, p));
        a.len() != b.len() || a.iter().zip(b).any(|(x, y)| image(x) != image(y))
    });
    lists
        || items(new, "/spec/ephemeralContainers").iter().any(|c| {
            let before = items(old, "/spec/ephemeralContainers");
            before.iter().find(|o| text(o, "/name") == text(c, "/name")).is_none_or(|o| image(o) != image(c))
        })
}

impl PodSecurity {
    async fn policy(&self, namespace: &str) -> ApiResult<Policy> {
        let found = self.objects.get(lookup::NAMESPACES, "", namespace).await?;
        let Some(namespace) = found else {
            return Err(ApiError::internal(format!("failed to lookup namespace \"{namespace}\"")));
        };
        // Labels that do not parse were refused when they were written, or fail closed.
        Ok(Policy::of(&namespace, &self.defaults).0)
    }

    /// Whether the configuration spares the user, the namespace or the pod's runtime class.
    fn is_exempt(&self, attrs: &Attributes<'_>, pod: &Value) -> bool {
        let e = &self.configs.pod_security.exemptions;
        let has = |list: &[String], name: &str| !name.is_empty() && list.iter().any(|x| x == name);
        has(&e.usernames, &attrs.user.name)
            || has(&e.namespaces, attrs.namespace)
            || has(&e.runtime_classes, text(pod, "/spec/runtimeClassName"))
    }

    async fn pod(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        if self.is_exempt(attrs, pod) {
            return Ok(());
        }
        let policy = self.policy(attrs.namespace).await?;
        if attrs.operation == Operation::Update && attrs.old.is_some_and(|old| !significant(pod, old)) {
            return Ok(());
        }
        audit::annotate("pod-security.kubernetes.io/enforce-policy", || policy.enforce.to_string());
        if policy.is_privileged() {
            judged(attrs, "pod", "enforce", "allow", &policy.enforce);
            return Ok(());
        }
        let enforced = checks::evaluate(&policy.enforce, pod);
        let decision = if enforced.is_empty() { "allow" } else { "deny" };
        judged(attrs, "pod", "enforce", decision, &policy.enforce);
        audit_violations(attrs, "pod", &policy, pod);
        if !enforced.is_empty() {
            let message =
                format!("violates PodSecurity \"{}\": {}", policy.enforce, checks::detail(&enforced));
            return Err(attrs.forbidden(Some(pod), message));
        }
        warn(attrs, "pod", &policy, pod);
        Ok(())
    }

    async fn controller(&self, attrs: &Attributes<'_>, pod: &Value) -> ApiResult<()> {
        if self.is_exempt(attrs, pod) {
            return Ok(());
        }
        let policy = self.policy(attrs.namespace).await?;
        audit_violations(attrs, "controller", &policy, pod);
        warn(attrs, "controller", &policy, pod);
        Ok(())
    }

    async fn namespace(&self, attrs: &Attributes<'_>, namespace: &Value) -> ApiResult<()> {
        let (new, errors) = Policy::of(namespace, &self.defaults);
        let (old, old_errors) = match attrs.old {
            Some(old) if attrs.operation == Operation::Update => Policy::of(old, &self.defaults),
            _ if errors.is_empty() => return Ok(()),
            _ => Default::default(),
        };
        if !errors.is_empty() && errors != old_errors {
            return Err(ApiError::invalid("", "Namespace", attrs.object_name(Some(namespace)), &errors));
        }
        let relaxed = new.enforce.version == old.enforce.version && new.enforce.level <= old.enforce.level;
        if attrs.old.is_none()
            || new.enforce == old.enforce
            || new.enforce.level == Level::Privileged
            || relaxed
            || self.configs.pod_security.exemptions.namespaces.iter().any(|n| n == attrs.name)
        {
            return Ok(());
        }
        self.existing_pods(attrs, &new.enforce).await
    }

    /// Tells which existing pods break a new level.
    async fn existing_pods(&self, attrs: &Attributes<'_>, level: &LevelVersion) -> ApiResult<()> {
        let namespace = attrs.object_name(None);
        let mut pods = self.objects.list(lookup::PODS, namespace).await?;
        // One pod of every controller first: its siblings say the same.
        let mut seen: HashMap<String, ()> = HashMap::new();
        pods.sort_by_cached_key(|p| {
            let owners = items(p, "/metadata/ownerReferences");
            let owner =
                owners.iter().find(|o| o["controller"].as_bool() == Some(true)).map(|o| text(o, "/uid"));
            owner.is_some_and(|uid| seen.insert(uid.to_owned(), ()).is_some())
        });
        let (total, checked) = (pods.len(), pods.len().min(MAX_EXISTING));
        let mut by_reason: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for p in &pods[..checked] {
            let bad = checks::evaluate(level, p);
            if !bad.is_empty() {
                by_reason
                    .entry(checks::reasons(&bad))
                    .or_default()
                    .push(text(p, "/metadata/name").to_owned());
            }
        }
        if checked < total {
            attrs.warnings.add(format!(
                "new PodSecurity enforce level only checked against the first {checked} of {total} existing pods"
            ));
        }
        if by_reason.is_empty() {
            return Ok(());
        }
        attrs.warnings.add(format!(
            "existing pods in namespace \"{namespace}\" violate the new PodSecurity enforce level \"{level}\""
        ));
        let mut lines: Vec<String> = by_reason
            .into_iter()
            .map(|(reason, mut names)| {
                names.sort();
                match names.len() {
                    1 => format!("{}: {reason}", names[0]),
                    2 => format!("{} (and 1 other pod): {reason}", names[0]),
                    n => format!("{} (and {} other pods): {reason}", names[0], n - 1),
                }
            })
            .collect();
        lines.sort();
        for line in lines {
            attrs.warnings.add(line);
        }
        Ok(())
    }
}

/// Counts a judgement. `resource`: `pod`, or `controller` for what makes pods.
fn judged(
    attrs: &Attributes<'_>,
    resource: &'static str,
    mode: &'static str,
    decision: &'static str,
    level: &LevelVersion,
) {
    let level = level.to_string();
    let (policy_level, policy_version) = level.split_once(':').unwrap_or((&level, ""));
    parts::evaluation(&parts::Evaluation {
        decision,
        mode,
        policy_level: policy_level.to_owned(),
        policy_version: policy_version.to_owned(),
        request_operation: if attrs.operation == Operation::Update { "update" } else { "create" },
        resource,
        subresource: attrs.subresource.to_owned(),
    });
}

/// Tells the audit log what breaks the level that is only watched.
fn audit_violations(attrs: &Attributes<'_>, resource: &'static str, policy: &Policy, pod: &Value) {
    let bad = checks::evaluate(&policy.audit, pod);
    if !bad.is_empty() {
        judged(attrs, resource, "audit", "deny", &policy.audit);
        audit::annotate("pod-security.kubernetes.io/audit-violations", || {
            format!("would violate PodSecurity \"{}\": {}", policy.audit, checks::detail(&bad))
        });
    }
}

fn warn(attrs: &Attributes<'_>, resource: &'static str, policy: &Policy, pod: &Value) {
    let bad = checks::evaluate(&policy.warn, pod);
    if !bad.is_empty() {
        judged(attrs, resource, "warn", "deny", &policy.warn);
        attrs.warnings.add(format!(
            "would violate PodSecurity \"{}\": {}",
            policy.warn,
            checks::detail(&bad)
        ));
    }
}

/// Names of the containers for which `bad` holds.
fn bad_containers(pod: &Value, mut bad: impl FnMut(&Value) -> bool) -> Vec<String> {
    containers(pod).filter(|c| bad(c)).map(|c| text(c, "/name").to_owned()).collect()
}

fn security_context(v: &Value) -> &Value {
    v.get("securityContext").unwrap_or(&Value::Null)
}

/// The pod's own security context.
fn pod_context(pod: &Value) -> &Value {
    security_context(pod.get("spec").unwrap_or(&Value::Null))
}

fn is_windows(pod: &Value) -> bool {
    text(pod, "/spec/os/name") == "windows"
}

fn has_own_users(pod: &Value) -> bool {
    pod.pointer("/spec/hostUsers") == Some(&json!(false))
}

#[cfg(test)]
mod tests;
