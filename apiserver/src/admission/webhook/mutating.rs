//! `MutatingAdmissionWebhook`: one webhook after the other, each seeing what those before made of the object.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;

use super::annotations::{self, MUTATION};
use super::call::{self, Failure, Subject};
use super::forms::{self, View};
use super::hook::Hook;
use super::review::Answer;
use super::{Webhooks, matching, rules};
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin, keep_owners};
use crate::cel::authority::Authority;
use crate::patch::json;
use crate::registry::Registry;
use crate::status::{ApiError, ApiResult};

struct Mutating {
    webhooks: Arc<Webhooks>,
    authority: Arc<dyn Authority>,
}

/// The plugin.
pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Mutating { webhooks: env.webhooks.clone(), authority: env.authorizer.clone() })
}

#[async_trait]
impl Plugin for Mutating {
    fn name(&self) -> &'static str {
        "MutatingAdmissionWebhook"
    }

    fn phase(&self) -> Phase {
        Phase::Mutating
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn admit(&self, attrs: &Attributes<'_>, mut object: Option<&mut Value>) -> ApiResult<()> {
        let hooks = self.webhooks.mutating.load_full();
        if hooks.is_empty() || rules::is_exempt(attrs) {
            return Ok(());
        }
        let registry = self.webhooks.registry()?;
        let requested = forms::requested(registry, attrs)?;
        let second = attrs.reinvocation.is_second();
        if second {
            attrs.reinvocation.webhooks().lock().compare(object.as_deref());
        }
        for (index, hook) in hooks.iter().enumerate() {
            self.one(registry, (index, hook), attrs, &requested, object.as_deref_mut()).await?;
        }
        if !second {
            attrs.reinvocation.webhooks().lock().keep(object.as_deref());
        }
        Ok(())
    }
}

impl Mutating {
    async fn one(
        &self,
        registry: &Registry,
        (index, hook): (usize, &Hook),
        attrs: &Attributes<'_>,
        requested: &View,
        object: Option<&mut Value>,
    ) -> ApiResult<()> {
        let webhooks = &*self.webhooks;
        let now = object.as_deref();
        let Some(view) = matching::view(webhooks, registry, hook, attrs, requested, now).await? else {
            return Ok(());
        };
        let shown = shown(attrs, &view, now).await?;
        let case = matching::Case {
            attrs,
            requested,
            view: &view,
            object: shown.0.as_ref(),
            old: shown.1.as_ref(),
            phase: "admit",
        };
        if !matching::conditions_hold(webhooks, &self.authority, hook, &case)? {
            return Ok(());
        }
        // The second round is for those who were called in the first.
        if attrs.reinvocation.is_second() && !attrs.reinvocation.webhooks().lock().is_due(&hook.uid) {
            return Ok(());
        }
        let subject = Subject {
            hook,
            attrs,
            requested,
            view: &view,
            object: shown.0.as_ref(),
            old: shown.1.as_ref(),
            mutating: true,
        };
        let started = Instant::now();
        let outcome = match call::ask(webhooks, &subject).await {
            Ok(answer) => changed(registry, &subject, answer, now).await,
            Err(e) => Err(e),
        };
        let place = annotations::place(attrs.reinvocation.is_second(), index);
        let patched = outcome.as_ref().ok().and_then(Option::as_ref);
        annotations::mutation(&place, hook, patched.is_some_and(|p| Some(&p.object) != now));
        if let Some(p) = patched {
            annotations::patch(&place, hook, &p.operations);
        }
        let settled = call::settle(webhooks, &subject, started, outcome)?;
        if settled.is_none() {
            annotations::failed_open(MUTATION, &place, hook);
        }
        let changed = settled.flatten().map(|p| p.object);
        let mut round = attrs.reinvocation.webhooks().lock();
        if let (Some(new), Some(object)) = (changed, object)
            && *object != new
        {
            *object = new;
            round.require();
            attrs.reinvocation.request();
        }
        if hook.reinvoke {
            round.note(&hook.uid);
        }
        Ok(())
    }
}

/// The object and the old object as a webhook sees them.
pub async fn shown(
    attrs: &Attributes<'_>,
    view: &View,
    object: Option<&Value>,
) -> ApiResult<(Option<Value>, Option<Value>)> {
    let new = match object {
        Some(o) => Some(forms::show(attrs, view, o).await?),
        None => None,
    };
    let old = match attrs.old {
        Some(o) => Some(forms::show(attrs, view, o).await?),
        None => None,
    };
    Ok((new, old))
}

/// What a patch made of an object.
struct Patched {
    /// In the storage version.
    object: Value,
    operations: json_patch::Patch,
}

/// The object after the answer's patch; none where there is no patch.
async fn changed(
    registry: &Registry,
    s: &Subject<'_>,
    answer: Answer,
    before: Option<&Value>,
) -> Result<Option<Patched>, Failure> {
    if answer.patch.is_empty() {
        return Ok(None);
    }
    let calling = |why: String| Failure::Calling {
        why: format!("failed calling webhook {:?}: {why}", s.hook.name),
        code: 503,
    };
    let operations: json_patch::Patch = serde_json::from_slice(&answer.patch)
        .map_err(|e| calling(format!("received undecodable patch in webhook response: {e}")))?;
    if operations.0.is_empty() {
        return Ok(None);
    }
    let internal = |why: String| Failure::Internal(ApiError::internal(why));
    let (Some(shown), Some(before)) = (s.object, before) else {
        return Err(internal(format!(
            "admission webhook {:?} attempted to modify the object, which is not supported for this operation",
            s.hook.name
        )));
    };
    if answer.patch_type != "JSONPatch" {
        return Err(calling(format!("unsupported patch type {:?}", answer.patch_type)));
    }
    let mut patched = shown.clone();
    json::carry_out(&mut patched, &operations).map_err(|e| internal(e.to_string()))?;
    let taken = forms::take(registry, s.attrs, s.view, &patched, before).await;
    let mut object = taken.map_err(Failure::Internal)?;
    keep_owners(s.attrs, before, &mut object);
    Ok(Some(Patched { object, operations }))
}
