//! The task that sends spans to the collector.

use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::mpsc;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::otlp::{self, ExportRequest, ExportResponse, Span};

/// Spans that may wait; more are lost.
const QUEUE: usize = 2048;
const BATCH: usize = 512;
const WAIT: Duration = Duration::from_secs(5);
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Hands spans over.
pub struct Exporter {
    queue: mpsc::Sender<Span>,
}

impl Exporter {
    /// Starts the task; connects when there is something to send.
    pub fn start(endpoint: &str) -> anyhow::Result<Self> {
        let channel = Endpoint::from_shared(format!("http://{endpoint}"))
            .with_context(|| format!("tracing.endpoint: {endpoint:?}"))?
            .connect_timeout(Duration::from_secs(5))
            .timeout(Duration::from_secs(10))
            .connect_lazy();
        let (queue, spans) = mpsc::channel(QUEUE);
        tokio::spawn(run(channel, spans));
        Ok(Self { queue })
    }

    /// Never waits: a span that finds no room is lost.
    pub fn send(&self, span: Span) {
        if self.queue.try_send(span).is_err() {
            tracing::debug!("a trace span is lost: the collector does not keep up");
        }
    }
}

async fn run(channel: Channel, mut spans: mpsc::Receiver<Span>) {
    let instance = format!("apiserver-{}", uuid::Uuid::new_v4());
    let mut client = Grpc::new(channel);
    while let Some(first) = spans.recv().await {
        let mut batch = vec![first];
        let deadline = tokio::time::Instant::now() + WAIT;
        while batch.len() < BATCH {
            match tokio::time::timeout_at(deadline, spans.recv()).await {
                Ok(Some(s)) => batch.push(s),
                Ok(None) | Err(_) => break,
            }
        }
        let n = batch.len();
        if let Err(e) = export(&mut client, otlp::request(batch, &instance)).await {
            tracing::warn!(spans = n, error = %e, "trace spans could not be sent");
        }
    }
}

async fn export(client: &mut Grpc<Channel>, request: ExportRequest) -> anyhow::Result<()> {
    client.ready().await?;
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let codec = ProstCodec::<ExportRequest, ExportResponse>::default();
    client.unary(tonic::Request::new(request), path, codec).await?;
    Ok(())
}
