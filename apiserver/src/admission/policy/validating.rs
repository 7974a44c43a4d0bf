//! The plugin `ValidatingAdmissionPolicy`.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::cache::{Hook, Policies};
use super::compiled::{Binding, Policy, Validating as Body};
use super::context::{Context, namespace_object};
use super::decision::{Annotation, Decision, Denial, Verdict, decide};
use super::matching::Request;
use super::metrics::Enforcement;
use super::{configure, params};
use crate::admission::webhook::forms::{self, View};
use crate::admission::webhook::rules;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::cel::authority::Authority;
use crate::registry::Registry;
use crate::status::{ApiError, ApiResult, Cause};

/// Longest value of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 10 * 1024;

struct Validating {
    policies: Arc<Policies>,
    authority: Arc<dyn Authority>,
}

/// The plugin.
pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Validating { policies: env.policies.clone(), authority: env.authorizer.clone() })
}

/// A refusal, and by whom.
struct Refusal {
    policy: String,
    binding: Option<String>,
    denial: Denial,
}

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionPolicy"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let hooks = self.policies.validating();
        if hooks.is_empty() || rules::is_exempt(attrs) || is_review(attrs) {
            return Ok(());
        }
        let registry = self.policies.registry()?;
        let mut refusals = Vec::new();
        let requested = forms::requested(registry, attrs)?;
        let request = Request::new(registry, attrs, &requested, object);
        for hook in hooks.iter() {
            self.one(registry, hook, attrs, (object, &requested), &request, &mut refusals).await?;
        }
        match refusals.into_iter().next() {
            None => Ok(()),
            Some(first) => Err(refused(attrs, object, &first)),
        }
    }
}

/// Reviews are questions, not objects: no policy may keep anybody from asking.
pub fn is_review(attrs: &Attributes<'_>) -> bool {
    matches!(attrs.group, "authentication.k8s.io" | "authorization.k8s.io")
        && attrs.resource.ends_with("reviews")
}

impl Validating {
    async fn one(
        &self,
        registry: &Registry,
        hook: &Hook<Body>,
        attrs: &Attributes<'_>,
        (object, requested): (Option<&Value>, &View),
        request: &Request<'_>,
        refusals: &mut Vec<Refusal>,
    ) -> ApiResult<()> {
        let policy = &*hook.policy;
        let broken = |refusals: &mut Vec<Refusal>, binding: Option<&Binding>, why: String| {
            if policy.ignore_failures {
                return;
            }
            let message = configure(if binding.is_some() { "binding" } else { "policy" }, &why);
            refusals.push(Refusal {
                policy: policy.name.clone(),
                binding: binding.map(|b| b.name.clone()),
                denial: Denial { message, reason: String::new(), failed: true },
            });
        };
        let matched = match policy.matching.view(request).await {
            Ok(Some(view)) => view,
            Ok(None) => return Ok(()),
            Err(e) => {
                broken(refusals, None, e.message);
                return Ok(());
            }
        };
        if let Err(why) = params::known(registry, policy.param_kind.as_ref()) {
            broken(refusals, None, why);
            return Ok(());
        }
        let mut context: Option<Context<'_>> = None;
        let mut annotations: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for binding in &hook.bindings {
            if let Some(m) = &binding.matching {
                match m.view(request).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(e) => {
                        broken(refusals, Some(binding), e.message);
                        continue;
                    }
                }
            }
            let found = params::collect(
                registry,
                policy.param_kind.as_ref(),
                binding.params.as_ref(),
                attrs.namespace,
            );
            let list = match found.await {
                Ok(list) => list,
                Err(why) => {
                    broken(refusals, Some(binding), why);
                    continue;
                }
            };
            if list.is_empty() {
                continue;
            }
            if context.is_none() {
                let namespace = namespace_object(registry, attrs).await?;
                let made = Context::new(attrs, &self.authority, requested, &matched, object, namespace).await;
                match made {
                    Ok(c) => context = Some(c),
                    Err(e) => {
                        let why = format!("failed to convert object version: {}", e.message);
                        broken(refusals, Some(binding), why);
                        continue;
                    }
                }
            }
            let Some(context) = &context else { continue };
            for p in &list {
                let started = Instant::now();
                let verdict = decide(policy, &context.inputs(p.as_ref()));
                let took = started.elapsed();
                self.take(policy, binding, attrs, verdict, took, &mut annotations, refusals);
            }
        }
        for (key, values) in annotations {
            crate::audit::annotate(&format!("{}/{key}", policy.name), || values.join(", "));
        }
        Ok(())
    }

    /// Acts on what a policy said for a binding.
    #[allow(clippy::too_many_arguments)]
    fn take(
        &self,
        policy: &Policy<Body>,
        binding: &Binding,
        attrs: &Attributes<'_>,
        verdict: Verdict,
        took: std::time::Duration,
        annotations: &mut BTreeMap<String, Vec<String>>,
        refusals: &mut Vec<Refusal>,
    ) {
        let metrics = &self.policies.metrics;
        let refuse = |denial: Denial| Refusal {
            policy: policy.name.clone(),
            binding: Some(binding.name.clone()),
            denial,
        };
        let observe = |what: Enforcement, failed: Option<&str>| {
            metrics.validating.observe(&policy.name, &binding.name, what, failed, took);
        };
        for (i, decision) in verdict.decisions.into_iter().enumerate() {
            let denial = match decision {
                Decision::Admit => continue,
                Decision::Ignored(why) => {
                    observe(Enforcement::Allow, Some(&why));
                    continue;
                }
                Decision::Deny(d) => d,
            };
            let failed = denial.failed.then_some(denial.message.as_str());
            for action in &binding.actions {
                match action.as_str() {
                    "Deny" => {
                        observe(Enforcement::Deny, failed);
                        refusals.push(refuse(denial.clone()));
                    }
                    "Audit" => {
                        observe(Enforcement::Audit, failed);
                        let failures = json!([{
                            "message": denial.message, "policy": policy.name, "binding": binding.name,
                            "expressionIndex": i, "validationActions": binding.actions,
                        }]);
                        let key = "validation.policy.admission.k8s.io/validation_failure";
                        crate::audit::annotate(key, || failures.to_string());
                    }
                    "Warn" => {
                        observe(Enforcement::Warn, failed);
                        attrs.warnings.add(format!(
                            "Validation failed for ValidatingAdmissionPolicy '{}' with binding '{}': {}",
                            policy.name, binding.name, denial.message
                        ));
                    }
                    _ => {}
                }
            }
        }
        for a in verdict.annotations {
            match a {
                Annotation::Exclude => {}
                Annotation::Publish { key, mut value } => {
                    if value.len() > MAX_ANNOTATION {
                        let end = (0..=MAX_ANNOTATION).rev().find(|i| value.is_char_boundary(*i));
                        value.truncate(end.unwrap_or(0));
                    }
                    let list = annotations.entry(key).or_default();
                    if !list.contains(&value) {
                        list.push(value);
                    }
                }
                Annotation::Error(message) => {
                    observe(Enforcement::Deny, Some(&message));
                    refusals.push(refuse(Denial { message, reason: String::new(), failed: true }));
                }
            }
        }
    }
}

/// The answer to a refused request.
fn refused(attrs: &Attributes<'_>, object: Option<&Value>, r: &Refusal) -> ApiError {
    let by = match &r.binding {
        Some(b) => format!("'{}' with binding '{b}'", r.policy),
        None => format!("'{}'", r.policy),
    };
    let message = format!("ValidatingAdmissionPolicy {by} denied request: {}", r.denial.message);
    let mut e = attrs.forbidden(object, &message);
    (e.reason, e.code) = match r.denial.reason.as_str() {
        "Forbidden" => ("Forbidden", 403),
        "Unauthorized" => ("Unauthorized", 401),
        "RequestEntityTooLarge" => ("RequestEntityTooLarge", 413),
        _ => ("Invalid", 422),
    };
    e.details.get_or_insert_with(Box::default).causes.push(Cause {
        reason: String::new(),
        message,
        field: String::new(),
    });
    e
}
