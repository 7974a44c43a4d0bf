//! To the other members. Each has a queue and a task that keeps one stream of messages open; what does not fit, or is
//! under way when the stream breaks, is lost, which raft is made for.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use parking_lot::Mutex;
use raft::eraftpb::{Message as RaftMessage, MessageType};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::super::apply::Outcome;
use super::super::core::{NOT_LEADING, not_leading};
use super::super::fs::Fs;
use super::super::members::{Members, Peer};
use super::super::metrics::Count;
use super::super::node::{Message, Network};
use super::super::snapshot::Outgoing;
use super::config::{GroupConfig, TlsFiles};
use super::proto::peer_client::PeerClient;
use super::{proto, wire};
use crate::{Defragmented, StoreError};

/// Messages waiting for one member.
const QUEUE: usize = 4096;
/// Messages in one batch.
const BATCH: usize = 64;
const CONNECT: Duration = Duration::from_millis(1000);
/// Pings on a silent connection, and how long to wait for their answer.
const PING: (Duration, Duration) = (Duration::from_secs(2), Duration::from_secs(2));
/// Pause before a broken stream is opened anew.
const RETRY: Duration = Duration::from_millis(100);
/// Bytes of a snapshot sent at once.
const PIECE: usize = 256 << 10;
/// How long a member that is asked how it is may take.
const DESCRIBE: Duration = Duration::from_secs(3);
/// How long a write of a follower may take.
const PROPOSE: Duration = Duration::from_secs(10);

fn unavailable(what: impl std::fmt::Display) -> StoreError {
    StoreError::Unavailable(what.to_string())
}

/// A channel to a member, which connects when it is used.
fn channel(address: &str, tls: Option<&TlsFiles>) -> Result<Channel, StoreError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}")).map_err(unavailable)?;
    let mut endpoint = endpoint
        .connect_timeout(CONNECT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true);
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.client()?).map_err(unavailable)?;
    }
    Ok(endpoint.connect_lazy())
}

fn client(channel: Channel) -> PeerClient<Channel> {
    // Values of 1.5 MiB, many to an entry, many entries to a batch.
    PeerClient::new(channel).max_decoding_message_size(64 << 20).max_encoding_message_size(64 << 20)
}

/// What any of these members says of the group.
pub async fn describe_any(config: &GroupConfig) -> Result<proto::Description, StoreError> {
    let mut last = unavailable("no other member is known");
    for (name, address) in config.initial.iter().filter(|(name, _)| **name != config.name) {
        let channel = channel(address, config.tls.as_ref())?;
        let request = proto::DescribeRequest {};
        match tokio::time::timeout(PROPOSE, client(channel).describe(request)).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(e)) => last = unavailable(format!("asking member {name} at {address}: {}", e.message())),
            Err(_) => last = unavailable(format!("asking member {name} at {address}: no answer")),
        }
    }
    Err(last)
}

struct One {
    address: String,
    queue: mpsc::Sender<RaftMessage>,
    channel: Channel,
    task: tokio::task::JoinHandle<()>,
    traffic: Arc<Traffic>,
}

/// What went to a member since it was first reached.
#[derive(Default)]
struct Traffic {
    bytes: Count,
    failures: Count,
}

struct Shared {
    store_id: u64,
    me: u64,
    tls: Option<TlsFiles>,
    snapshot_rate: u64,
    snapshots: Arc<dyn Fs>,
    node: Sender<Message>,
    runtime: Handle,
    peers: Mutex<BTreeMap<u64, One>>,
    /// Members that another one has told of; a member that joins must answer before it knows the group.
    told: BTreeMap<u64, Peer>,
    /// As last applied.
    members: Mutex<Members>,
}

/// The way to all others. Clones share it.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

impl Peers {
    /// Tasks run in the current tokio runtime.
    pub fn new(
        config: &GroupConfig,
        me: u64,
        store_id: u64,
        told: BTreeMap<u64, Peer>,
        snapshots: Arc<dyn Fs>,
        node: Sender<Message>,
        runtime: Handle,
    ) -> Peers {
        Peers(Arc::new(Shared {
            store_id,
            me,
            tls: config.tls.clone(),
            snapshot_rate: config.snapshot_rate.max(1 << 20),
            snapshots,
            node,
            runtime,
            peers: Mutex::default(),
            told,
            members: Mutex::default(),
        }))
    }

    fn client(&self, id: u64) -> Option<PeerClient<Channel>> {
        self.0.peers.lock().get(&id).map(|p| client(p.channel.clone()))
    }

    /// Whether this member receives everything and does not vote.
    pub fn is_learner(&self) -> bool {
        self.0.members.lock().learners().contains(&self.0.me)
    }

    /// Whether a member was removed.
    pub fn is_removed(&self, id: u64) -> bool {
        self.0.members.lock().is_removed(id)
    }

    /// Appends what went to each member, in Prometheus' text format.
    pub fn render(&self, out: &mut String) {
        let peers = self.0.peers.lock();
        for name in ["sent_bytes_total", "sent_failures_total"] {
            out.push_str(&format!("# TYPE etcd_network_peer_{name} counter\n"));
            for (id, peer) in peers.iter() {
                let Traffic { bytes, failures } = &*peer.traffic;
                let count = if name == "sent_bytes_total" { bytes } else { failures };
                out.push_str(&format!("etcd_network_peer_{name}{{To=\"{id:x}\"}} {}\n", count.get()));
            }
        }
    }

    /// Numbers of those that vote.
    pub fn voters(&self) -> Vec<u64> {
        self.0.members.lock().voters().to_vec()
    }

    /// Digest of a member's state after an entry; none if it does not say.
    pub async fn digest(&self, id: u64, index: u64) -> Option<u64> {
        let request = proto::DigestRequest { store_id: self.0.store_id, index };
        let mut client = self.client(id)?;
        let answer = tokio::time::timeout(DESCRIBE, client.digest(request)).await.ok()?.ok()?.into_inner();
        answer.known.then_some(answer.digest)
    }

    /// What a member says of itself and the group.
    pub async fn describe(&self, id: u64) -> Result<proto::Description, StoreError> {
        let Some(mut client) = self.client(id) else { return Err(unavailable("its address is not known")) };
        match tokio::time::timeout(DESCRIBE, client.describe(proto::DescribeRequest {})).await {
            Ok(Ok(d)) => Ok(d.into_inner()),
            Ok(Err(status)) => Err(unavailable(status.message())),
            Err(_) => Err(unavailable("no answer")),
        }
    }

    /// Has the leader make a change of the members.
    pub async fn change(&self, leader: u64, change: Vec<u8>) -> Result<(), StoreError> {
        let Some(mut client) = self.client(leader) else { return Err(not_leading()) };
        let request = proto::ChangeRequest { store_id: self.0.store_id, change: change.into() };
        match tokio::time::timeout(PROPOSE, client.change(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(s)) if never_connected(&s) || s.message() == NOT_LEADING => Err(not_leading()),
            Ok(Err(s)) if s.code() == tonic::Code::FailedPrecondition => {
                Err(StoreError::Refused(s.message().to_owned()))
            }
            Ok(Err(s)) => Err(unavailable(format!(
                "the leader failed ({}); whether the change was made is not known",
                s.message()
            ))),
            Err(_) => {
                Err(unavailable("the leader does not answer; whether the change was made is not known"))
            }
        }
    }

    /// Has a member rewrite its applied state.
    pub async fn defragment(&self, id: u64) -> Result<Defragmented, StoreError> {
        let Some(mut client) = self.client(id) else { return Err(unavailable("its address is not known")) };
        let request = proto::DefragmentRequest { store_id: self.0.store_id };
        // It takes as long as there is data; whether the member is there, pings tell.
        match client.defragment(request).await.map(tonic::Response::into_inner) {
            Ok(proto::DefragmentAnswer { before, after }) => Ok(Defragmented { before, after }),
            Err(s) => Err(unavailable(s.message())),
        }
    }

    /// Has the leader hand over.
    pub async fn transfer_leader(&self, leader: u64, to: u64) -> Result<(), StoreError> {
        let Some(mut client) = self.client(leader) else { return Err(not_leading()) };
        let request = proto::TransferRequest { store_id: self.0.store_id, to };
        match tokio::time::timeout(PROPOSE, client.transfer_leader(request)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(s)) => Err(unavailable(format!("the leader failed: {}", s.message()))),
            Err(_) => Err(unavailable("the leader does not answer")),
        }
    }

    /// Proposes at the leader.
    pub async fn propose(&self, leader: u64, commands: Vec<u8>) -> Outcome {
        let Some(mut client) = self.client(leader) else { return Err(not_leading()) };
        let proposal = proto::Proposal { store_id: self.0.store_id, commands: commands.into() };
        match tokio::time::timeout(PROPOSE, client.propose(proposal)).await {
            Ok(Ok(outcome)) => wire::outcome_of_wire(outcome.into_inner()),
            Ok(Err(status)) if never_connected(&status) => Err(not_leading()),
            Ok(Err(status)) => Err(StoreError::Unknown(format!("the leader failed: {}", status.message()))),
            Err(_) => Err(StoreError::Unknown("the leader does not answer".to_owned())),
        }
    }

    /// Ends all tasks.
    pub fn close(&self) {
        for (_, peer) in std::mem::take(&mut *self.0.peers.lock()) {
            peer.task.abort();
        }
    }

    fn one(&self, id: u64, peer: &Peer) -> Result<One, StoreError> {
        let channel = channel(&peer.address, self.0.tls.as_ref())?;
        let (queue, inbox) = mpsc::channel(QUEUE);
        let traffic = Arc::<Traffic>::default();
        let talk = talk(Arc::clone(&self.0), id, channel.clone(), inbox, Arc::clone(&traffic));
        let task = self.0.runtime.spawn(talk);
        Ok(One { address: peer.address.clone(), queue, channel, task, traffic })
    }
}

impl Network for Peers {
    fn send(&mut self, messages: Vec<RaftMessage>) {
        let peers = self.0.peers.lock();
        for message in messages {
            let to = message.to;
            let Some(peer) = peers.get(&to) else { continue };
            if peer.queue.try_send(message).is_err() {
                // It is far behind, and hears of it from raft. If the node has gone, nobody cares.
                let _ = self.0.node.send(Message::Unreachable(to));
            }
        }
    }

    fn members(&mut self, members: &Members) {
        let _runtime = self.0.runtime.enter();
        let mut peers = self.0.peers.lock();
        let told = self.0.told.iter().filter(|(id, _)| !members.is_removed(**id));
        let mut all: BTreeMap<u64, &Peer> = told.map(|(id, peer)| (*id, peer)).collect();
        all.extend(members.peers().iter().filter(|(_, p)| !p.address.is_empty()).map(|(id, p)| (*id, p)));
        peers.retain(|id, one| {
            let stays = all.get(id).is_some_and(|p| p.address == one.address);
            if !stays {
                one.task.abort();
            }
            stays
        });
        for (id, peer) in all {
            if id == self.0.me || peer.address.is_empty() || peers.contains_key(&id) {
                continue;
            }
            match self.one(id, peer) {
                Ok(one) => drop(peers.insert(id, one)),
                Err(e) => tracing::error!(member = %peer.name, error = %e, "a member cannot be reached"),
            }
        }
        drop(peers);
        *self.0.members.lock() = members.clone();
    }
}

/// Whether the request never left.
fn never_connected(status: &tonic::Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(e) = source {
        if e.to_string().contains("connect error") {
            return true;
        }
        source = e.source();
    }
    false
}

/// Keeps a stream to one member open while there is something to say.
async fn talk(
    shared: Arc<Shared>,
    id: u64,
    channel: Channel,
    mut inbox: mpsc::Receiver<RaftMessage>,
    traffic: Arc<Traffic>,
) {
    let mut told = false;
    while let Some(first) = inbox.recv().await {
        let (batches, stream) = mpsc::channel::<proto::Batch>(16);
        let mut client = client(channel.clone());
        let call = client.raft(ReceiverStream::new(stream));
        tokio::pin!(call);
        let mut pending = Some(first);
        let ended = loop {
            let message = match pending.take() {
                Some(m) => m,
                None => tokio::select! {
                    m = inbox.recv() => match m { Some(m) => m, None => return },
                    ended = &mut call => break ended,
                },
            };
            let Some(batch) = gather(&shared, id, &channel, message, &mut inbox) else { continue };
            traffic.bytes.add(batch.messages.iter().map(|m| m.len() as u64).sum());
            tokio::select! {
                sent = batches.send(batch) => {
                    if sent.is_err() {
                        break (&mut call).await;
                    }
                }
                ended = &mut call => break ended,
            }
        };
        if let Err(s) = &ended
            && s.code() == tonic::Code::PermissionDenied
        {
            // The others go on without this member. If the node has gone, it knows.
            let _ = shared.node.send(Message::Removed);
            return;
        }
        traffic.failures.add(1);
        let why = ended.err().map_or_else(|| "it ended the stream".to_owned(), |s| s.message().to_owned());
        if std::mem::replace(&mut told, true) {
            tracing::debug!(member = format!("{id:016x}"), error = %why, "a member cannot be reached");
        } else {
            tracing::warn!(member = format!("{id:016x}"), error = %why, "a member cannot be reached");
        }
        // If the node has gone, nobody cares.
        let _ = shared.node.send(Message::Unreachable(id));
        tokio::time::sleep(RETRY).await;
        // What waited is old by now: raft sends what is needed.
        while inbox.try_recv().is_ok() {}
    }
}

/// What waits, as one batch. Snapshots go their own way.
fn gather(
    shared: &Arc<Shared>,
    id: u64,
    channel: &Channel,
    first: RaftMessage,
    inbox: &mut mpsc::Receiver<RaftMessage>,
) -> Option<proto::Batch> {
    let mut messages = Vec::new();
    let mut bytes = 0;
    let mut next = Some(first);
    while let Some(message) = next.take() {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            tokio::spawn(send_snapshot(Arc::clone(shared), id, channel.clone(), message));
        } else if let Some(m) = wire::encode(&message) {
            bytes += m.len();
            messages.push(m);
        }
        if messages.len() < BATCH && bytes < 4 << 20 {
            next = inbox.try_recv().ok();
        }
    }
    (!messages.is_empty()).then(|| proto::Batch { store_id: shared.store_id, messages })
}

/// The file of a snapshot, then its announcement.
async fn send_snapshot(shared: Arc<Shared>, id: u64, channel: Channel, message: RaftMessage) {
    let index = message.get_snapshot().get_metadata().index;
    let sent = try_send_snapshot(&shared, channel, index, &message).await;
    if let Err(e) = &sent {
        tracing::warn!(member = format!("{id:016x}"), index, error = %e, "could not send a snapshot");
    }
    // If the node has gone, nobody cares.
    let _ = shared.node.send(Message::SnapshotSent(id, sent.is_ok()));
}

async fn try_send_snapshot(
    shared: &Arc<Shared>,
    channel: Channel,
    index: u64,
    message: &RaftMessage,
) -> Result<(), StoreError> {
    let mut client = client(channel);
    let store_id = shared.store_id;
    let failed = |s: tonic::Status| unavailable(s.message());
    let from = client.snapshot_offset(proto::SnapshotRef { store_id, index }).await.map_err(failed)?;
    let mut offset = from.into_inner().offset;
    let file = Outgoing::open(&*shared.snapshots, index)?;
    let (tx, rx) = mpsc::channel(2);
    let pause = Duration::from_secs_f64(PIECE as f64 / shared.snapshot_rate as f64);
    let feed = async move {
        loop {
            // From a disk, possibly; a quarter of a megabyte at a time.
            let data = tokio::task::block_in_place(|| file.read(offset, PIECE))?;
            let length = data.len() as u64;
            let chunk = proto::Chunk { store_id, index, offset, data: data.into() };
            if length == 0 || tx.send(chunk).await.is_err() {
                return Ok::<_, StoreError>(());
            }
            offset += length;
            tokio::time::sleep(pause).await;
        }
    };
    let (fed, sent) = tokio::join!(feed, client.snapshot(ReceiverStream::new(rx)));
    fed?;
    sent.map_err(failed)?;
    let messages = wire::encode(message).into_iter().collect();
    let announce = tokio_stream::once(proto::Batch { store_id, messages }).chain(tokio_stream::empty());
    client.raft(announce).await.map_err(failed)?;
    Ok(())
}
