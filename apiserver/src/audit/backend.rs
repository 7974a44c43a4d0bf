//! Between requests and where events go: at once or in batches, cut to size, and what is done when that fails.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::event::Event;
use super::log::Log;
use super::policy::Level;
use super::webhook::Webhook;
use super::{Metrics, event::Stage};

/// `--audit-*-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Batch,
    /// The request waits until its event is stored.
    Blocking,
    /// And is refused where the event of its arrival cannot be.
    BlockingStrict,
}

/// `--audit-*-batch-*`.
#[derive(Debug, Clone, Copy)]
pub struct Batching {
    pub buffer: usize,
    pub size: usize,
    pub wait: Duration,
    /// Batches per second, and how many may come at once; none for no bound.
    pub throttle: Option<(f32, u32)>,
}

/// `--audit-*-truncate-*`.
#[derive(Debug, Clone, Copy)]
pub struct Truncation {
    pub event: usize,
    pub batch: usize,
}

/// Where events go.
pub enum Target {
    Log(Log),
    Webhook(Box<Webhook>),
}

impl Target {
    fn plugin(&self) -> &'static str {
        match self {
            Self::Log(_) => "log",
            Self::Webhook(_) => "webhook",
        }
    }
}

/// What takes batches.
struct Sink {
    target: Target,
    truncation: Option<Truncation>,
    metrics: Metrics,
}

impl Sink {
    /// Batches that fit, of events that fit.
    fn cut(&self, events: Vec<Arc<Event>>) -> Vec<Vec<Arc<Event>>> {
        let Some(t) = self.truncation else { return vec![events] };
        let (mut out, mut batch, mut size) = (Vec::new(), Vec::new(), 0);
        for mut e in events {
            let mut n = e.to_json().len();
            if n > t.event && e.level >= Level::Request {
                e = Arc::new(e.truncated());
                n = e.to_json().len();
            }
            if n > t.event {
                tracing::error!(audit_id = e.audit_id, "an audit event is too large even after truncating");
                self.metrics.lost("truncate", 1);
                continue;
            }
            if !batch.is_empty() && size + n > t.batch {
                out.push(std::mem::take(&mut batch));
                size = 0;
            }
            size += n;
            batch.push(e);
        }
        if !batch.is_empty() {
            out.push(batch);
        }
        out
    }

    fn failed(&self, events: &[Arc<Event>], e: &dyn std::fmt::Display) {
        tracing::error!(plugin = self.target.plugin(), events = events.len(), error = %e, "audit events are lost");
        self.metrics.lost(self.target.plugin(), events.len());
    }

    async fn send(&self, events: Vec<Arc<Event>>) -> bool {
        let mut stored = true;
        for batch in self.cut(events) {
            let done = match &self.target {
                Target::Log(l) => l.write(&batch).map_err(anyhow::Error::from),
                Target::Webhook(w) => w.send(&batch).await,
            };
            if let Err(e) = done {
                self.failed(&batch, &e);
                stored = false;
            }
        }
        stored
    }

    /// Now, on this thread. A webhook's event is handed to the runtime and waited for.
    fn send_blocking(self: &Arc<Self>, event: &Arc<Event>) -> bool {
        match &self.target {
            Target::Log(l) => {
                let mut stored = true;
                for batch in self.cut(vec![Arc::clone(event)]) {
                    if let Err(e) = l.write(&batch) {
                        self.failed(&batch, &e);
                        stored = false;
                    }
                }
                stored
            }
            Target::Webhook(_) => {
                let sink = Arc::clone(self);
                let event = Arc::clone(event);
                let Ok(runtime) = tokio::runtime::Handle::try_current() else { return false };
                if runtime.runtime_flavor() == tokio::runtime::RuntimeFlavor::CurrentThread {
                    // Nothing else would run while this thread waits.
                    runtime.spawn(async move { sink.send(vec![event]).await });
                    return true;
                }
                tokio::task::block_in_place(|| runtime.block_on(sink.send(vec![event])))
            }
        }
    }
}

/// One of the two.
pub struct Backend {
    sink: Arc<Sink>,
    mode: Mode,
    queue: Mutex<Option<mpsc::Sender<Arc<Event>>>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl Backend {
    /// In batch mode this starts the task that sends.
    pub fn new(
        target: Target,
        mode: Mode,
        batching: Batching,
        truncation: Option<Truncation>,
        metrics: Metrics,
    ) -> Self {
        let sink = Arc::new(Sink { target, truncation, metrics });
        let (mut queue, mut worker) = (None, None);
        if mode == Mode::Batch {
            let (tx, rx) = mpsc::channel(batching.buffer.max(1));
            worker = Some(tokio::spawn(deliver(Arc::clone(&sink), rx, batching)));
            queue = Some(tx);
        }
        Self { sink, mode, queue: Mutex::new(queue), worker: Mutex::new(worker) }
    }

    /// False: the event is lost and its request may not be served.
    pub fn process(&self, event: &Arc<Event>) -> bool {
        match self.mode {
            Mode::Batch => {
                let sent = self.queue.lock().as_ref().map(|q| q.try_send(Arc::clone(event)).is_ok());
                if sent != Some(true) {
                    tracing::error!(
                        audit_id = event.audit_id,
                        "audit buffer queue blocked: an event is lost"
                    );
                    self.sink.metrics.lost("buffered", 1);
                }
                true
            }
            Mode::Blocking => {
                self.sink.send_blocking(event);
                true
            }
            Mode::BlockingStrict => self.sink.send_blocking(event) || event.stage != Stage::RequestReceived,
        }
    }

    /// Sends what waits.
    pub async fn close(&self) {
        self.queue.lock().take();
        let worker = self.worker.lock().take();
        if let Some(w) = worker
            && tokio::time::timeout(Duration::from_secs(30), w).await.is_err()
        {
            tracing::error!("audit events could not be sent before the end");
        }
    }
}

/// Allows so many per second, some at once.
struct Throttle {
    rate: f64,
    burst: f64,
    tokens: f64,
    last: Instant,
}

impl Throttle {
    async fn take(&mut self) {
        let now = Instant::now();
        self.tokens = (self.tokens + now.duration_since(self.last).as_secs_f64() * self.rate).min(self.burst);
        self.last = now;
        self.tokens -= 1.0;
        if self.tokens < 0.0 {
            tokio::time::sleep(Duration::from_secs_f64(-self.tokens / self.rate)).await;
        }
    }
}

async fn deliver(sink: Arc<Sink>, mut queue: mpsc::Receiver<Arc<Event>>, b: Batching) {
    let mut throttle = b.throttle.map(|(rate, burst)| {
        let burst = f64::from(burst);
        Throttle { rate: f64::from(rate), burst, tokens: burst, last: Instant::now() }
    });
    while let Some(first) = queue.recv().await {
        let mut batch = vec![first];
        let deadline = Instant::now() + b.wait;
        while batch.len() < b.size {
            match tokio::time::timeout_at(deadline, queue.recv()).await {
                Ok(Some(e)) => batch.push(e),
                Ok(None) | Err(_) => break,
            }
        }
        if let Some(t) = &mut throttle {
            t.take().await;
        }
        match &sink.target {
            // One after the other, so that lines keep their order.
            Target::Log(_) => {
                sink.send(batch).await;
            }
            Target::Webhook(_) => {
                let sink = Arc::clone(&sink);
                let sending = tokio::spawn(async move { sink.send(batch).await });
                if queue.is_closed() && sending.await.is_err() {
                    return;
                }
            }
        }
    }
}
