//! From the other members.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use tokio::sync::{oneshot, watch};
use tokio_stream::StreamExt as _;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use super::super::command::decode;
use super::super::fs::Fs;
use super::super::members::Change;
use super::super::node::{Description, Message};
use super::super::proposer::Proposer;
use super::super::snapshot::Incoming;
use super::super::space::{ALARM, Room, Space};
use super::super::state::State;
use super::config::GroupConfig;
use super::proto::peer_server::{Peer, PeerServer};
use super::{proto, wire};
use crate::{Defragmented, StoreError};

/// What the service needs of the engine.
#[derive(Clone)]
pub struct Served {
    pub store_id: u64,
    pub first_voters: Vec<u64>,
    pub node: Sender<Message>,
    pub proposer: Arc<Proposer>,
    pub snapshots: Arc<dyn Fs>,
    pub state: Arc<State>,
    pub space: Arc<Space>,
}

/// The service: what is served, and how long. Dropping the other end of `open` ends also the streams on which nothing
/// comes: they would hold the state of an engine that is closed.
#[derive(Clone)]
struct Service {
    served: Served,
    open: watch::Receiver<()>,
}

impl std::ops::Deref for Service {
    type Target = Served;

    fn deref(&self) -> &Served {
        &self.served
    }
}

impl Service {
    /// The next piece of a stream; none at its end.
    async fn next<T>(&self, stream: &mut Streaming<T>) -> Result<Option<T>, Status> {
        let mut open = self.open.clone();
        tokio::select! {
            next = stream.next() => next.transpose(),
            _ = open.changed() => Err(Status::unavailable("the store has stopped")),
        }
    }
}

/// Serves until the sender returned is dropped.
pub async fn serve(config: &GroupConfig, served: Served) -> Result<watch::Sender<()>, StoreError> {
    let failed = |what: String| StoreError::Unavailable(format!("listening on {}: {what}", config.listen));
    let incoming =
        TcpIncoming::bind(config.listen).map_err(|e| failed(e.to_string()))?.with_nodelay(Some(true));
    let mut server = Server::builder();
    if let Some(tls) = &config.tls {
        server = server.tls_config(tls.server()?).map_err(|e| failed(e.to_string()))?;
    }
    let (closed, mut open) = watch::channel(());
    let service = Service { served, open: open.clone() };
    let service =
        PeerServer::new(service).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20);
    let stopped = async move {
        // Nothing is ever sent: dropping it is what is meant.
        let _ = open.changed().await;
    };
    let serving = server.add_service(service).serve_with_incoming_shutdown(incoming, stopped);
    tokio::spawn(async move {
        if let Err(e) = serving.await {
            tracing::error!(error = %e, "members cannot reach this one any more");
        }
    });
    Ok(closed)
}

fn status(e: &StoreError) -> Status {
    Status::unavailable(e.to_string())
}

impl Served {
    fn check(&self, store_id: u64) -> Result<(), Status> {
        if store_id == self.store_id {
            return Ok(());
        }
        Err(Status::failed_precondition(format!(
            "this is a member of store {:016x}, not of {store_id:016x}",
            self.store_id
        )))
    }

    fn tell(&self, message: Message) -> Result<(), Status> {
        self.node.send(message).map_err(|_| Status::unavailable("the store has stopped"))
    }

    /// Whether the disk of this member is full.
    pub fn is_full(&self) -> bool {
        self.space.room() != Room::Enough
    }

    fn is_removed(&self, id: u64) -> bool {
        self.proposer.peers.as_ref().is_some_and(|peers| peers.is_removed(id))
    }

    /// Rewrites this member's applied state.
    pub async fn defragment_now(&self) -> Result<Defragmented, StoreError> {
        let (tx, rx) = oneshot::channel();
        self.node.send(Message::Defragment(tx)).map_err(|_| self.proposer.stopped())?;
        rx.await.map_err(|_| self.proposer.stopped())?
    }

    /// What this member knows of itself and the group.
    pub async fn describe_now(&self) -> Result<proto::Description, Status> {
        let (tx, rx) = oneshot::channel();
        self.tell(Message::Describe(tx))?;
        let d: Description = rx.await.map_err(|_| Status::unavailable("the store has stopped"))?;
        Ok(proto::Description {
            store_id: self.store_id,
            id: d.id,
            leader: d.leader,
            term: d.term,
            committed: d.committed,
            applied: d.applied,
            members: wire::members(&d),
            first_voters: self.first_voters.clone(),
            revision: self.state.revision(),
            compacted: self.state.compacted(),
            size: self.state.size_on_disk(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            removed: d.members.removed().to_vec(),
            alarms: self.is_full().then(|| ALARM.to_owned()).into_iter().collect(),
        })
    }
}

#[tonic::async_trait]
impl Peer for Service {
    async fn raft(
        &self,
        request: Request<Streaming<proto::Batch>>,
    ) -> Result<Response<proto::Nothing>, Status> {
        let mut stream = request.into_inner();
        while let Some(batch) = self.next(&mut stream).await? {
            self.check(batch.store_id)?;
            let messages: Vec<_> = batch.messages.iter().filter_map(|m| wire::decode(m)).collect();
            if messages.len() < batch.messages.len() {
                return Err(Status::invalid_argument("a message cannot be read"));
            }
            if let Some(m) = messages.iter().find(|m| self.is_removed(m.from)) {
                return Err(Status::permission_denied(format!("member {:016x} was removed", m.from)));
            }
            self.tell(Message::Raft(messages))?;
        }
        Ok(Response::new(proto::Nothing {}))
    }

    async fn snapshot_offset(
        &self,
        request: Request<proto::SnapshotRef>,
    ) -> Result<Response<proto::Offset>, Status> {
        let request = request.into_inner();
        self.check(request.store_id)?;
        let incoming = Incoming::open(Arc::clone(&self.snapshots), request.index).map_err(|e| status(&e))?;
        Ok(Response::new(proto::Offset { offset: incoming.offset() }))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<proto::Chunk>>,
    ) -> Result<Response<proto::Nothing>, Status> {
        let mut stream = request.into_inner();
        let mut incoming: Option<Incoming> = None;
        let mut index = None;
        while let Some(chunk) = self.next(&mut stream).await? {
            self.check(chunk.store_id)?;
            let into = match &mut incoming {
                Some(into) => into,
                None => {
                    index = Some(chunk.index);
                    let opened = Incoming::open(Arc::clone(&self.snapshots), chunk.index);
                    incoming.insert(opened.map_err(|e| status(&e))?)
                }
            };
            if chunk.offset != into.offset() || Some(chunk.index) != index {
                return Err(Status::aborted("pieces of a snapshot do not follow each other"));
            }
            into.write(&chunk.data).map_err(|e| status(&e))?;
        }
        // Nothing came: an earlier attempt got all of it.
        let incoming = match (incoming, index) {
            (Some(incoming), _) => incoming,
            _ => return Err(Status::invalid_argument("an empty snapshot")),
        };
        let store_id = self.store_id;
        let finished = tokio::task::spawn_blocking(move || incoming.finish(store_id)).await;
        finished.map_err(|e| Status::internal(e.to_string()))?.map_err(|e| status(&e))?;
        Ok(Response::new(proto::Nothing {}))
    }

    async fn propose(&self, request: Request<proto::Proposal>) -> Result<Response<proto::Outcome>, Status> {
        let request = request.into_inner();
        self.check(request.store_id)?;
        let commands =
            decode(&request.commands).map_err(|_| Status::invalid_argument("an unknown command"))?;
        let [command] = <[_; 1]>::try_from(commands)
            .map_err(|_| Status::invalid_argument("a proposal holds one command"))?;
        let outcome = self.proposer.here(command).await;
        Ok(Response::new(wire::outcome_to_wire(outcome)))
    }

    async fn describe(
        &self,
        _request: Request<proto::DescribeRequest>,
    ) -> Result<Response<proto::Description>, Status> {
        Ok(Response::new(self.describe_now().await?))
    }

    async fn digest(
        &self,
        request: Request<proto::DigestRequest>,
    ) -> Result<Response<proto::DigestAnswer>, Status> {
        let request = request.into_inner();
        self.check(request.store_id)?;
        let digest = self.proposer.progress.digest(request.index);
        let (known, digest) = (digest.is_some(), digest.unwrap_or_default());
        Ok(Response::new(proto::DigestAnswer { known, digest }))
    }

    async fn change(
        &self,
        request: Request<proto::ChangeRequest>,
    ) -> Result<Response<proto::Description>, Status> {
        let request = request.into_inner();
        self.check(request.store_id)?;
        let change =
            Change::decode(&request.change).map_err(|_| Status::invalid_argument("an unknown change"))?;
        let (tx, rx) = oneshot::channel();
        self.tell(Message::Change(change, tx))?;
        let changed = rx.await.map_err(|_| Status::unavailable("the store has stopped"))?;
        changed.map_err(|e| match e {
            StoreError::Refused(why) => Status::failed_precondition(why),
            e => status(&e),
        })?;
        Ok(Response::new(self.describe_now().await?))
    }

    async fn defragment(
        &self,
        request: Request<proto::DefragmentRequest>,
    ) -> Result<Response<proto::DefragmentAnswer>, Status> {
        self.check(request.into_inner().store_id)?;
        let Defragmented { before, after } = self.defragment_now().await.map_err(|e| status(&e))?;
        Ok(Response::new(proto::DefragmentAnswer { before, after }))
    }

    async fn transfer_leader(
        &self,
        request: Request<proto::TransferRequest>,
    ) -> Result<Response<proto::Nothing>, Status> {
        let request = request.into_inner();
        self.check(request.store_id)?;
        self.tell(Message::TransferLeader(request.to))?;
        Ok(Response::new(proto::Nothing {}))
    }
}
