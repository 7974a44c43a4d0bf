//! The plugin `MutatingAdmissionPolicy`.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;

use super::cache::{Hook, Policies};
use super::compiled::{Binding, Mutating as Body, Policy};
use super::context::{Context, namespace_object};
use super::matching::Request;
use super::validating::is_review;
use super::{configure, params, patch};
use crate::admission::expressions::Outcome;
use crate::admission::webhook::forms::{self, View};
use crate::admission::webhook::rules;
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin, keep_owners};
use crate::cel::authority::Authority;
use crate::lookup::text;
use crate::patch::fields::Ty;
use crate::registry::Registry;
use crate::status::{ApiError, ApiResult, Cause};

struct Mutating {
    policies: Arc<Policies>,
    authority: Arc<dyn Authority>,
}

/// The plugin.
pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Mutating { policies: env.policies.clone(), authority: env.authorizer.clone() })
}

/// A policy, a binding and parameters with which it is evaluated.
struct Invocation<'h> {
    policy: &'h Policy<Body>,
    binding: &'h Binding,
    view: View,
    params: Option<Value>,
}

impl Invocation<'_> {
    /// Who this is across rounds.
    fn key(&self) -> String {
        let (namespace, name) = match &self.params {
            Some(p) => (text(p, "/metadata/namespace"), text(p, "/metadata/name")),
            None => ("", ""),
        };
        format!("{}/{}/{namespace}/{name}", self.policy.name, self.binding.name)
    }
}

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionPolicy"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn admit(&self, attrs: &Attributes<'_>, object: Option<&mut Value>) -> ApiResult<()> {
        let hooks = self.policies.mutating();
        let Some(object) = object else { return Ok(()) };
        if hooks.is_empty() || rules::is_exempt(attrs) || is_review(attrs) {
            return Ok(());
        }
        let registry = self.policies.registry()?;
        let requested = forms::requested(registry, attrs)?;
        let mut refusals = Vec::new();
        let mut invocations = Vec::new();
        let request = Request::new(registry, attrs, &requested, Some(&*object));
        for hook in hooks.iter() {
            self.collect(registry, hook, attrs, &request, &mut invocations, &mut refusals).await;
        }
        if !invocations.is_empty() {
            let second = attrs.reinvocation.is_second();
            if second {
                attrs.reinvocation.policies().lock().compare(Some(&*object));
            }
            let namespace = namespace_object(registry, attrs).await?;
            for i in &invocations {
                self.invoke(registry, i, attrs, &requested, namespace.clone(), object, &mut refusals).await?;
            }
            if !second {
                attrs.reinvocation.policies().lock().keep(Some(&*object));
            }
        }
        refused(attrs, object, refusals)
    }
}

impl Mutating {
    /// What is evaluated for a policy.
    async fn collect<'h>(
        &self,
        registry: &Registry,
        hook: &'h Hook<Body>,
        attrs: &Attributes<'_>,
        request: &Request<'_>,
        invocations: &mut Vec<Invocation<'h>>,
        refusals: &mut Vec<String>,
    ) {
        let policy = &*hook.policy;
        let broken = |refusals: &mut Vec<String>, binding: Option<&Binding>, why: &str| {
            let message = configure(if binding.is_some() { "binding" } else { "policy" }, why);
            refuse(refusals, policy, binding, &message);
        };
        let view = match policy.matching.view(request).await {
            Ok(Some(view)) => view,
            Ok(None) => return,
            Err(e) => {
                broken(refusals, None, &e.message);
                return;
            }
        };
        if let Err(why) = params::known(registry, policy.param_kind.as_ref()) {
            broken(refusals, None, &why);
            return;
        }
        for binding in &hook.bindings {
            if let Some(m) = &binding.matching {
                match m.view(request).await {
                    Ok(Some(_)) => {}
                    Ok(None) => continue,
                    Err(e) => {
                        broken(refusals, Some(binding), &e.message);
                        continue;
                    }
                }
            }
            let kind = policy.param_kind.as_ref();
            match params::collect(registry, kind, binding.params.as_ref(), attrs.namespace).await {
                Err(why) => broken(refusals, Some(binding), &why),
                Ok(list) => invocations.extend(list.into_iter().map(|params| Invocation {
                    policy,
                    binding,
                    view: view.clone(),
                    params,
                })),
            }
        }
    }

    #[allow(clippy::too_many_arguments)]
    async fn invoke(
        &self,
        registry: &Registry,
        i: &Invocation<'_>,
        attrs: &Attributes<'_>,
        requested: &View,
        namespace: Option<Arc<Value>>,
        object: &mut Value,
        refusals: &mut Vec<String>,
    ) -> ApiResult<()> {
        let (policy, binding) = (i.policy, i.binding);
        let metrics = &self.policies.metrics;
        let before = object.clone();
        let mut context =
            Context::new(attrs, &self.authority, requested, &i.view, Some(object), namespace).await?;
        match policy.conditions.evaluate(&context.inputs(i.params.as_ref())) {
            Outcome::Matches => {}
            Outcome::Excluded(_) => return Ok(()),
            Outcome::Failed { message, .. } => {
                refuse(refusals, policy, Some(binding), &message);
                return Ok(());
            }
        }
        let key = i.key();
        if attrs.reinvocation.is_second() && !attrs.reinvocation.policies().lock().is_due(&key) {
            return Ok(());
        }
        for mutation in &policy.body.mutations {
            let started = Instant::now();
            let made = {
                let inputs = context.inputs(i.params.as_ref());
                match i.view.schema() {
                    Some(t) => patch::mutate(mutation, &policy.variables, &inputs, Ty::Def(&t)),
                    None => patch::mutate(mutation, &policy.variables, &inputs, Ty::Deduced),
                }
            };
            let taken = match made {
                Ok(new) => forms::take(registry, attrs, &i.view, &new, object).await.map_err(|e| e.message),
                Err(why) => Err(why),
            };
            let took = started.elapsed();
            match taken {
                Ok(new) => {
                    metrics.mutating.observe(&policy.name, &binding.name, None, took);
                    context.object = Some(forms::show(attrs, &i.view, &new).await?);
                    *object = new;
                }
                Err(why) => {
                    metrics.mutating.observe(&policy.name, &binding.name, Some(&why), took);
                    refuse(refusals, policy, Some(binding), &why);
                }
            }
        }
        keep_owners(attrs, &before, object);
        let mut round = attrs.reinvocation.policies().lock();
        if before != *object {
            round.require();
            attrs.reinvocation.request();
        }
        if policy.body.reinvoke {
            round.note(&key);
        }
        Ok(())
    }
}

fn refuse(refusals: &mut Vec<String>, policy: &Policy<Body>, binding: Option<&Binding>, why: &str) {
    if policy.ignore_failures {
        return;
    }
    refusals.push(match binding {
        Some(b) => format!("policy '{}' with binding '{}' denied request: {why}", policy.name, b.name),
        None => format!("policy {:?} denied request: {why}", policy.name),
    });
}

/// The answer to a request that failing policies refuse.
fn refused(attrs: &Attributes<'_>, object: &Value, refusals: Vec<String>) -> ApiResult<()> {
    let Some(first) = refusals.first().cloned() else { return Ok(()) };
    let mut e: ApiError = attrs.forbidden(Some(object), "admission request denied by policy");
    let configuration = first.contains("failed to configure ");
    e.message = first;
    if !configuration {
        e.reason = "Invalid";
    }
    let causes =
        refusals.into_iter().map(|message| Cause { reason: String::new(), message, field: String::new() });
    e.details.get_or_insert_with(Box::default).causes.extend(causes);
    Err(e)
}
