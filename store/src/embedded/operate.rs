//! Operation of the group from any of its members: what only the leader can do is sent there.

use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::core::{NOT_LEADING, not_leading};
use super::members::{Change, Peer};
use super::node::Message;
use super::peer::{Served, member_id, proto};
use super::proposer::{PATIENCE, no_leader};
use super::snapshot::BUSY;
use crate::StoreError;
use crate::operation::{Defragmented, Member, MemberStatus, Operation, SavedSnapshot, Status};

/// Pause before something that could not be done yet is tried again.
const PAUSE: Duration = Duration::from_millis(50);
/// How long a change of the leader may take.
const TRANSFER: Duration = Duration::from_secs(5);
/// How long a snapshot that is being written already is waited for.
const SNAPSHOT: Duration = Duration::from_secs(600);

/// See the module.
pub struct Operator {
    me: u64,
    served: Served,
}

fn refused<T>(why: impl Into<String>) -> Result<T, StoreError> {
    Err(StoreError::Refused(why.into()))
}

fn is(e: &StoreError, text: &str) -> bool {
    matches!(e, StoreError::Unavailable(why) if why == text)
}

fn members(d: &proto::Description) -> Vec<Member> {
    let member = |m: &proto::Member| Member {
        id: m.id,
        name: m.name.clone(),
        address: m.address.clone(),
        learner: m.learner,
    };
    d.members.iter().map(member).collect()
}

fn status(d: proto::Description) -> Status {
    Status {
        leader: d.leader,
        term: d.term,
        committed: d.committed,
        applied: d.applied,
        revision: d.revision,
        compacted: d.compacted,
        size: d.size,
        version: d.version,
        alarms: d.alarms,
    }
}

/// Whether a name and an address are fit for a member.
fn check(name: &str, address: &str) -> Result<(), StoreError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 253 || !name.chars().all(plain) {
        return refused(format!("{name:?} is no name of a member: letters, digits, -, _ and . are allowed"));
    }
    let port = address.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    if address.contains(['=', ',', '/']) || port.and_then(|(_, p)| p.parse::<u16>().ok()).is_none() {
        return refused(format!("{address:?} is no address of a member: HOST:PORT"));
    }
    Ok(())
}

impl Operator {
    /// `me`: number of the member that is here.
    pub fn new(me: u64, served: Served) -> Operator {
        Operator { me, served }
    }

    /// Number of the member that is here.
    pub fn member(&self) -> u64 {
        self.me
    }

    /// Whether the disk of this member is full.
    pub fn is_full(&self) -> bool {
        self.served.is_full()
    }

    async fn describe(&self) -> Result<proto::Description, StoreError> {
        self.served.proposer.health.check()?;
        let described = self.served.describe_now().await;
        described.map_err(|_| self.served.proposer.stopped())
    }

    async fn find(&self, name: &str) -> Result<Member, StoreError> {
        let all = members(&self.describe().await?);
        let by_id = |m: &&Member| !name.is_empty() && format!("{:016x}", m.id) == name;
        let found = all.iter().find(|m| m.name == name).or_else(|| all.iter().find(by_id));
        match found {
            Some(m) => Ok(m.clone()),
            None => {
                let names: Vec<_> = all.iter().map(|m| m.name.as_str()).collect();
                refused(format!("the store has no member {name:?}; there are {}", names.join(", ")))
            }
        }
    }

    /// Has the leader make a change.
    async fn change(&self, change: &Change) -> Result<Vec<Member>, StoreError> {
        let proposer = &self.served.proposer;
        let Some(peers) = &proposer.peers else {
            return refused(
                "this store stands alone: restart its API server with --store-name and --store-initial-cluster first, \
                 so that others can reach it",
            );
        };
        let before = members(&self.describe().await?);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = proposer.leader(deadline).await?;
            let changed = if leader.is_me {
                let (tx, rx) = oneshot::channel();
                let sent = self.served.node.send(Message::Change(change.clone(), tx));
                sent.map_err(|_| proposer.stopped())?;
                rx.await.map_err(|_| proposer.stopped())?.map(|_| ())
            } else {
                peers.change(leader.id, change.encode()).await
            };
            match changed {
                Ok(()) => break,
                Err(e) if is(&e, NOT_LEADING) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(e) => return Err(e),
            }
        }
        if matches!(change, Change::Remove { id } if *id == self.me) {
            // This one hears no more of the others.
            return Ok(before.into_iter().filter(|m| m.id != self.me).collect());
        }
        // So that the answer shows it.
        proposer.catch_up().await?;
        Ok(members(&self.describe().await?))
    }

    async fn transfer(&self, to: &Member) -> Result<(), StoreError> {
        let proposer = &self.served.proposer;
        let deadline = Instant::now() + TRANSFER;
        let mut seen = proposer.leader.clone();
        loop {
            let leader = proposer.leader(deadline).await?;
            if leader.id == to.id {
                return Ok(());
            }
            match &proposer.peers {
                _ if leader.is_me => {
                    let sent = self.served.node.send(Message::TransferLeader(to.id));
                    sent.map_err(|_| proposer.stopped())?;
                }
                Some(peers) => peers.transfer_leader(leader.id, to.id).await?,
                None => return Err(not_leading()),
            }
            // It gives up after an election's time if the other does not take it.
            let changed = seen.wait_for(|l| l.id == to.id);
            let patience = Instant::now() + Duration::from_secs(1);
            match tokio::time::timeout_at(patience.min(deadline), changed).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => return Err(proposer.stopped()),
                Err(_) if Instant::now() < deadline => {}
                Err(_) => {
                    return Err(StoreError::Unavailable(format!(
                        "{} has not taken the lead within {} seconds; is it running?",
                        to.name,
                        TRANSFER.as_secs()
                    )));
                }
            }
        }
    }
}

#[async_trait]
impl Operation for Operator {
    fn store_id(&self) -> u64 {
        self.served.store_id
    }

    async fn members(&self) -> Result<Vec<Member>, StoreError> {
        Ok(members(&self.describe().await?))
    }

    async fn status(&self) -> Result<Vec<MemberStatus>, StoreError> {
        let here = self.describe().await?;
        let all = members(&here);
        // All at once: a member that does not answer must not hold up the others.
        let asked = all.into_iter().map(|member| {
            let (here, peers) = (here.clone(), self.served.proposer.peers.clone());
            let is_me = member.id == self.me;
            tokio::spawn(async move {
                let said = match peers {
                    _ if is_me => Ok(here),
                    Some(peers) => peers.describe(member.id).await,
                    None => Err(no_leader()),
                };
                MemberStatus { member, status: said.map(status).map_err(|e| e.to_string()) }
            })
        });
        let asked: Vec<_> = asked.collect();
        let mut answers = Vec::new();
        for answer in asked {
            answers.push(answer.await.map_err(|e| StoreError::Unavailable(format!("asking: {e}")))?);
        }
        Ok(answers)
    }

    async fn add(&self, name: &str, address: &str) -> Result<Vec<Member>, StoreError> {
        check(name, address)?;
        let peer = Peer { name: name.to_owned(), address: address.to_owned() };
        self.change(&Change::Add { id: member_id(name), peer }).await
    }

    async fn promote(&self, name: &str) -> Result<Vec<Member>, StoreError> {
        let member = self.find(name).await?;
        self.change(&Change::Promote { id: member.id }).await
    }

    async fn remove(&self, name: &str) -> Result<Vec<Member>, StoreError> {
        let member = self.find(name).await?;
        let deadline = Instant::now() + PATIENCE;
        if self.served.proposer.leader(deadline).await?.id == member.id {
            let d = self.describe().await?;
            let other = members(&d).into_iter().find(|m| m.id != member.id && !m.learner);
            match other {
                Some(other) => self.transfer(&other).await?,
                None => return refused("the only member that votes cannot be removed"),
            }
        }
        self.change(&Change::Remove { id: member.id }).await
    }

    async fn transfer_leader(&self, to: &str) -> Result<(), StoreError> {
        let member = self.find(to).await?;
        if member.learner {
            return refused(format!("{to} is a learner: promote it first"));
        }
        self.transfer(&member).await
    }

    async fn defragment(&self, name: &str) -> Result<Defragmented, StoreError> {
        let member = self.find(name).await?;
        match &self.served.proposer.peers {
            Some(peers) if member.id != self.me => peers.defragment(member.id).await,
            _ => self.served.defragment_now().await,
        }
    }

    async fn snapshot(&self) -> Result<Box<dyn SavedSnapshot>, StoreError> {
        let proposer = &self.served.proposer;
        proposer.catch_up().await?;
        let deadline = Instant::now() + SNAPSHOT;
        loop {
            let (tx, rx) = oneshot::channel();
            self.served.node.send(Message::Save(tx)).map_err(|_| proposer.stopped())?;
            match rx.await.map_err(|_| proposer.stopped())? {
                Ok(saved) => return Ok(Box::new(saved)),
                Err(e) if is(&e, BUSY) && Instant::now() < deadline => tokio::time::sleep(PAUSE).await,
                Err(e) => return Err(e),
            }
        }
    }
}
