//! Snapshots: the applied state as one checksummed file, written beside running writes and synced, after which the
//! log before it is dropped. Records are immutable and nothing is removed while a snapshot is being written, so all
//! records up to a revision are that revision's state. Everything else is derived from them on restoring.
//!
//! File: chunks of `length (4) | CRC-32 (4) | payload`. The first payload is the head, the last the number of records;
//! those between hold records.
//!
//! A member that lacks what the others' logs have forgotten receives the file of another: `.recv.part` while it comes,
//! `.recv` once it is whole, checked and durable, `.snap` once the log begins after it.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::Instant;

use bytes::Bytes;
use raft::eraftpb::SnapshotMetadata;

use super::applied::Progress;
use super::codec::{Malformed, Reader, put_bytes, put_int};
use super::fs::{File, Fs};
use super::kv::{Batch, Kv};
use super::members::{MEMBERS, Members};
use super::metrics::Metrics;
use super::node::Message;
use super::record::{
    FORMAT, Head, META, Meta, Record, expiry_key, foreign, head_key, record_key, record_revision,
};
use super::space::Space;
use super::state::State;
use crate::{Revision, StoreError};

/// Bytes of a chunk's payload.
const CHUNK: usize = 256 << 10;

/// The file of a snapshot.
pub fn name(index: u64) -> String {
    format!("{index:016x}.snap")
}

fn index_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_suffix(".snap")?, 16).ok().filter(|i| name(*i) == file)
}

fn received_name(index: u64) -> String {
    format!("{index:016x}.recv")
}

fn part_name(index: u64) -> String {
    format!("{index:016x}.recv.part")
}

/// Decides when a snapshot is due and has a thread of its own write it.
pub struct Snapshotter {
    pub fs: Arc<dyn Fs>,
    pub store_id: u64,
    /// Bytes of log after which a snapshot is due; more where the last snapshot was larger.
    pub threshold: u64,
    pub progress: Arc<Progress>,
    pub metrics: Arc<Metrics>,
    pub node: Sender<Message>,
    pub logged: u64,
    pub last_size: Arc<std::sync::atomic::AtomicU64>,
    pub space: Arc<Space>,
    pub writer: Option<JoinHandle<()>>,
}

impl Snapshotter {
    /// Notes bytes that went through the log.
    pub fn logged(&mut self, bytes: usize) {
        self.logged += bytes as u64 + 64;
    }

    /// Whether one is being written.
    pub fn busy(&self) -> bool {
        self.writer.as_ref().is_some_and(|w| !w.is_finished())
    }

    /// Waits for the one being written.
    pub fn wait(&mut self) {
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!("the thread writing a snapshot panicked");
        }
    }

    /// Starts one if it is due.
    pub fn applied(&mut self, meta: &Meta, state: &Arc<State>) -> Result<(), StoreError> {
        let due = self.threshold.max(self.last_size.load(std::sync::atomic::Ordering::Relaxed));
        if self.logged < due || self.busy() {
            return Ok(());
        }
        self.start(meta, state, None)
    }

    /// Starts one; `reply` is given the file.
    pub fn start(
        &mut self,
        meta: &Meta,
        state: &Arc<State>,
        reply: Option<SaveReply>,
    ) -> Result<(), StoreError> {
        self.wait();
        self.logged = 0;
        let size = match self.last_size.load(std::sync::atomic::Ordering::Relaxed) {
            0 => state.size_on_disk(),
            last => last,
        };
        if !self.space.fits(size) {
            tracing::error!(bytes = size, "no room for a snapshot; the log grows");
            if let Some(reply) = reply {
                // Whoever asked may have gone.
                drop(reply.send(Err(self.space.refusal())));
            }
            return Ok(());
        }
        let members = state.members()?;
        // With the log goes what the map could be completed from.
        state.kv.hand_on(true)?;
        let (fs, meta, state, store_id) = (Arc::clone(&self.fs), *meta, Arc::clone(state), self.store_id);
        let (progress, metrics, node) =
            (Arc::clone(&self.progress), Arc::clone(&self.metrics), self.node.clone());
        let last_size = Arc::clone(&self.last_size);
        let work = move || {
            let started = Instant::now();
            let written = write(&*fs, &*state.kv, store_id, &meta, &members);
            let written = written.and_then(|size| state.kv.flush().map(|()| size));
            match &written {
                Ok(size) => {
                    metrics.snapshot_save.observe(started.elapsed());
                    let (index, revision) = (meta.index, meta.revision);
                    tracing::info!(index, revision, bytes = size, "wrote a snapshot");
                    last_size.store(*size, std::sync::atomic::Ordering::Relaxed);
                    metrics.snapshots.add(1);
                    *progress.snapshot.lock() = Some(raft_metadata(&meta, &members));
                    // If it is gone, the engine is stopping; the next start truncates.
                    let _ = node.send(Message::Wake);
                }
                Err(e) => {
                    // The room it took is needed. If it cannot be removed, the next one does so.
                    let _ = fs.remove(&format!("{}.part", name(meta.index)));
                    tracing::error!(error = %e, place = %fs.describe(), "could not write a snapshot; the log grows")
                }
            }
            if let Some(reply) = reply {
                let saved = written.and_then(|_| Outgoing::open(&*fs, meta.index));
                // Whoever asked may have gone.
                drop(reply.send(saved.map(|file| Saved { file, revision: meta.revision })));
            }
        };
        let writer = std::thread::Builder::new().name("store-snapshot".to_owned()).stack_size(256 << 10);
        let spawned = writer.spawn(work);
        self.writer = Some(spawned.map_err(|e| StoreError::Unavailable(format!("starting a thread: {e}")))?);
        Ok(())
    }
}

/// Who waits for a snapshot.
pub type SaveReply = tokio::sync::oneshot::Sender<Result<Saved, StoreError>>;

/// What is said while another snapshot is being written.
pub fn busy() -> StoreError {
    StoreError::Unavailable(BUSY.to_owned())
}

/// The text of [`busy`].
pub const BUSY: &str = "a snapshot is being written already";

/// A snapshot that was just written. Readable also when a newer one has taken its place.
pub struct Saved {
    file: Outgoing,
    revision: Revision,
}

impl crate::SavedSnapshot for Saved {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn size(&self) -> u64 {
        self.file.size
    }

    fn read(&self, offset: u64, length: usize) -> Result<Bytes, StoreError> {
        self.file.read(offset, length).map(Bytes::from)
    }
}

struct ChunkWriter {
    file: Box<dyn File>,
    offset: u64,
    chunk: Vec<u8>,
}

impl ChunkWriter {
    fn flush(&mut self) -> io::Result<()> {
        let length = u32::try_from(self.chunk.len()).map_err(io::Error::other)?;
        let mut header = [0; 8];
        header[..4].copy_from_slice(&length.to_le_bytes());
        header[4..].copy_from_slice(&crc32fast::hash(&self.chunk).to_le_bytes());
        self.file.write_at(self.offset, &header)?;
        self.file.write_at(self.offset + 8, &self.chunk)?;
        self.offset += 8 + u64::from(length);
        self.chunk.clear();
        Ok(())
    }
}

/// What raft is told about a snapshot.
pub fn raft_metadata(meta: &Meta, members: &Members) -> SnapshotMetadata {
    let mut raft = SnapshotMetadata { index: meta.index, term: meta.term, ..SnapshotMetadata::default() };
    raft.set_conf_state(members.conf().clone());
    raft
}

fn unwritten(fs: &dyn Fs, e: &io::Error) -> StoreError {
    StoreError::Unavailable(format!("writing a snapshot in {}: {e}", fs.describe()))
}

/// Writes the state as of `meta` and makes it durable. Removes older ones. The file's size.
pub fn write(
    fs: &dyn Fs,
    kv: &dyn Kv,
    store_id: u64,
    meta: &Meta,
    members: &Members,
) -> Result<u64, StoreError> {
    let failed = |e| unwritten(fs, &e);
    let (part, mut out) = begin(fs, store_id, meta, members).map_err(failed)?;
    let mut count = 0u64;
    let mut at: Revision = 0;
    loop {
        // A piece at a time: no iterator of the map is held while the disk is waited for.
        let mut last = None;
        let mut bad = None;
        kv.scan(&record_key(at), &record_key(meta.revision + 1), &mut |k, v| {
            match record_revision(k) {
                Ok(revision) => {
                    put_int(&mut out.chunk, revision);
                    put_bytes(&mut out.chunk, &v);
                    count += 1;
                    last = Some(revision);
                }
                Err(e) => bad = Some(e),
            }
            bad.is_none() && out.chunk.len() < CHUNK
        })?;
        if let Some(e) = bad {
            return Err(e);
        }
        let Some(revision) = last else { break };
        out.flush().map_err(failed)?;
        at = revision + 1;
    }
    end(fs, &part, meta.index, out, count).map_err(failed)
}

/// The file of a snapshot while it is written, with its head in it.
fn begin(fs: &dyn Fs, store_id: u64, meta: &Meta, members: &Members) -> io::Result<(String, ChunkWriter)> {
    let part = format!("{}.part", name(meta.index));
    let file = fs.create(&part, 0)?;
    let mut out = ChunkWriter { file, offset: 0, chunk: Vec::new() };
    for v in
        [FORMAT, store_id, meta.index, meta.term, meta.revision, meta.compacted, meta.scrubbed, meta.chain]
    {
        put_int(&mut out.chunk, v);
    }
    put_bytes(&mut out.chunk, &members.encode());
    out.flush()?;
    Ok((part, out))
}

/// Ends it, makes it durable and gives it its name. Its size.
fn end(fs: &dyn Fs, part: &str, index: u64, mut out: ChunkWriter, count: u64) -> io::Result<u64> {
    out.chunk = count.to_le_bytes().to_vec();
    out.flush()?;
    out.file.sync()?;
    fs.rename(part, &name(index))?;
    fs.sync_dir()?;
    remove_older(fs, index)?;
    Ok(out.offset)
}

/// Removes snapshots from before `index`, and what writing one has left.
fn remove_older(fs: &dyn Fs, index: u64) -> io::Result<()> {
    for old in fs.list()? {
        if old.ends_with(".snap.part") || index_of(&old).is_some_and(|i| i < index) {
            fs.remove(&old)?;
        }
    }
    Ok(())
}

/// The newest snapshot's index.
pub fn newest(fs: &dyn Fs) -> Result<Option<u64>, StoreError> {
    Ok(all(fs)?.pop())
}

/// Bytes of the newest snapshot; zero if there is none.
pub fn newest_size(fs: &dyn Fs) -> Result<u64, StoreError> {
    newest(fs)?.map_or(Ok(0), |index| Outgoing::open(fs, index).map(|file| file.size))
}

/// The indexes of all snapshots, ascending.
pub fn all(fs: &dyn Fs) -> Result<Vec<u64>, StoreError> {
    let names = fs.list().map_err(|e| StoreError::Unavailable(format!("listing {}: {e}", fs.describe())))?;
    let mut all: Vec<u64> = names.iter().filter_map(|n| index_of(n)).collect();
    all.sort_unstable();
    Ok(all)
}

struct ChunkReader {
    file: Box<dyn File>,
    offset: u64,
    size: u64,
    crcs: crc32fast::Hasher,
}

impl ChunkReader {
    fn next(&mut self) -> io::Result<Option<Bytes>> {
        let mut header = [0; 8];
        if self.file.read_at(self.offset, &mut header)? < 8 {
            return Ok(None);
        }
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
        let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
        if self.offset + 8 + u64::from(length) > self.size {
            return Ok(None);
        }
        let mut payload = vec![0; length as usize];
        if self.file.read_at(self.offset + 8, &mut payload)? < payload.len()
            || crc32fast::hash(&payload) != crc
        {
            return Ok(None);
        }
        self.offset += 8 + u64::from(length);
        self.crcs.update(&header);
        Ok(Some(Bytes::from(payload)))
    }
}

/// A snapshot file that is being read.
pub struct Input {
    reader: ChunkReader,
    place: String,
}

/// What a snapshot says about itself.
pub struct SnapshotHead {
    pub store_id: u64,
    pub meta: Meta,
    /// None in those of before groups had several members.
    pub members: Option<Members>,
}

impl Input {
    /// Opens it and reads its head.
    pub fn open(fs: &dyn Fs, name: &str) -> Result<(Input, SnapshotHead), StoreError> {
        let place = format!("snapshot {name} in {}", fs.describe());
        let failed = |e: io::Error| StoreError::Unavailable(format!("reading {place}: {e}"));
        let file = fs.open(name).map_err(failed)?;
        let size = file.len().map_err(failed)?;
        let mut input =
            Input { reader: ChunkReader { file, offset: 0, size, crcs: Default::default() }, place };
        let head = input.next()?;
        let mut r = Reader::new(&head);
        let mut int = || r.int().map_err(|_| input.damaged());
        let format = int()?;
        if format != FORMAT {
            return Err(foreign(&input.place, Some(format)));
        }
        let store_id = int()?;
        let meta = Meta {
            index: int()?,
            term: int()?,
            revision: int()?,
            compacted: int()?,
            scrubbed: int()?,
            chain: 0,
        };
        if r.is_empty() {
            return Ok((input, SnapshotHead { store_id, meta, members: None }));
        }
        let chain = r.int().map_err(|_| input.damaged())?;
        let members = r.bytes().and_then(Members::decode).map_err(|_| input.damaged())?;
        Ok((input, SnapshotHead { store_id, meta: Meta { chain, ..meta }, members: Some(members) }))
    }

    /// Opens one of a known store.
    fn of_store(fs: &dyn Fs, name: &str, store_id: u64) -> Result<(Input, SnapshotHead), StoreError> {
        let (input, head) = Input::open(fs, name)?;
        if head.store_id == store_id {
            return Ok((input, head));
        }
        Err(StoreError::Corrupt(format!("{} belongs to another store than the log beside it", input.place)))
    }

    /// Bytes of the file.
    pub fn size(&self) -> u64 {
        self.reader.size
    }

    /// Checksum of what was read so far.
    pub fn checksum(&self) -> u32 {
        self.reader.crcs.clone().finalize()
    }

    /// The next chunk of records; none after the last, if there were as many as there should.
    fn next_records(&mut self, count: &mut u64) -> Result<Option<Bytes>, StoreError> {
        let chunk = self.next()?;
        // A chunk of records is never this short: a record has more bytes than its number.
        match <[u8; 8]>::try_from(&chunk[..]) {
            Ok(total) if u64::from_le_bytes(total) == *count => return Ok(None),
            Ok(_) => return Err(self.damaged()),
            Err(_) => {}
        }
        let mut r = Reader::new(&chunk);
        while !r.is_empty() {
            let read = (r.int(), r.bytes());
            if read.0.is_err() || read.1.is_err() {
                return Err(self.damaged());
            }
            *count += 1;
        }
        Ok(Some(chunk))
    }

    /// Calls `each` on all records; how many there are.
    pub fn records(
        &mut self,
        each: &mut dyn FnMut(Revision, &Bytes) -> Result<(), StoreError>,
    ) -> Result<u64, StoreError> {
        let mut count = 0;
        while let Some(chunk) = self.next_records(&mut count)? {
            let mut r = Reader::new(&chunk);
            while !r.is_empty() {
                let revision = r.int().map_err(|_| self.damaged())?;
                let bytes = r.bytes().map_err(|_| self.damaged())?;
                each(revision, &chunk.slice_ref(bytes))?;
            }
        }
        Ok(count)
    }

    fn next(&mut self) -> Result<Bytes, StoreError> {
        let chunk = self.reader.next();
        chunk
            .map_err(|e| StoreError::Unavailable(format!("reading {}: {e}", self.place)))?
            .ok_or_else(|| self.damaged())
    }

    fn damaged(&self) -> StoreError {
        StoreError::Corrupt(format!(
            "{} is damaged: restore this member from a backup or replace it",
            self.place
        ))
    }
}

/// What the snapshot of `index` says about itself.
pub fn head(fs: &dyn Fs, index: u64, store_id: u64) -> Result<(Meta, Option<Members>), StoreError> {
    Input::of_store(fs, &name(index), store_id).map(|(_, head)| (head.meta, head.members))
}

/// Fills an empty map from the snapshot of `index`.
pub fn restore(fs: &dyn Fs, kv: &dyn Kv, index: u64, store_id: u64) -> Result<Meta, StoreError> {
    let (mut input, head) = Input::of_store(fs, &name(index), store_id)?;
    fill(&mut input, &head, kv)
}

/// Fills an empty map.
pub fn fill(input: &mut Input, head: &SnapshotHead, kv: &dyn Kv) -> Result<Meta, StoreError> {
    let mut count = 0;
    while let Some(chunk) = input.next_records(&mut count)? {
        let mut batch = Batch::new();
        let mut r = Reader::new(&chunk);
        while !r.is_empty() {
            let read =
                || -> Result<(Revision, Bytes), Malformed> { Ok((r.int()?, chunk.slice_ref(r.bytes()?))) };
            let (revision, bytes) = { read }().map_err(|_| input.damaged())?;
            restore_record(kv, &mut batch, revision, &bytes)?;
        }
        kv.load(&batch)?;
    }
    // Last: a map without it counts as empty, so a crash on the way starts over.
    let mut batch = Batch::from([(META.to_vec(), Some(head.meta.encode().into()))]);
    if let Some(members) = &head.members {
        batch.insert(MEMBERS.to_vec(), Some(members.encode().into()));
    }
    kv.apply(&batch)?;
    kv.hand_on(true)?;
    Ok(head.meta)
}

/// Writes the records of one as the snapshot of another store. The file's size.
pub fn copy(
    from: &mut Input,
    fs: &dyn Fs,
    store_id: u64,
    meta: &Meta,
    members: &Members,
) -> Result<u64, StoreError> {
    let failed = |e| unwritten(fs, &e);
    let (part, mut out) = begin(fs, store_id, meta, members).map_err(failed)?;
    let mut count = 0u64;
    while let Some(chunk) = from.next_records(&mut count)? {
        out.chunk.extend_from_slice(&chunk);
        out.flush().map_err(failed)?;
    }
    end(fs, &part, meta.index, out, count).map_err(failed)
}

/// A snapshot of another member while it comes in.
pub struct Incoming {
    fs: Arc<dyn Fs>,
    file: Box<dyn File>,
    index: u64,
    offset: u64,
}

impl Incoming {
    /// Goes on where an earlier attempt was broken off, if there was one; [`Incoming::offset`] says where.
    pub fn open(fs: Arc<dyn Fs>, index: u64) -> Result<Incoming, StoreError> {
        let failed =
            |e: io::Error| StoreError::Unavailable(format!("receiving a snapshot in {}: {e}", fs.describe()));
        let part = part_name(index);
        let mut there = false;
        for file in fs.list().map_err(failed)? {
            there |= file == part;
            // Of others nothing more will come.
            if file.ends_with(".recv.part") && file != part {
                fs.remove(&file).map_err(failed)?;
            }
        }
        let file = if there { fs.open(&part) } else { fs.create(&part, 0) }.map_err(failed)?;
        let offset = file.len().map_err(failed)?;
        Ok(Incoming { fs, file, index, offset })
    }

    /// Bytes that are there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    pub fn write(&mut self, data: &[u8]) -> Result<(), StoreError> {
        let written = self.file.write_at(self.offset, data);
        written.map_err(|e| StoreError::Unavailable(format!("receiving a snapshot: {e}")))?;
        self.offset += data.len() as u64;
        Ok(())
    }

    /// Checks the whole and makes it durable.
    pub fn finish(self, store_id: u64) -> Result<(), StoreError> {
        let failed = |e: io::Error| {
            StoreError::Unavailable(format!("receiving a snapshot in {}: {e}", self.fs.describe()))
        };
        let part = part_name(self.index);
        self.file.sync().map_err(failed)?;
        if let Err(e) = check(&*self.fs, &part, self.index, store_id) {
            // The next attempt begins anew.
            self.fs.remove(&part).map_err(failed)?;
            return Err(e);
        }
        self.fs.rename(&part, &received_name(self.index)).map_err(failed)?;
        self.fs.sync_dir().map_err(failed)
    }
}

/// Reads a whole file, for its checksums.
fn check(fs: &dyn Fs, name: &str, index: u64, store_id: u64) -> Result<(), StoreError> {
    let (mut input, head) = Input::of_store(fs, name, store_id)?;
    if head.meta.index != index {
        return Err(input.damaged());
    }
    let mut count = 0;
    while input.next_records(&mut count)?.is_some() {}
    Ok(())
}

/// Whether the snapshot of `index` has been received.
pub fn has_received(fs: &dyn Fs, index: u64) -> bool {
    fs.list().is_ok_and(|names| names.contains(&received_name(index)))
}

/// The received snapshot becomes this member's own.
pub fn adopt(fs: &dyn Fs, index: u64) -> Result<(), StoreError> {
    let failed =
        |e: io::Error| StoreError::Unavailable(format!("keeping a snapshot in {}: {e}", fs.describe()));
    fs.rename(&received_name(index), &name(index)).map_err(failed)?;
    fs.sync_dir().map_err(failed)?;
    remove_older(fs, index).map_err(failed)
}

/// Ends what a crash interrupted: the received snapshot that the log begins after is adopted, others are removed.
pub fn recover_received(fs: &dyn Fs, base: u64) -> Result<bool, StoreError> {
    let failed = |e: io::Error| StoreError::Unavailable(format!("reading {}: {e}", fs.describe()));
    let names = fs.list().map_err(failed)?;
    let adopted = names.contains(&received_name(base));
    if adopted {
        adopt(fs, base)?;
    }
    for old in names.iter().filter(|n| n.ends_with(".recv") && **n != received_name(base)) {
        fs.remove(old).map_err(failed)?;
    }
    Ok(adopted)
}

/// Reads a snapshot file to be sent to another member.
pub struct Outgoing {
    file: Box<dyn File>,
    size: u64,
}

impl Outgoing {
    pub fn open(fs: &dyn Fs, index: u64) -> Result<Outgoing, StoreError> {
        let failed = |e: io::Error| StoreError::Unavailable(format!("reading snapshot {}: {e}", name(index)));
        let file = fs.open(&name(index)).map_err(failed)?;
        let size = file.len().map_err(failed)?;
        Ok(Outgoing { file, size })
    }

    /// The next piece; empty at the end.
    pub fn read(&self, offset: u64, length: usize) -> Result<Vec<u8>, StoreError> {
        let left = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; length.min(left)];
        let read = self.file.read_at(offset, &mut piece);
        let n = read.map_err(|e| StoreError::Unavailable(format!("reading a snapshot: {e}")))?;
        piece.truncate(n);
        Ok(piece)
    }
}

pub fn restore_record(
    kv: &dyn Kv,
    batch: &mut Batch,
    revision: Revision,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let record = Record::decode(bytes)?;
    let key = head_key(&record.key);
    let before = match batch.get(&key) {
        Some(value) => value.clone(),
        // The first of its key: there is nothing to look for.
        None if record.prev == 0 => None,
        None => kv.get(&key)?,
    };
    if let Some(before) = before {
        let before = Head::decode(&before)?;
        if before.expiry > 0 {
            batch.insert(expiry_key(before.expiry, before.modified), None);
        }
    }
    if record.expiry > 0 {
        batch.insert(expiry_key(record.expiry, revision), Some(record.key.clone().into()));
    }
    let head = record.head(revision);
    batch.insert(key, Some(head.encode().into()));
    batch.insert(record_key(revision), Some(bytes.clone()));
    Ok(())
}
