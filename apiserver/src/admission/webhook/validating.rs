//! `ValidatingAdmissionWebhook`: all webhooks at once, on the object as it will be stored.

use std::sync::Arc;
use std::time::Instant;

use async_trait::async_trait;
use serde_json::Value;

use super::annotations::{self, VALIDATING};
use super::call::{self, Subject};
use super::forms::{self, View};
use super::mutating::shown;
use super::{Webhooks, matching, rules};
use crate::admission::{Attributes, Environment, Operation, Phase, Plugin};
use crate::cel::authority::Authority;
use crate::status::ApiResult;

struct Validating {
    webhooks: Arc<Webhooks>,
    authority: Arc<dyn Authority>,
}

/// The plugin.
pub(crate) fn build(env: &Environment) -> Arc<dyn Plugin> {
    Arc::new(Validating { webhooks: env.webhooks.clone(), authority: env.authorizer.clone() })
}

/// What webhooks of one version are shown.
type Shown = Arc<(Option<Value>, Option<Value>)>;

#[async_trait]
impl Plugin for Validating {
    fn name(&self) -> &'static str {
        "ValidatingAdmissionWebhook"
    }

    fn phase(&self) -> Phase {
        Phase::Validating
    }

    fn handles(&self, _operation: Operation) -> bool {
        true
    }

    async fn validate(&self, attrs: &Attributes<'_>, object: Option<&Value>) -> ApiResult<()> {
        let hooks = self.webhooks.validating.load_full();
        if hooks.is_empty() || rules::is_exempt(attrs) {
            return Ok(());
        }
        let webhooks = &*self.webhooks;
        let registry = webhooks.registry()?;
        let requested = forms::requested(registry, attrs)?;
        let mut versions: Vec<(View, Shown)> = Vec::new();
        let mut calls = Vec::new();
        for hook in hooks.iter() {
            let matched = matching::view(webhooks, registry, hook, attrs, &requested, object).await?;
            let Some(view) = matched else { continue };
            let known =
                versions.iter().find(|(v, _)| v.resource == view.resource).map(|(_, s)| Arc::clone(s));
            let shown = match known {
                Some(s) => s,
                None => {
                    let s = Arc::new(shown(attrs, &view, object).await?);
                    versions.push((view.clone(), Arc::clone(&s)));
                    s
                }
            };
            let case = matching::Case {
                attrs,
                requested: &requested,
                view: &view,
                object: shown.0.as_ref(),
                old: shown.1.as_ref(),
                phase: "validating",
            };
            if matching::conditions_hold(webhooks, &self.authority, hook, &case)? {
                calls.push((Arc::clone(hook), view, shown));
            }
        }
        let requested = &requested;
        let running = calls.iter().enumerate().map(|(index, (hook, view, shown))| async move {
            let subject = Subject {
                hook,
                attrs,
                requested,
                view,
                object: shown.0.as_ref(),
                old: shown.1.as_ref(),
                mutating: false,
            };
            let started = Instant::now();
            let outcome = call::ask(webhooks, &subject).await;
            let settled = call::settle(webhooks, &subject, started, outcome)?;
            if settled.is_none() {
                annotations::failed_open(VALIDATING, &annotations::place(false, index), hook);
            }
            Ok(())
        });
        futures::future::join_all(running).await.into_iter().collect()
    }
}
