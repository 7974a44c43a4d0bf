//! Events as `EventList`s to a remote API, whose address and credentials are in a kubeconfig.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use super::event::Event;
use crate::remote::Patience;
use crate::webhook::client::{Call, CallError, Client};

/// Of one attempt.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The remote API.
pub struct Webhook {
    client: Client,
    initial_backoff: Duration,
}

impl Webhook {
    /// Reads the kubeconfig; nothing is sent yet.
    pub fn new(kubeconfig: &Path, initial_backoff: Duration) -> anyhow::Result<Self> {
        let client = Client::from_kubeconfig(kubeconfig).context("--audit-webhook-config-file")?;
        Ok(Self { client, initial_backoff })
    }

    /// Sends events, again and again for a while where the other side cannot take them.
    pub async fn send(&self, events: &[Arc<Event>]) -> anyhow::Result<()> {
        let mut body =
            br#"{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":["#.to_vec();
        for (i, e) in events.iter().enumerate() {
            if i > 0 {
                body.push(b',');
            }
            body.extend_from_slice(&e.to_json());
        }
        body.extend_from_slice(b"]}");
        let body = Bytes::from(body);
        let mut patience = Patience::new(self.initial_backoff);
        loop {
            match self.client.post(Call::new(body.clone(), TIMEOUT)).await {
                Ok(_) => return Ok(()),
                Err(e) => {
                    if is_final(&e) || !patience.next(&e).await {
                        return Err(
                            anyhow::Error::new(e).context("the audit webhook did not take the events")
                        );
                    }
                }
            }
        }
    }
}

/// Another attempt would end the same way.
fn is_final(e: &CallError) -> bool {
    match e {
        CallError::Config(_) => true,
        CallError::Transport(_) | CallError::Timeout(_) => false,
        CallError::Status { code, .. } => *code < 500 && *code != 429,
    }
}
