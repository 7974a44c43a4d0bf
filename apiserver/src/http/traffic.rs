//! Builds from the flags what rules the way of requests, and runs what goes on beside them.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use anyhow::bail;
use component_base::serving::listener;
use tokio_util::sync::CancellationToken;

use super::edge::Edge;
use super::lifecycle::Lifecycle;
use crate::app::App;
use crate::audit::{self, Auditor};
use crate::config::Flags;
use crate::flowcontrol::Controller;
use crate::flowcontrol::feed::Objects;
use crate::lookup::ObjectWriter;
use crate::metrics::Metrics;
use crate::registry::WatchLimits;
use crate::trace::Tracer;

/// The parts, before the server takes them.
pub struct Traffic {
    /// None where priority and fairness is off.
    pub flow: Option<Arc<Controller>>,
    /// None where nothing is audited.
    pub auditor: Option<Arc<Auditor>>,
    /// None where nothing is traced.
    pub tracer: Option<Tracer>,
    pub lifecycle: Arc<Lifecycle>,
    pub edge: Edge,
    pub watch_limits: WatchLimits,
    pub listener: listener::Options,
}

impl Traffic {
    pub fn build(flags: &Flags, metrics: &Metrics) -> anyhow::Result<Self> {
        let timeout = flags.request_timeout();
        let seats = flags.max_requests_inflight + flags.max_mutating_requests_inflight;
        if flags.enable_priority_and_fairness && seats == 0 {
            bail!(
                "invalid configuration: MaxRequestsInFlight=0 and MaxMutatingRequestsInFlight=0; they must add up to something positive"
            );
        }
        let settings = flags.serving.lifecycle(timeout);
        let audit_metrics = audit::Metrics::new(metrics.shared());
        Ok(Self {
            flow: flags.enable_priority_and_fairness.then(|| Controller::new(seats as u64, metrics.shared())),
            auditor: flags.audit.build(&audit_metrics)?,
            tracer: flags.serving.tracer()?,
            lifecycle: Lifecycle::new(settings),
            edge: flags.serving.edge()?,
            watch_limits: WatchLimits {
                min_timeout: flags.serving.min_request_timeout,
                shutdown_grace: settings.watch_grace,
            },
            listener: flags.serving.listener(timeout),
        })
    }

    /// Counts TLS handshakes that failed.
    pub fn handshake_errors(&self) -> &Arc<AtomicU64> {
        &self.listener.handshake_errors
    }
}

/// Starts what goes on beside requests, until `stop`. `objects`: what feeds the priority levels.
pub fn start(app: &Arc<App>, objects: &Arc<Objects>, stop: &CancellationToken) {
    let writer: Arc<dyn ObjectWriter> = app.registry.clone();
    if let Some(flow) = &app.flow {
        flow.digest(objects);
        tokio::spawn(Arc::clone(flow).run(Arc::clone(objects), writer, stop.clone()));
    }
    let (app, stop) = (Arc::downgrade(app), stop.clone());
    tokio::spawn(async move {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = second.tick() => {}
            }
            let Some(app) = app.upgrade() else { return };
            let (executing, waiting) = match &app.flow {
                Some(f) => (f.executing.take_highs(), f.waiting.take_highs()),
                None => (app.in_flight.take_highs(), [0, 0]),
            };
            app.metrics.set_in_flight(executing, waiting);
        }
    });
}
