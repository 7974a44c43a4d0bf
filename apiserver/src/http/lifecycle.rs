//! The end of the server: readiness goes first, then new requests are turned away, running ones finish, watches end.
//!
//! | flag | effect |
//! | --- | --- |
//! | `--shutdown-delay-duration` | so long everything goes on, while load balancers notice |
//! | `--shutdown-send-retry-after` | then new requests get `429` and `Retry-After` until the running ones are done, instead of a closed port |
//! | `--shutdown-watch-termination-grace-period` | watches end spread over this time, so that clients do not all come back at once |

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::{Response, respond};

/// What the flags say.
#[derive(Debug, Clone, Copy, Default)]
pub struct Settings {
    pub delay: Duration,
    pub send_retry_after: bool,
    pub watch_grace: Duration,
    /// How long running requests may take to finish.
    pub request_timeout: Duration,
}

/// See the module.
pub struct Lifecycle {
    pub settings: Settings,
    /// No new requests from here on.
    draining: CancellationToken,
    /// Watches end from here on.
    pub watches: CancellationToken,
    running: AtomicUsize,
    none_left: Notify,
}

/// A running request that shutdown waits for.
pub struct Running(Arc<Lifecycle>);

impl Drop for Running {
    fn drop(&mut self) {
        if self.0.running.fetch_sub(1, Ordering::AcqRel) == 1 && self.0.draining.is_cancelled() {
            self.0.none_left.notify_waiters();
        }
    }
}

impl Lifecycle {
    pub fn new(settings: Settings) -> Arc<Self> {
        Arc::new(Self {
            settings,
            draining: CancellationToken::new(),
            watches: CancellationToken::new(),
            running: AtomicUsize::new(0),
            none_left: Notify::new(),
        })
    }

    /// Counts a request that does not run long.
    pub fn enter(self: &Arc<Self>) -> Running {
        self.running.fetch_add(1, Ordering::AcqRel);
        Running(Arc::clone(self))
    }

    /// The answer to what comes too late; the server's own probes are still answered.
    pub fn refusal(&self, path: &str) -> Option<Response> {
        if !self.draining.is_cancelled() || !self.settings.send_retry_after {
            return None;
        }
        let probe = ["/readyz", "/livez", "/healthz"].iter().any(|p| path.starts_with(p));
        if probe {
            return None;
        }
        let mut r = respond::text(429, "The apiserver is shutting down, please try again later.\n");
        let h = r.headers_mut();
        h.insert(http::header::RETRY_AFTER, http::HeaderValue::from_static("5"));
        h.insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        Some(r)
    }

    /// When the listener stops. To be run after the signal; `served` is called when no new requests are taken.
    pub async fn drain(&self, stop_listening: &CancellationToken) {
        tokio::time::sleep(self.settings.delay).await;
        self.draining.cancel();
        if !self.settings.send_retry_after {
            stop_listening.cancel();
        }
        self.watches.cancel();
        let all_done = async {
            loop {
                let none_left = self.none_left.notified();
                tokio::pin!(none_left);
                // From here on no notice is missed.
                none_left.as_mut().enable();
                if self.running.load(Ordering::Acquire) == 0 {
                    return;
                }
                none_left.await;
            }
        };
        if tokio::time::timeout(self.settings.request_timeout, all_done).await.is_err() {
            tracing::warn!("some requests did not finish in time");
        }
        tokio::time::sleep(self.settings.watch_grace).await;
        stop_listening.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn running_requests_finish_first() {
        let l = Lifecycle::new(Settings {
            send_retry_after: true,
            request_timeout: Duration::from_secs(5),
            ..Settings::default()
        });
        let running = l.enter();
        assert!(l.refusal("/api/v1/pods").is_none());
        let stop = CancellationToken::new();
        let drain = l.drain(&stop);
        tokio::pin!(drain);
        assert!(tokio::time::timeout(Duration::from_millis(50), drain.as_mut()).await.is_err());
        let refused = l.refusal("/api/v1/pods").expect("refused");
        assert_eq!(
            (refused.status().as_u16(), &refused.headers()["retry-after"]),
            (429, &"5".parse().expect("a header"))
        );
        assert!(l.refusal("/readyz").is_none() && !stop.is_cancelled() && l.watches.is_cancelled());
        drop(running);
        tokio::time::timeout(Duration::from_secs(1), drain).await.expect("all is done");
        assert!(stop.is_cancelled());
    }
}
