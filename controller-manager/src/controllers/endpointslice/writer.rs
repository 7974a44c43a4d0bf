//! Writes slice changes and remembers them until the cache shows them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use super::plan::Changes;
use crate::util::pending::Pending;
use crate::util::{errors, meta};

/// Writes slices for one controller.
pub struct Writer {
    client: Client,
    pending: Pending,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self { client, pending: Pending::default() }
    }

    /// How long to wait for the cache to show earlier writes; `None`: it does.
    pub fn wait(&self, key: &str, cached: &[Arc<EndpointSlice>], now: Instant) -> Option<Duration> {
        self.pending.wait(key, cached.iter().map(|s| &s.metadata), now)
    }

    /// The owner is gone.
    pub fn forget(&self, key: &str) {
        self.pending.forget(key);
    }

    /// Writes in the order that keeps most endpoints served: additions before removals.
    pub async fn apply(&self, key: &str, namespace: &str, changes: Changes) -> anyhow::Result<()> {
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), namespace);
        for slice in changes.create {
            match api.create(&PostParams::default(), &slice).await {
                Ok(made) => self.pending.wrote(key, &made.metadata, Instant::now()),
                Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => return Ok(()),
                Err(e) => {
                    return Err(
                        anyhow::Error::from(e).context(format!("creating an endpoint slice of {key}"))
                    );
                }
            }
        }
        for slice in changes.update {
            let name = meta::name(&slice.metadata);
            let written = api.replace(name, &PostParams::default(), &slice).await;
            let written = written.with_context(|| format!("updating endpoint slice {namespace}/{name}"))?;
            self.pending.wrote(key, &written.metadata, Instant::now());
        }
        for slice in changes.delete {
            let name = meta::name(&slice.metadata);
            match api.delete(name, &DeleteParams::default()).await {
                Ok(_) => self.pending.deleted(key, &slice.metadata, Instant::now()),
                Err(e) if errors::not_found(&e) => {}
                Err(e) => {
                    return Err(
                        anyhow::Error::from(e).context(format!("deleting endpoint slice {namespace}/{name}"))
                    );
                }
            }
        }
        Ok(())
    }
}
