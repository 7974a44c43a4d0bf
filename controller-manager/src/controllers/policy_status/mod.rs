//! The status of validating admission policies: which generation was checked against the types of the objects that it
//! matches, and what was found.
//!
//! Reads policies, and of the server its discovery and OpenAPI documents; writes their status by server-side apply. The
//! checks themselves are the expression language's ([`expressions::admission::typecheck`]). Source: KEP-3488.

mod types;

use anyhow::Context as _;
use component_base::controller::queue::WorkQueue;
use expressions::admission::typecheck::{self, Warning};
use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicy;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::context::{Context, synced};
use crate::util::{errors, meta};

const NAME: &str = "validatingadmissionpolicy-status-controller";

/// Whether the policy changed since it was last checked.
fn is_due(policy: &ValidatingAdmissionPolicy) -> bool {
    let observed = policy.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
    policy.metadata.generation.unwrap_or(0) > observed
}

/// The status as it is applied.
fn status(name: &str, generation: i64, warnings: Vec<Warning>) -> Value {
    let warnings: Vec<Value> =
        warnings.into_iter().map(|w| json!({"fieldRef": w.field_ref, "warning": w.warning})).collect();
    let checking = if warnings.is_empty() { json!({}) } else { json!({"expressionWarnings": warnings}) };
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "status": {"observedGeneration": generation, "typeChecking": checking},
    })
}

async fn reconcile(client: Client, policy: &ValidatingAdmissionPolicy) -> anyhow::Result<()> {
    if !is_due(policy) {
        return Ok(());
    }
    let name = meta::name(&policy.metadata);
    let json = serde_json::to_value(policy).context("a policy as JSON")?;
    let kinds = types::of_resources(&client, &typecheck::named(&json)).await;
    let param_kind = policy.spec.as_ref().and_then(|s| s.param_kind.as_ref());
    let params = match param_kind {
        None => None,
        Some(p) => {
            let api_version = p.api_version.as_deref().unwrap_or_default();
            let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
            types::of_kind(&client, group, version, p.kind.as_deref().unwrap_or_default()).await
        }
    };
    let warnings = typecheck::warnings(&json, &kinds, params.as_ref());
    let patch = status(name, policy.metadata.generation.unwrap_or(0), warnings);
    let api: Api<ValidatingAdmissionPolicy> = Api::all(client);
    match api.patch_status(name, &PatchParams::apply(NAME).force(), &Patch::Apply(patch)).await {
        Err(e) if errors::not_found(&e) => Ok(()),
        done => done.map(|_| ()).with_context(|| format!("writing the status of admission policy {name}")),
    }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let policies = ctx.informers.of::<ValidatingAdmissionPolicy>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    policies.on_change(move |d| {
        if !d.is_deleted() && is_due(d.object()) {
            q.add(meta::name(&d.object().metadata).to_owned());
        }
    });
    let client = ctx.client(NAME)?;
    let store = policies.store();
    let workers = ctx.flags.concurrent_validating_admission_policy_status_syncs;
    ctx.work(NAME, &queue, workers, vec![synced(&policies)], move |name| {
        let (client, store) = (client.clone(), store.clone());
        async move {
            match store.get(&name) {
                Some(policy) => reconcile(client, &policy).await,
                None => Ok(()),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::admissionregistration::v1::ValidatingAdmissionPolicyStatus;

    #[test]
    fn only_what_changed_is_checked() {
        let mut p = ValidatingAdmissionPolicy::default();
        p.metadata.generation = Some(2);
        assert!(is_due(&p));
        let observed =
            |n| Some(ValidatingAdmissionPolicyStatus { observed_generation: Some(n), ..Default::default() });
        p.status = observed(1);
        assert!(is_due(&p));
        p.status = observed(2);
        assert!(!is_due(&p));
    }

    #[test]
    fn nothing_wrong_is_told_too() {
        let s = status("p", 3, Vec::new());
        assert_eq!(s["status"], json!({"observedGeneration": 3, "typeChecking": {}}));
        let w = Warning { field_ref: "spec.validations[0].expression".into(), warning: "w".into() };
        let s = status("p", 3, vec![w]);
        assert_eq!(s["status"]["typeChecking"]["expressionWarnings"][0]["warning"], "w");
    }
}
