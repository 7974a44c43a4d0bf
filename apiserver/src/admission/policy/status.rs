//! Writes the status of validating policies: which generation was checked against the types it matches, and what was
//! found. Upstream's controller manager does this; here the server does, which has the types at hand. Whoever comes
//! second finds the generation observed and has nothing to do.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::typecheck;
use crate::follow::{self, Change, follow};
use crate::lookup::{ObjectLookup, ObjectWriter, VALIDATING_ADMISSION_POLICIES as POLICIES};
use crate::registry::Registry;

/// Begins to check policies in the background.
pub fn start(registry: &Arc<Registry>, stop: &CancellationToken) {
    let table = registry.table();
    let Some(storage) = table.any_version(POLICIES.group, POLICIES.resource).and_then(|r| r.storage.clone())
    else {
        return;
    };
    let (tx, mut due) = tokio::sync::mpsc::unbounded_channel::<String>();
    let s = Arc::clone(&storage);
    tokio::spawn(follow(storage, stop.clone(), move |change| {
        if let Change::Set(o) = change
            && let Ok(v) = follow::decode(&s, o)
            && is_due(&v)
        {
            // An error means that the server is being stopped.
            let _ = tx.send(follow::name(&s, &o.key).to_owned());
        }
    }));
    let registry = Arc::clone(registry);
    let stop = stop.clone();
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                () = stop.cancelled() => return,
                name = due.recv() => name,
            };
            let Some(name) = name else { return };
            reconcile(&registry, &name).await;
        }
    });
}

fn number(v: &Value, pointer: &str) -> i64 {
    v.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// Whether the policy changed since it was last checked.
fn is_due(policy: &Value) -> bool {
    number(policy, "/metadata/generation") > number(policy, "/status/observedGeneration")
}

async fn reconcile(registry: &Registry, name: &str) {
    // A conflict means that the policy changed, and its event is on the way.
    let policy = match ObjectLookup::get(registry, POLICIES, "", name).await {
        Ok(Some(p)) if is_due(&p) => p,
        Ok(_) => return,
        Err(e) => {
            tracing::warn!(policy = name, error = %e, "an admission policy cannot be read for type checking");
            return;
        }
    };
    let table = registry.table();
    let warnings = typecheck::warnings(&policy, &table);
    let mut checked = (*policy).clone();
    if !checked["status"].is_object() {
        checked["status"] = json!({});
    }
    let status = &mut checked["status"];
    status["observedGeneration"] = number(&policy, "/metadata/generation").into();
    status["typeChecking"] = match warnings.is_empty() {
        true => json!({}),
        false => json!({"expressionWarnings": warnings}),
    };
    if let Err(e) = ObjectWriter::update_status(registry, POLICIES, "", checked).await
        && e.code != 404
        && e.code != 409
    {
        tracing::warn!(policy = name, error = %e, "the status of an admission policy cannot be written");
    }
}
