//! Deletes bootstrap tokens that have expired.

use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::informer::{key_of, split_key};
use component_base::controller::queue::WorkQueue;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::{NAMESPACE, expiration};
use crate::context::{Context, synced};
use crate::util::errors;

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let secrets = super::tokens(ctx);
    let queue: WorkQueue<String> = WorkQueue::default();
    let q = queue.clone();
    secrets.on_change(move |d| {
        if !d.is_deleted() {
            q.add(key_of(d.object().as_ref()));
        }
    });
    let (client, store, q) = (ctx.client("token-cleaner")?, secrets.store(), queue.clone());
    ctx.work("token_cleaner", &queue, 1, vec![synced(&secrets)], move |key| {
        let (client, store, queue) = (client.clone(), store.clone(), q.clone());
        async move {
            let Some(secret) = store.get(&key) else { return Ok(()) };
            let Some(at) = expiration(&secret) else { return Ok(()) };
            let left = at.duration_since(Timestamp::now());
            if left.is_positive() {
                queue.add_after(key, Duration::try_from(left).unwrap_or_default());
                return Ok(());
            }
            tracing::info!(secret = key, "deleting an expired bootstrap token");
            let api: Api<Secret> = Api::namespaced(client, NAMESPACE);
            let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
            match api.delete(split_key(&key).1, &DeleteParams::default().preconditions(same)).await {
                Err(e) if matches!(errors::code(&e), Some(404 | 409)) => Ok(()),
                other => other.map(|_| ()).with_context(|| format!("deleting bootstrap token {key}")),
            }
        }
    });
    Ok(())
}
