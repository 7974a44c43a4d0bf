//! Snapshots: the applied state as one checksummed file, written beside running writes and synced, after which the
//! log before it is dropped. Records are immutable and nothing is removed while a snapshot is being written, so all
//! records up to a revision are that revision's state. Everything else is derived from them on restoring.
//!
//! File: chunks of `length (4) | CRC-32 (4) | payload`. The first payload is the head, the last the number of records;
//! those between hold records.

use std::io;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;

use bytes::Bytes;

use super::applied::Progress;
use super::codec::{Malformed, Reader, put_bytes, put_int};
use super::fs::{File, Fs};
use super::kv::{Batch, Kv};
use super::metrics::Metrics;
use super::node::Message;
use super::record::{FORMAT, Head, META, Meta, Record, expiry_key, head_key, record_key, record_revision};
use super::state::State;
use crate::{Revision, StoreError};

/// Bytes of a chunk's payload.
const CHUNK: usize = 256 << 10;

fn name(index: u64) -> String {
    format!("{index:016x}.snap")
}

fn index_of(file: &str) -> Option<u64> {
    u64::from_str_radix(file.strip_suffix(".snap")?, 16).ok().filter(|i| name(*i) == file)
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
        self.wait();
        self.logged = 0;
        let (fs, meta, state, store_id) = (Arc::clone(&self.fs), *meta, Arc::clone(state), self.store_id);
        let (progress, metrics, node) =
            (Arc::clone(&self.progress), Arc::clone(&self.metrics), self.node.clone());
        let last_size = Arc::clone(&self.last_size);
        let writer = std::thread::Builder::new().name("store-snapshot".to_owned()).stack_size(256 << 10);
        let work = move || match write(&*fs, &*state.kv, store_id, &meta) {
            Ok(size) => {
                tracing::info!(
                    index = meta.index,
                    revision = meta.revision,
                    bytes = size,
                    "wrote a snapshot"
                );
                last_size.store(size, std::sync::atomic::Ordering::Relaxed);
                metrics.snapshots.add(1);
                *progress.snapshot.lock() = Some((meta.index, meta.term));
                // If it is gone, the engine is stopping; the next start truncates.
                let _ = node.send(Message::Wake);
            }
            Err(e) => {
                tracing::error!(error = %e, place = %fs.describe(), "could not write a snapshot; the log grows")
            }
        };
        let spawned = writer.spawn(work);
        self.writer = Some(spawned.map_err(|e| StoreError::Unavailable(format!("starting a thread: {e}")))?);
        Ok(())
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

/// Writes the state as of `meta` and makes it durable. Removes older ones. The file's size.
pub fn write(fs: &dyn Fs, kv: &dyn Kv, store_id: u64, meta: &Meta) -> Result<u64, StoreError> {
    let failed =
        |e: io::Error| StoreError::Unavailable(format!("writing a snapshot in {}: {e}", fs.describe()));
    let part = format!("{}.part", name(meta.index));
    let file = fs.create(&part, 0).map_err(failed)?;
    let mut out = ChunkWriter { file, offset: 0, chunk: Vec::new() };
    for v in [FORMAT, store_id, meta.index, meta.term, meta.revision, meta.compacted, meta.scrubbed] {
        put_int(&mut out.chunk, v);
    }
    out.flush().map_err(failed)?;
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
    out.chunk = count.to_le_bytes().to_vec();
    out.flush().map_err(failed)?;
    out.file.sync().map_err(failed)?;
    fs.rename(&part, &name(meta.index)).map_err(failed)?;
    fs.sync_dir().map_err(failed)?;
    for old in fs.list().map_err(failed)? {
        if old.ends_with(".part") || index_of(&old).is_some_and(|i| i < meta.index) {
            fs.remove(&old).map_err(failed)?;
        }
    }
    Ok(out.offset)
}

/// The newest snapshot's index.
pub fn newest(fs: &dyn Fs) -> Result<Option<u64>, StoreError> {
    let names = fs.list().map_err(|e| StoreError::Unavailable(format!("listing {}: {e}", fs.describe())))?;
    Ok(names.iter().filter_map(|n| index_of(n)).max())
}

struct ChunkReader {
    file: Box<dyn File>,
    offset: u64,
    size: u64,
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
        Ok(Some(Bytes::from(payload)))
    }
}

/// Fills an empty map from the snapshot of `index`.
pub fn restore(fs: &dyn Fs, kv: &dyn Kv, index: u64, store_id: u64) -> Result<Meta, StoreError> {
    let place = format!("snapshot {} in {}", name(index), fs.describe());
    let failed = |e: io::Error| StoreError::Unavailable(format!("reading {place}: {e}"));
    let damaged = || {
        StoreError::Corrupt(format!("{place} is damaged: restore this member from a backup or replace it"))
    };
    let file = fs.open(&name(index)).map_err(failed)?;
    let size = file.len().map_err(failed)?;
    let mut input = ChunkReader { file, offset: 0, size };
    let mut next = || input.next().map_err(failed)?.ok_or_else(damaged);

    let head = next()?;
    let mut r = Reader::new(&head);
    let mut int = || r.int().map_err(|_| damaged());
    if int()? != FORMAT {
        return Err(StoreError::Corrupt(format!(
            "{place} has another format; use the release that wrote it"
        )));
    }
    if int()? != store_id {
        return Err(StoreError::Corrupt(format!("{place} belongs to another store than the log beside it")));
    }
    let meta = Meta { index: int()?, term: int()?, revision: int()?, compacted: int()?, scrubbed: int()? };

    let mut count = 0u64;
    loop {
        let chunk = next()?;
        // A chunk of records is never this short: a record has more bytes than its number.
        if let Ok(total) = <[u8; 8]>::try_from(&chunk[..]) {
            if u64::from_le_bytes(total) != count {
                return Err(damaged());
            }
            break;
        }
        let mut batch = Batch::new();
        let mut r = Reader::new(&chunk);
        while !r.is_empty() {
            let read =
                || -> Result<(Revision, Bytes), Malformed> { Ok((r.int()?, chunk.slice_ref(r.bytes()?))) };
            let (revision, bytes) = { read }().map_err(|_| damaged())?;
            restore_record(kv, &mut batch, revision, &bytes)?;
            count += 1;
        }
        kv.apply(&batch)?;
    }
    // Last: a map without it counts as empty, so a crash on the way starts over.
    kv.apply(&Batch::from([(META.to_vec(), Some(meta.encode()))]))?;
    Ok(meta)
}

fn restore_record(
    kv: &dyn Kv,
    batch: &mut Batch,
    revision: Revision,
    bytes: &Bytes,
) -> Result<(), StoreError> {
    let record = Record::decode(bytes)?;
    let key = head_key(&record.key);
    let before = match batch.get(&key) {
        Some(value) => value.clone().map(Bytes::from),
        None => kv.get(&key)?,
    };
    if let Some(before) = before {
        let before = Head::decode(&before)?;
        if before.expiry > 0 {
            batch.insert(expiry_key(before.expiry, before.modified), None);
        }
    }
    if record.expiry > 0 {
        batch.insert(expiry_key(record.expiry, revision), Some(record.key.clone().into_bytes()));
    }
    let head = Head { modified: revision, created: record.created, prev: record.prev, expiry: record.expiry };
    batch.insert(key, Some(head.encode()));
    batch.insert(record_key(revision), Some(bytes.to_vec()));
    Ok(())
}
