//! Bringing commands to the log and linearizable reads to the right moment, wherever the leader is.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use tokio::sync::{Semaphore, oneshot, watch};
use tokio::time::Instant;

use super::Health;
use super::applied::{Progress, Reply};
use super::apply::Outcome;
use super::boot_time;
use super::command::{Command, encode};
use super::core::{Granted, NOT_LEADING};
use super::metrics::Metrics;
use super::node::{Leader, Message};
use super::peer::Peers;
use crate::StoreError;

/// Writes under way, in KiB: what memory they may take before further ones wait.
const UNDER_WAY_KIB: usize = 32 << 10;
/// How long calls wait for a leader: an election, and some.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// See the module.
pub struct Proposer {
    pub node: Sender<Message>,
    pub health: Arc<Health>,
    pub metrics: Arc<Metrics>,
    pub under_way: Arc<Semaphore>,
    pub leader: watch::Receiver<Leader>,
    pub progress: Arc<Progress>,
    pub alone: Arc<AtomicBool>,
    pub peers: Option<Peers>,
    pub lease: Arc<Granted>,
}

fn is_not_leading(outcome: &Outcome) -> bool {
    matches!(outcome, Err(StoreError::Unavailable(why)) if why == NOT_LEADING)
}

impl Proposer {
    /// The permits of [`Proposer::under_way`].
    pub fn permits() -> Arc<Semaphore> {
        Arc::new(Semaphore::new(UNDER_WAY_KIB))
    }

    /// Why nothing is answered any more.
    pub fn stopped(&self) -> StoreError {
        self.health.check().err().unwrap_or_else(|| StoreError::Unavailable("the store has stopped".into()))
    }

    /// The same for a write that was under way.
    fn lost(&self) -> StoreError {
        self.stopped().of_write_under_way()
    }

    /// Proposes at this member.
    pub async fn here(&self, command: Command) -> Outcome {
        self.health.check()?;
        let bytes = match &command {
            Command::Put { key, value, .. } => key.len() + value.len(),
            _ => 0,
        };
        let permits = u32::try_from(bytes / 1024 + 1).unwrap_or(u32::MAX).min(UNDER_WAY_KIB as u32);
        let permit = Arc::clone(&self.under_way).acquire_many_owned(permits).await;
        let permit = permit.map_err(|_| self.stopped())?;
        let (tx, rx) = oneshot::channel();
        self.metrics.proposals_pending.add(1);
        if self.node.send(Message::Propose(command, Reply { tx, permit })).is_err() {
            self.metrics.proposals_pending.sub(1);
            return Err(self.stopped());
        }
        rx.await.unwrap_or_else(|_| Err(self.lost()))
    }

    /// Proposes at the leader, whoever that is. Tries again only where it is sure that nothing was done.
    pub async fn propose(&self, command: Command) -> Outcome {
        let Some(peers) = &self.peers else { return self.here(command).await };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let leader = self.leader(deadline).await?;
            let outcome = if leader.is_me {
                self.here(command.clone()).await
            } else {
                peers.propose(leader.id, encode(std::slice::from_ref(&command))).await
            };
            if !is_not_leading(&outcome) {
                if let (Ok(_), false) = (&outcome, leader.is_me) {
                    self.metrics.proposals_forwarded.add(1);
                }
                return outcome;
            }
            if Instant::now() >= deadline {
                return Err(no_leader());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The leader, once there is one.
    pub async fn leader(&self, deadline: Instant) -> Result<Leader, StoreError> {
        let mut leader = self.leader.clone();
        let known = tokio::time::timeout_at(deadline, leader.wait_for(|l| l.id != 0)).await;
        self.health.check()?;
        match known {
            Ok(Ok(leader)) => Ok(*leader),
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(no_leader()),
        }
    }

    /// Returns once the state has seen every write acknowledged before the call, by whichever member.
    pub async fn catch_up(&self) -> Result<(), StoreError> {
        self.health.check()?;
        if self.alone.load(Ordering::Acquire) {
            // A leader that is alone has applied what it has acknowledged.
            return Ok(());
        }
        let deadline = Instant::now() + PATIENCE;
        if let Some(index) = boot_time::now().and_then(|now| self.lease.index(now)) {
            return self.reach(index, deadline).await;
        }
        let (tx, rx) = oneshot::channel();
        self.node.send(Message::Read(tx)).map_err(|_| self.stopped())?;
        let index = match tokio::time::timeout_at(deadline, rx).await {
            Ok(Ok(index)) => index?,
            Ok(Err(_)) => return Err(self.stopped()),
            Err(_) => return Err(no_leader()),
        };
        self.reach(index, deadline).await
    }

    /// Returns once the state holds that entry.
    async fn reach(&self, index: u64, deadline: Instant) -> Result<(), StoreError> {
        if self.progress.index.load(Ordering::Acquire) >= index {
            return self.health.check();
        }
        let mut reached = self.progress.reached.subscribe();
        let applied = tokio::time::timeout_at(deadline, reached.wait_for(|i| *i >= index)).await;
        self.health.check()?;
        match applied {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(self.stopped()),
            Err(_) => Err(StoreError::Unavailable("this member is too far behind the others".to_owned())),
        }
    }
}

/// What is said while fewer than half of the members can be reached.
pub fn no_leader() -> StoreError {
    StoreError::Unavailable(
        "the store has no leader: fewer than half of its members can be reached".to_owned(),
    )
}
