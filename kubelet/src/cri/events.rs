//! Where changes in the runtime are learnt from, best source first: CRI's `GetContainerEvents`, else
//! containerd's own event stream on the same socket. A slow relist backs both up, and stands in for them on
//! runtimes that have neither.

use std::time::Duration;

use k8s_cri::v1;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::Cri;

/// A container or sandbox changed; the listener maps the id to a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RuntimeEvent {
    /// The container or sandbox with this id started, ended or went away.
    Changed(String),
    /// The main process of the container or sandbox ended; the runtime's own records may lag behind.
    Exited(String),
    /// Look at everything: the stream began anew and may have missed something.
    Relist,
}

/// Relist interval while an event stream is alive: only a safety net.
const RELIST_WITH_EVENTS: Duration = Duration::from_secs(60);
/// Relist interval without one, as upstream's PLEG.
const RELIST_ALONE: Duration = Duration::from_secs(1);

/// Runs until the receiver goes away.
pub async fn run(cri: Cri, out: mpsc::Sender<RuntimeEvent>) {
    let mut cri_events = true;
    let mut containerd_events = true;
    loop {
        if out.send(RuntimeEvent::Relist).await.is_err() {
            return;
        }
        if cri_events {
            match stream_cri(&cri, &out).await {
                Ok(()) => continue,
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    tracing::info!("runtime has no CRI container events, trying containerd's event stream");
                    cri_events = false;
                    continue;
                }
                Err(status) => tracing::warn!(error = status.message(), "CRI event stream ended"),
            }
        } else if containerd_events {
            match stream_containerd(&cri, &out).await {
                Ok(()) => continue,
                Err(status) if status.code() == tonic::Code::Unimplemented => {
                    tracing::info!("runtime has no event stream, relisting every second");
                    containerd_events = false;
                }
                Err(status) => tracing::warn!(error = status.message(), "containerd event stream ended"),
            }
        }
        tokio::time::sleep(RELIST_ALONE).await;
        if out.is_closed() {
            return;
        }
    }
}

async fn stream_cri(cri: &Cri, out: &mpsc::Sender<RuntimeEvent>) -> Result<(), tonic::Status> {
    let mut runtime = cri.runtime();
    let opening = runtime.get_container_events(v1::GetEventsRequest {});
    follow(opening, |e| Some(RuntimeEvent::Changed(e.container_id)), out).await
}

/// Hands the events of a stream on until it ends.
///
/// Servers answer the request with their first event, so that nothing tells when they have begun to listen, and what
/// happened before that is not told. So there is a look at everything soon after the request, whether the stream is open
/// by then or not.
async fn follow<M>(
    opening: impl Future<Output = Result<tonic::Response<tonic::Streaming<M>>, tonic::Status>>,
    read: impl Fn(M) -> Option<RuntimeEvent>,
    out: &mpsc::Sender<RuntimeEvent>,
) -> Result<(), tonic::Status> {
    let mut relist = tokio::time::interval_at(Instant::now() + RELIST_ALONE, RELIST_WITH_EVENTS);
    tokio::pin!(opening);
    let mut stream = None;
    loop {
        let event = tokio::select! {
            opened = &mut opening, if stream.is_none() => {
                stream = Some(opened?.into_inner());
                continue;
            }
            message = next(&mut stream) => match message? {
                Some(message) => match read(message) {
                    Some(event) => event,
                    None => continue,
                },
                None => return Ok(()),
            },
            _ = relist.tick() => RuntimeEvent::Relist,
        };
        if out.send(event).await.is_err() {
            return Ok(());
        }
    }
}

/// The next message of a stream; does not return while there is no stream.
async fn next<M>(stream: &mut Option<tonic::Streaming<M>>) -> Result<Option<M>, tonic::Status> {
    match stream {
        Some(stream) => stream.message().await,
        None => std::future::pending().await,
    }
}

/// `containerd.services.events.v1.SubscribeRequest`.
#[derive(Clone, PartialEq, prost::Message)]
struct SubscribeRequest {
    #[prost(string, repeated, tag = "1")]
    filters: Vec<String>,
}

/// `containerd.services.events.v1.Envelope` (timestamp left out: not needed).
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "2")]
    namespace: String,
    #[prost(string, tag = "3")]
    topic: String,
    #[prost(message, optional, tag = "4")]
    event: Option<Any>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Any {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// The one field that containerd's task events share: the container id, always field 1.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskEvent {
    #[prost(string, tag = "1")]
    container_id: String,
}

/// `TaskExit` also tells which process of the task ended: an exec's id differs from the container's.
#[derive(Clone, PartialEq, prost::Message)]
struct TaskExit {
    #[prost(string, tag = "1")]
    container_id: String,
    #[prost(string, tag = "2")]
    id: String,
}

/// What an envelope means to us; `None` for the end of an exec.
fn read(envelope: Envelope) -> Option<RuntimeEvent> {
    let any = envelope.event?;
    if envelope.topic == "/tasks/exit" {
        return match TaskExit::decode(any.value.as_slice()) {
            Ok(exit) if exit.id != exit.container_id => None,
            Ok(exit) => Some(RuntimeEvent::Exited(exit.container_id)),
            Err(_) => Some(RuntimeEvent::Relist),
        };
    }
    Some(
        TaskEvent::decode(any.value.as_slice())
            .map_or(RuntimeEvent::Relist, |t| RuntimeEvent::Changed(t.container_id)),
    )
}

async fn stream_containerd(cri: &Cri, out: &mpsc::Sender<RuntimeEvent>) -> Result<(), tonic::Status> {
    let mut grpc = tonic::client::Grpc::new(cri.channel());
    grpc.ready().await.map_err(|e| tonic::Status::unavailable(e.to_string()))?;
    let request = SubscribeRequest {
        filters: ["/tasks/exit", "/tasks/oom", "/tasks/start", "/tasks/delete"]
            .iter()
            .map(|topic| format!("namespace==\"k8s.io\",topic==\"{topic}\""))
            .collect(),
    };
    let path = http::uri::PathAndQuery::from_static("/containerd.services.events.v1.Events/Subscribe");
    let codec = tonic_prost::ProstCodec::<SubscribeRequest, Envelope>::default();
    follow(grpc.server_streaming(tonic::Request::new(request), path, codec), read, out).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(container: &[u8], process: &[u8]) -> Envelope {
        let mut value = vec![0x0a, container.len() as u8];
        value.extend(container);
        value.extend([0x12, process.len() as u8]);
        value.extend(process);
        value.extend([0x18, 7, 0x20, 1]);
        Envelope {
            namespace: "k8s.io".into(),
            topic: "/tasks/exit".into(),
            event: Some(Any { type_url: String::new(), value }),
        }
    }

    #[test]
    fn reads_task_events() {
        assert_eq!(read(exit(b"abc", b"abc")), Some(RuntimeEvent::Exited("abc".into())));
        assert_eq!(read(exit(b"abc", b"exec-1")), None);
        let start = Envelope { topic: "/tasks/start".into(), ..exit(b"abc", b"x") };
        assert_eq!(read(start), Some(RuntimeEvent::Changed("abc".into())));
    }

    #[tokio::test]
    async fn everything_is_looked_at_though_the_stream_does_not_open() {
        let (out, mut events) = mpsc::channel(1);
        let never = std::future::pending::<Result<tonic::Response<tonic::Streaming<Envelope>>, _>>();
        let following = tokio::spawn(async move { follow(never, read, &out).await });
        let event = tokio::time::timeout(Duration::from_secs(30), events.recv()).await;
        assert_eq!(event, Ok(Some(RuntimeEvent::Relist)));
        following.abort();
    }
}
