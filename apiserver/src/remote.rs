//! A service named by a kubeconfig file, to which reviews are posted: the webhooks of authentication and
//! authorization. Requests go to the very URL of the file's cluster, whatever its path.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::webhook::client::{Call, CallError, Client};

/// Upstream's back-off: 500 ms, half as much more each time, five attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const ATTEMPTS: u32 = 5;
const JITTER: f64 = 0.2;

/// The `result` label of webhook metrics.
pub fn result_label(result: &Result<Value, CallError>) -> &'static str {
    match result {
        Ok(_) => "success",
        Err(CallError::Timeout(_) | CallError::Status { code: 504, .. }) => "timeout",
        Err(_) => "error",
    }
}

/// Whether the next attempt may do better.
fn is_temporary(e: &CallError) -> bool {
    match e {
        CallError::Config(_) | CallError::Timeout(_) => false,
        CallError::Transport(why) => why.contains("reset"),
        CallError::Status { code, .. } => *code == 429 || *code >= 500,
    }
}

/// How often a call that failed is made again: four times, after pauses that grow by half and are up to a fifth longer
/// than that, so that many callers do not come back together.
pub struct Patience {
    pause: Duration,
    attempt: u32,
}

impl Patience {
    /// `first_pause`: before the second attempt.
    pub fn new(first_pause: Duration) -> Self {
        Self { pause: first_pause, attempt: 1 }
    }

    /// Waits for the time of the next attempt; false if there is none.
    pub async fn next(&mut self, e: &CallError) -> bool {
        if self.attempt >= ATTEMPTS {
            return false;
        }
        tracing::debug!(error = %e, "a webhook call failed and is tried again");
        tokio::time::sleep(self.pause.mul_f64(1.0 + JITTER * rand::random::<f64>())).await;
        self.pause = self.pause * 3 / 2;
        self.attempt += 1;
        true
    }
}

/// See the module.
pub struct Remote {
    client: Client,
    timeout: Duration,
    first_pause: Duration,
}

impl Remote {
    /// `timeout` bounds one attempt.
    pub fn from_kubeconfig(path: &Path, timeout: Duration) -> Result<Self, String> {
        let client = Client::from_kubeconfig(path).map_err(|e| e.to_string())?;
        Ok(Self { client, timeout, first_pause: FIRST_PAUSE })
    }

    /// The same with another pause before the second attempt; later pauses grow from it.
    pub fn with_pause(self, first_pause: Duration) -> Self {
        Self { first_pause, ..self }
    }

    /// Posts a review and returns the answer, with some patience for failures that pass. `observe` hears of each
    /// attempt's result and time.
    pub async fn post(
        &self,
        review: &Value,
        mut observe: impl FnMut(&Result<Value, CallError>, Duration),
    ) -> Result<Value, CallError> {
        let body = review.to_string();
        let mut patience = Patience::new(self.first_pause);
        loop {
            let started = Instant::now();
            let answer = self.client.post(Call::new(body.clone(), self.timeout)).await;
            let result = answer.and_then(|b| {
                serde_json::from_slice(&b).map_err(|e| {
                    CallError::Transport(format!("Post {:?}: the answer is not JSON: {e}", self.client.url()))
                })
            });
            observe(&result, started.elapsed());
            match &result {
                Err(e) if is_temporary(e) => {
                    if !patience.next(e).await {
                        return result;
                    }
                }
                _ => return result,
            }
        }
    }
}
