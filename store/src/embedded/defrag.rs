//! Defragmentation: the map of the applied state is rewritten without what it has forgotten, while the store is used.
//!
//! A thread copies the records, which never change, into a map beside; what is written meanwhile, it copies afterwards.
//! Once it has nearly caught up, the applier, who alone writes, copies the last few and exchanges the maps between two
//! batches. Removing history waits meanwhile, as it does for a snapshot. Whatever happens before that moment leaves the
//! old map as it was.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, SyncSender};
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::applied::Work;
use super::kv::{Batch, Kv, SledKv};
use super::map::{Aside, Map};
use super::members::MEMBERS;
use super::record::{META, Meta, record_key, record_revision};
use super::snapshot::restore_record;
use super::space::Space;
use super::state::State;
use crate::{Defragmented, Revision, StoreError};

/// Bytes of records copied at once.
const PIECE: usize = 256 << 10;
/// Revisions that the applier may have to copy itself.
const CLOSE: u64 = 512;
/// How often the copy is brought up to date at most: if writes come as fast as they can be copied, the applier does
/// the rest.
const ROUNDS: usize = 16;

/// Who waits for the end.
pub type DefragReply = oneshot::Sender<Result<Defragmented, StoreError>>;

/// The text of the error while one is under way.
pub const BUSY: &str = "this member is being defragmented already";

/// A copy that is nearly complete.
struct Copied {
    map: Aside,
    /// The last revision inside.
    upto: Revision,
    /// Takes the map that is not used any more.
    done: mpsc::Sender<Result<Aside, StoreError>>,
}

/// What the thread and the applier share.
#[derive(Default)]
struct Shared {
    copied: Mutex<Option<Copied>>,
    cancelled: AtomicBool,
    /// Nothing is left to be done but to tell.
    ended: AtomicBool,
}

/// The applier's part.
pub struct Defragmenter {
    pub map: Arc<Map>,
    pub state: Arc<State>,
    pub space: Arc<Space>,
    /// To wake the applier.
    pub work: SyncSender<Work>,
    waiting: Option<DefragReply>,
    under_way: Option<(JoinHandle<()>, Arc<Shared>)>,
}

fn stopped() -> StoreError {
    StoreError::Unavailable(
        "the defragmentation was broken off: the member stops or takes over a snapshot".to_owned(),
    )
}

fn answer(reply: DefragReply, outcome: Result<Defragmented, StoreError>) {
    // Whoever asked may have gone.
    drop(reply.send(outcome));
}

impl Defragmenter {
    pub fn new(map: Arc<Map>, state: Arc<State>, space: Arc<Space>, work: SyncSender<Work>) -> Defragmenter {
        Defragmenter { map, state, space, work, waiting: None, under_way: None }
    }

    /// Whether history must stay where it is.
    pub fn busy(&self) -> bool {
        let ended = |(thread, shared): &(JoinHandle<()>, Arc<Shared>)| {
            thread.is_finished() || shared.ended.load(Ordering::Acquire)
        };
        self.under_way.as_ref().is_some_and(|u| !ended(u))
    }

    /// Notes that somebody wants it.
    pub fn ask(&mut self, reply: DefragReply) {
        let size = self.state.size_on_disk();
        if self.busy() || self.waiting.as_ref().is_some_and(|w| !w.is_closed()) {
            answer(reply, Err(StoreError::Unavailable(BUSY.to_owned())));
        } else if !self.space.fits(size) {
            answer(reply, Err(self.space.refusal()));
        } else {
            self.waiting = Some(reply);
        }
    }

    /// What is due between two batches. `scrubbed`: all history that can go has gone.
    pub fn turn(&mut self, meta: &Meta, scrubbed: bool) -> Result<(), StoreError> {
        if scrubbed && let Some(reply) = self.waiting.take() {
            self.start(reply)?;
        }
        let copied = self.under_way.as_ref().and_then(|(_, shared)| shared.copied.lock().take());
        if let Some(Copied { map, upto, done }) = copied {
            // If the thread is gone, the old map is removed here.
            drop(done.send(self.finish(map, upto, meta)));
        }
        Ok(())
    }

    /// Copies what is missing, and exchanges the maps.
    fn finish(&self, map: Aside, upto: Revision, meta: &Meta) -> Result<Aside, StoreError> {
        let Some(kv) = map.kv() else { return Err(stopped()) };
        // Later it would come over what the copy has, and be older.
        self.state.kv.hand_on(true)?;
        copy(&*self.state.kv, kv, upto, meta.revision, &AtomicBool::new(false))?;
        let members = self.state.members()?.encode();
        let last = [(META.to_vec(), Some(meta.encode().into())), (MEMBERS.to_vec(), Some(members.into()))];
        kv.apply(&Batch::from(last))?;
        self.map.exchange(map, &self.state.gate)
    }

    fn start(&mut self, reply: DefragReply) -> Result<(), StoreError> {
        let shared = Arc::<Shared>::default();
        let (map, state, work, theirs) =
            (Arc::clone(&self.map), Arc::clone(&self.state), self.work.clone(), Arc::clone(&shared));
        let run = move || {
            let outcome = rewrite(&map, &state, &work, &theirs);
            theirs.ended.store(true, Ordering::Release);
            answer(reply, outcome);
        };
        let thread = std::thread::Builder::new().name("store-defrag".to_owned()).stack_size(512 << 10);
        let thread = thread.spawn(run);
        let thread = thread.map_err(|e| StoreError::Unavailable(format!("starting a thread: {e}")))?;
        self.under_way = Some((thread, shared));
        Ok(())
    }

    /// Breaks it off: the old map stays.
    pub fn cancel(&mut self) {
        if let Some(reply) = self.waiting.take() {
            answer(reply, Err(stopped()));
        }
        let Some((thread, shared)) = self.under_way.take() else { return };
        shared.cancelled.store(true, Ordering::Release);
        drop(shared.copied.lock().take());
        // It may have put it there just now; then it has seen that nobody comes for it.
        if thread.join().is_err() {
            tracing::error!("the thread that defragments panicked");
        }
    }
}

/// The thread.
fn rewrite(
    map: &Map,
    state: &State,
    work: &SyncSender<Work>,
    shared: &Shared,
) -> Result<Defragmented, StoreError> {
    let started = Instant::now();
    let before = state.size_on_disk();
    let aside = map.aside()?;
    let Some(kv) = aside.kv() else { return Err(stopped()) };
    let mut upto = 0;
    for _ in 0..ROUNDS {
        let newest = state.revision();
        copy(&*state.kv, kv, upto, newest, &shared.cancelled)?;
        upto = newest;
        // So that little is left to be flushed at the end, while the applier waits.
        kv.flush()?;
        if state.revision() - upto <= CLOSE {
            break;
        }
    }
    let (done, exchanged) = mpsc::channel();
    {
        let mut copied = shared.copied.lock();
        if shared.cancelled.load(Ordering::Acquire) {
            return Err(stopped());
        }
        *copied = Some(Copied { map: aside, upto, done });
    }
    // If the queue is full, it has work, and looks after that.
    drop(work.try_send(Work::Turn));
    let old = exchanged.recv().map_err(|_| stopped())??;
    drop(old);
    let after = state.size_on_disk();
    tracing::info!(before, after, took = ?started.elapsed(), "defragmented the applied state");
    Ok(Defragmented { before, after })
}

/// Copies the records of the revisions after `after` up to `upto`, and what follows from them.
fn copy(
    from: &dyn Kv,
    to: &SledKv,
    after: Revision,
    upto: Revision,
    cancelled: &AtomicBool,
) -> Result<(), StoreError> {
    let mut at = after + 1;
    while at <= upto {
        if cancelled.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let mut piece = Vec::new();
        let (mut bytes, mut bad) = (0, None);
        from.scan(&record_key(at), &record_key(upto + 1), &mut |k, v| {
            bytes += v.len();
            match record_revision(k) {
                Ok(revision) => piece.push((revision, v)),
                Err(e) => bad = Some(e),
            }
            bad.is_none() && bytes < PIECE
        })?;
        if let Some(e) = bad {
            return Err(e);
        }
        let Some((last, _)) = piece.last() else { return Ok(()) };
        at = last + 1;
        let mut batch = Batch::new();
        for (revision, record) in &piece {
            restore_record(to, &mut batch, *revision, record)?;
        }
        to.load(&batch)?;
    }
    Ok(())
}
