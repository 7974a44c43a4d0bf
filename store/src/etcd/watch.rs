//! Watches. Each has a stream of its own, and is a position: when its connection ends, it goes on from there over
//! another, so that no event is missed or comes twice. Only compaction of what it still needs ends it, or an etcd that
//! was put back to an earlier state.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Error, WatchOptions, WatchResponse};
use tokio::sync::{mpsc, watch};

use super::Inner;
use super::connect::Connected;
use super::convert::{revision_of, to_i64};
use crate::{Revision, StoreError, WatchBatch, WatchStream};

/// Batches a watch may have waiting at its receiver.
const QUEUE: usize = 16;
/// Pause before a watch is started anew.
const RETRY: Duration = Duration::from_millis(100);
/// Pause before progress is asked for again: a server does not answer while it is behind itself.
const ASK_AGAIN: Duration = Duration::from_millis(100);
/// How long to wait for a watch to be made.
const CREATE: Duration = Duration::from_secs(5);

/// Starts a watch of `[start, end)` above `after`.
pub fn start(
    inner: &Arc<Inner>,
    start: &str,
    end: &str,
    after: Revision,
    closed: watch::Receiver<bool>,
) -> WatchStream {
    let (tx, rx) = mpsc::channel(QUEUE);
    let watcher = Watcher {
        start: inner.keys.to_etcd(start),
        end: inner.keys.end_to_etcd(end),
        wanted: inner.wanted.subscribe(),
        inner: Arc::clone(inner),
        after,
        tx,
        closed,
        checked: false,
    };
    tokio::spawn(watcher.run());
    rx
}

/// Finds out where the fence of compaction is, which is at or above `revision`.
pub async fn learn_fence(inner: &Inner, revision: Revision) {
    let ask = async |connected: &Connected| -> Result<Revision, Error> {
        let options = WatchOptions::new().with_start_revision(to_i64(revision.max(1)));
        let mut stream = connected.client().watch_client().watch("\0", Some(options)).await?;
        while let Some(message) = stream.message().await? {
            if message.canceled() {
                return Ok(u64::try_from(message.compact_revision()).unwrap_or(0));
            }
        }
        Ok(0)
    };
    let found = async {
        let connected = inner.endpoints.connected().await?;
        ask(&connected).await
    };
    match tokio::time::timeout(CREATE, found).await {
        Ok(Ok(fence)) => inner.compacted(fence),
        Ok(Err(e)) => tracing::debug!(error = %e, "etcd did not tell what it has compacted"),
        Err(_) => tracing::debug!("etcd did not tell in time what it has compacted"),
    }
}

/// Why a stream is over.
enum End {
    /// Go on over another.
    Again(String),
    /// The watch is over, for this reason.
    Fail(StoreError),
    /// Nobody listens any more.
    Quit,
}

struct Watcher {
    inner: Arc<Inner>,
    /// In etcd's keys.
    start: Vec<u8>,
    end: Vec<u8>,
    /// Everything up to here has been delivered.
    after: Revision,
    tx: mpsc::Sender<Result<WatchBatch, StoreError>>,
    wanted: watch::Receiver<Revision>,
    closed: watch::Receiver<bool>,
    /// Whether etcd is known to have come as far as `after`.
    checked: bool,
}

impl Watcher {
    async fn run(mut self) {
        loop {
            let mut closed = self.closed.clone();
            let end = tokio::select! {
                end = self.follow() => end,
                // Also if the engine is gone.
                _ = closed.wait_for(|c| *c) => End::Fail(StoreError::Unavailable("the store is closed".to_owned())),
            };
            match end {
                End::Again(why) => self.inner.endpoints.watch_failed(&why),
                End::Fail(e) => {
                    // If nobody reads on, nobody needs to know.
                    let _ = self.tx.try_send(Err(e));
                    return;
                }
                End::Quit => return,
            }
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = self.tx.closed() => return,
            }
        }
    }

    /// Delivers what one connection brings.
    async fn follow(&mut self) -> End {
        let connected = match self.inner.endpoints.connected().await {
            Ok(connected) => connected,
            Err(e) => return End::Again(e.to_string()),
        };
        let end = self.follow_on(&connected).await;
        if matches!(end, End::Again(_)) {
            self.inner.endpoints.failed(&connected).await;
            // Whoever asks for the store's health should hear of it, though nothing else is called.
            if let Err(e) = self.inner.current_revision().await {
                tracing::debug!(error = %e, "etcd does not answer");
            }
        }
        end
    }

    async fn follow_on(&mut self, connected: &Connected) -> End {
        let created = tokio::time::timeout(CREATE, async {
            let asks = connected.tells_progress().await?;
            // A server that cannot tell progress is watched as a whole: each revision is an event of some key.
            let (key, end) = if asks { (&self.start[..], &self.end[..]) } else { (&[0][..], &[0][..]) };
            let options = WatchOptions::new()
                .with_range(end)
                .with_prev_key()
                .with_start_revision(to_i64(self.after.saturating_add(1)));
            let mut client = connected.client().watch_client().max_decoding_message_size(i32::MAX as usize);
            Ok::<_, Error>((client.watch(key, Some(options)).await?, asks))
        });
        let (mut stream, asks) = match created.await {
            Ok(Ok(created)) => created,
            Ok(Err(e)) => return End::Again(e.to_string()),
            Err(_) => return End::Again("no answer to a watch".to_owned()),
        };
        self.checked = false;
        let mut ask_at = tokio::time::Instant::now();
        loop {
            let behind = asks && self.after < *self.wanted.borrow_and_update();
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(message)) => {
                        if let Err(end) = self.take(message, asks).await {
                            return end;
                        }
                    }
                    Ok(None) => return End::Again("etcd ended the watch".to_owned()),
                    Err(e) => return End::Again(e.to_string()),
                },
                () = tokio::time::sleep_until(ask_at), if behind => {
                    if let Err(e) = stream.request_progress().await {
                        return End::Again(e.to_string());
                    }
                    ask_at = tokio::time::Instant::now() + ASK_AGAIN;
                }
                changed = self.wanted.changed(), if asks => {
                    if changed.is_err() {
                        return End::Quit;
                    }
                    // A new wish does not wait for the pause after the last.
                    ask_at = tokio::time::Instant::now();
                }
                () = self.tx.closed() => return End::Quit,
            }
        }
    }

    async fn take(&mut self, message: WatchResponse, asks: bool) -> Result<(), End> {
        let fence = u64::try_from(message.compact_revision()).unwrap_or(0);
        if message.canceled() {
            if fence > 0 {
                self.inner.compacted(fence);
                return Err(End::Fail(StoreError::Compacted { requested: self.after, oldest: fence }));
            }
            return Err(End::Again(message.cancel_reason().to_owned()));
        }
        let revision = self.inner.saw(message.header());
        if message.created() {
            return self.check(revision).await;
        }
        if message.events().is_empty() {
            if asks && revision > self.after {
                self.after = revision;
                return self.send(WatchBatch::Progress(revision)).await;
            }
            return Ok(());
        }
        let mut events = Vec::with_capacity(message.events().len());
        for e in message.events() {
            let mine = e.kv().is_some_and(|kv| self.within(kv.key()));
            // What was delivered over the last connection does not come again; etcd was asked for what follows.
            if mine && revision_of(e) > self.after {
                events.extend(self.inner.keys.event(e).map_err(End::Fail)?);
            }
        }
        let upto = message.events().last().map_or(0, revision_of).max(self.after);
        let news = upto > self.after;
        self.after = upto;
        if !events.is_empty() {
            return self.send(WatchBatch::Events(events)).await;
        }
        if news { self.send(WatchBatch::Progress(upto)).await } else { Ok(()) }
    }

    /// An etcd that was restored from a backup may be behind what was delivered.
    async fn check(&mut self, revision: Revision) -> Result<(), End> {
        if revision >= self.after || std::mem::replace(&mut self.checked, true) {
            return Ok(());
        }
        // This server may merely lag behind the others.
        match self.inner.current_revision().await {
            Ok(current) if current < self.after => {
                Err(End::Fail(StoreError::Future { requested: self.after, current }))
            }
            Ok(_) => Ok(()),
            Err(e) => Err(End::Again(e.to_string())),
        }
    }

    fn within(&self, key: &[u8]) -> bool {
        key >= &self.start[..] && (self.end == [0] || key < &self.end[..])
    }

    async fn send(&self, batch: WatchBatch) -> Result<(), End> {
        self.tx.send(Ok(batch)).await.map_err(|_| End::Quit)
    }
}
