//! Events as `EventList`s to a remote API, whose address and credentials are in a kubeconfig.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;

use super::event::Event;
use crate::webhook::client::{Call, CallError, Client};

const ATTEMPTS: u32 = 5;
const FACTOR: f64 = 1.5;
const JITTER: f64 = 0.2;
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
        let mut wait = self.initial_backoff;
        for attempt in 1.. {
            match self.client.post(Call::new(body.clone(), TIMEOUT)).await {
                Ok(_) => return Ok(()),
                Err(e) if attempt >= ATTEMPTS || is_final(&e) => {
                    return Err(anyhow::Error::new(e).context("the audit webhook did not take the events"));
                }
                Err(_) => {}
            }
            tokio::time::sleep(wait.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
            wait = wait.mul_f64(FACTOR);
        }
        Ok(())
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
