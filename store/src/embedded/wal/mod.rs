//! The write-ahead log: raft's entries and hard state, in preallocated segment files, synced before anything is
//! acknowledged.
//!
//! Each call of [`Wal::append`] writes one frame and syncs it. So at most the very last frame of the log can be
//! unsynced when the machine stops: a frame that does not check out is the torn end of the log if nothing valid
//! follows it, and damage of acknowledged data if something does. The first is cut off, the second refused.
//!
//! A segment begins with the state needed to do without all earlier ones ([`Base`]), and ends with a seal. Segments
//! are removed only behind a durable snapshot.

mod frame;
mod segment;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;

use raft::eraftpb::{Entry, HardState};

use self::frame::{Frame, Scan};
use self::segment::Segment;
use super::fs::Fs;
use super::record::foreign;
use super::space::is_full;
use crate::StoreError;

pub use self::frame::Base;

/// Bytes of a segment, unless one frame needs more.
pub const SEGMENT_BYTES: u64 = 8 << 20;

/// Entries are found by scanning from the nearest noted frame; one is noted this often.
const NOTE_EVERY: u64 = 256 << 10;

/// The log.
pub struct Wal {
    fs: Arc<dyn Fs>,
    segment_bytes: u64,
    segments: VecDeque<Segment>,
    base: Base,
    last_index: u64,
    /// The first entry in the files; none before any is seen.
    floor: Option<u64>,
    /// First index of each term since the base, ascending.
    terms: VecDeque<(u64, u64)>,
    buffer: Vec<u8>,
    /// Bytes of batches written since this was opened.
    written: u64,
    /// Called where the disk is full, before the next attempt; false gives up.
    patience: Box<dyn Fn() -> bool + Send>,
    /// After a failed write nothing is known about the file's end; no further write may be acknowledged.
    broken: Option<String>,
}

fn failed(fs: &dyn Fs, doing: &str, e: &std::io::Error) -> StoreError {
    StoreError::Unavailable(format!("{doing} the write-ahead log in {}: {e}", fs.describe()))
}

impl Wal {
    /// Opens the log, making one that begins with `initial` if there is none. Reads and checks all of it.
    pub fn open(fs: Arc<dyn Fs>, segment_bytes: u64, initial: Base) -> Result<Wal, StoreError> {
        let mut wal = Wal {
            fs,
            segment_bytes,
            segments: VecDeque::new(),
            last_index: initial.index,
            base: initial,
            floor: None,
            terms: VecDeque::new(),
            buffer: Vec::new(),
            written: 0,
            patience: Box::new(|| false),
            broken: None,
        };
        let names = wal.fs.list().map_err(|e| failed(&*wal.fs, "listing", &e))?;
        let mut sequences: Vec<u64> = names.iter().filter_map(|n| Segment::sequence_of(n)).collect();
        sequences.sort_unstable();
        for (i, sequence) in sequences.iter().enumerate() {
            let last = i + 1 == sequences.len();
            wal.recover(*sequence, last)?;
        }
        if wal.segments.is_empty() {
            wal.rotate()?;
        }
        if let Some(floor) = wal.floor.filter(|f| *f > wal.base.index + 1) {
            return Err(StoreError::Corrupt(format!(
                "the write-ahead log in {} begins at entry {floor}, but should at {}: files are missing; restore this \
                 member from a backup or replace it",
                wal.fs.describe(),
                wal.base.index + 1
            )));
        }
        Ok(wal)
    }

    /// Reads one segment into the state.
    fn recover(&mut self, sequence: u64, last: bool) -> Result<(), StoreError> {
        let fs = Arc::clone(&self.fs);
        let place = |offset: u64| {
            format!("segment {} of {} at byte {offset}", Segment::name(sequence), fs.describe())
        };
        let refuse = |offset: u64, what: &str| {
            StoreError::Corrupt(format!(
                "the write-ahead log is damaged: {}: {what}; acknowledged writes would be lost, so the store does not \
                 start: restore this member from a backup or replace it",
                place(offset)
            ))
        };
        if self.segments.back().is_some_and(|s| s.sequence + 1 != sequence) {
            return Err(refuse(0, "the segment before it is missing"));
        }
        let mut segment = Segment::open(&*self.fs, sequence).map_err(|e| failed(&*self.fs, "opening", &e))?;
        let mut note = 0;
        loop {
            let offset = segment.end;
            match segment.read(offset).map_err(|e| failed(&*self.fs, "reading", &e))? {
                Scan::Frame(frame, next) => {
                    if offset == 0 && !matches!(frame, Frame::Base(_)) {
                        return Err(refuse(offset, "it does not begin with its base"));
                    }
                    match frame {
                        Frame::Base(base) => self.found_base(base).map_err(|what| refuse(offset, &what))?,
                        Frame::Seal => segment.sealed = true,
                        Frame::Batch { hard_state, entries } => {
                            if !entries.is_empty() && (segment.notes.is_empty() || offset >= note) {
                                segment.note(entries.first().map(|e| e.index), offset);
                                note = offset + NOTE_EVERY;
                            }
                            self.found_batch(hard_state, &entries).map_err(|what| refuse(offset, &what))?;
                        }
                    }
                    segment.end = next;
                    if segment.sealed {
                        break;
                    }
                }
                Scan::Foreign(format) => return Err(foreign(&place(offset), format)),
                Scan::End | Scan::Bad if !last => return Err(refuse(offset, "it ends before its seal")),
                Scan::End => break,
                Scan::Bad => {
                    if let Some(later) =
                        segment.valid_after(offset).map_err(|e| failed(&*self.fs, "reading", &e))?
                    {
                        return Err(refuse(
                            offset,
                            &format!("a record is unreadable but a later one, at {later}, is not"),
                        ));
                    }
                    if offset > 0 {
                        tracing::warn!(at = %place(offset), "cut a torn write, never acknowledged, off the log's end");
                        let size = segment.size;
                        segment
                            .file
                            .reset_tail(offset, size)
                            .map_err(|e| failed(&*self.fs, "repairing", &e))?;
                    }
                    break;
                }
            }
        }
        if segment.end == 0 {
            // The crash came while the segment was being made; nothing was ever in it.
            drop(segment);
            self.fs.remove(&Segment::name(sequence)).map_err(|e| failed(&*self.fs, "repairing", &e))?;
            if self.segments.back().is_some_and(|s| s.sealed) {
                self.rotate()?;
            }
            return Ok(());
        }
        if last {
            // A process that was killed may have written this without syncing it. From here on it is relied upon.
            let synced = segment.file.sync().and_then(|()| self.fs.sync_dir());
            synced.map_err(|e| failed(&*self.fs, "syncing", &e))?;
        }
        let sealed_last = last && segment.sealed;
        self.segments.push_back(segment);
        if sealed_last { self.rotate() } else { Ok(()) }
    }

    fn found_base(&mut self, base: Base) -> Result<(), String> {
        if self.segments.is_empty() {
            self.last_index = base.index;
        } else if base.store_id != self.base.store_id {
            return Err("it belongs to another store".to_owned());
        }
        if base.reset || base.index > self.last_index {
            // What is in earlier segments does not count: a snapshot of another member took its place, or the machine
            // stopped while they were being removed and those with the entries up to the base went first.
            self.last_index = base.index;
            self.floor = None;
            self.terms.clear();
            for segment in &mut self.segments {
                segment.notes.clear();
            }
        }
        // The flag is of this segment; the next one's base is an ordinary one.
        self.base = Base { reset: false, ..base };
        Ok(())
    }

    fn found_batch(&mut self, hard_state: Option<HardState>, entries: &[Entry]) -> Result<(), String> {
        if let Some(hs) = hard_state {
            self.base.hard_state = hs;
        }
        self.take_entries(entries)
    }

    /// Notes new entries' indexes and terms.
    fn take_entries(&mut self, entries: &[Entry]) -> Result<(), String> {
        for e in entries {
            if self.floor.is_none() {
                // The first segment kept begins before the base noted in a later one.
                self.floor = Some(e.index);
                self.last_index = e.index.saturating_sub(1);
            }
            if e.index > self.last_index + 1 || e.index == 0 {
                return Err(format!("entry {} follows entry {}", e.index, self.last_index));
            }
            if e.index <= self.last_index {
                // A new leader's entries replace those that were never committed.
                self.terms.retain(|(first, _)| *first < e.index);
            }
            if self.terms.back().is_none_or(|(_, term)| *term != e.term) {
                self.terms.push_back((e.index, e.term));
            }
            self.last_index = e.index;
        }
        Ok(())
    }

    /// As if term and vote had never been written by themselves, for tests that must notice.
    #[cfg(test)]
    pub fn forget_vote(&mut self) {
        self.base.hard_state.vote = 0;
        self.base.hard_state.term = self.terms.back().map_or(self.base.term, |(_, term)| *term);
    }

    /// From here on a full disk is waited for, as long as `patience` says so; it should take its time. A segment is
    /// reserved as a whole before anything is written to it, so nothing is half done meanwhile.
    pub fn wait_for_room(&mut self, patience: Box<dyn Fn() -> bool + Send>) {
        self.patience = patience;
    }

    /// State of the log as a whole.
    pub fn base(&self) -> &Base {
        &self.base
    }

    pub fn last_index(&self) -> u64 {
        self.last_index
    }

    /// The first entry that can be read.
    pub fn first_index(&self) -> u64 {
        self.base.index + 1
    }

    /// Term of an entry from the base on.
    pub fn term(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        if index < self.base.index || index > self.last_index {
            return None;
        }
        self.terms.iter().rev().find(|(first, _)| *first <= index).map(|(_, term)| *term)
    }

    /// Bytes of the log that a restart without applied state would read.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.end).sum()
    }

    /// Bytes written since it was opened.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn check(&self) -> Result<(), StoreError> {
        match &self.broken {
            Some(why) => Err(StoreError::Unavailable(why.clone())),
            None => Ok(()),
        }
    }

    /// Makes entries and hard state durable: when this returns, they survive a power cut.
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), StoreError> {
        self.check()?;
        let result = self.try_append(hard_state, entries);
        if let Err(e) = &result {
            self.broken =
                Some(format!("{e}; writes are refused until the cause is removed and the server restarted"));
        }
        result
    }

    fn try_append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), StoreError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        frame::encode_batch(&mut buffer, hard_state, entries);
        let needed = frame::framed(buffer.len()) + frame::framed(0);
        if self.segments.back().is_none_or(|s| s.end + needed > s.size) {
            self.rotate_for(needed)?;
        }
        let fs = Arc::clone(&self.fs);
        let Some(segment) = self.segments.back_mut() else {
            return Err(StoreError::Unavailable("the write-ahead log has no segment".to_owned()));
        };
        let offset = segment.end;
        segment.write(frame::BATCH, &mut buffer).map_err(|e| failed(&*fs, "writing", &e))?;
        self.written += segment.end - offset;
        segment.file.sync().map_err(|e| failed(&*fs, "syncing", &e))?;
        if segment.notes.back().is_none_or(|(_, at)| offset >= at + NOTE_EVERY) {
            segment.note(entries.first().map(|e| e.index), offset);
        }
        if let Some(hs) = hard_state {
            self.base.hard_state = hs.clone();
        }
        // Large batches are rare; their memory is not kept.
        if buffer.capacity() <= 256 << 10 {
            self.buffer = buffer;
        }
        self.take_entries(entries).map_err(StoreError::Corrupt)
    }

    fn rotate(&mut self) -> Result<(), StoreError> {
        self.rotate_for(0)
    }

    /// Seals the last segment and begins the next.
    fn rotate_for(&mut self, needed: u64) -> Result<(), StoreError> {
        let fs = Arc::clone(&self.fs);
        let mut sequence = 1;
        if let Some(last) = self.segments.back_mut() {
            sequence = last.sequence + 1;
            if !last.sealed {
                last.write(frame::SEAL, &mut Vec::new()).map_err(|e| failed(&*fs, "writing", &e))?;
                last.file.sync().map_err(|e| failed(&*fs, "syncing", &e))?;
                last.sealed = true;
            }
        }
        let mut payload = Vec::new();
        self.base.encode(&mut payload);
        let size = self.segment_bytes.max(needed + frame::framed(payload.len()) + frame::framed(0));
        let mut segment = loop {
            match Segment::create(&*fs, sequence, size) {
                Ok(segment) => break segment,
                Err(e) if is_full(&e) && (self.patience)() => {}
                Err(e) => return Err(failed(&*fs, "extending", &e)),
            }
        };
        segment.write(frame::BASE, &mut payload).map_err(|e| failed(&*fs, "writing", &e))?;
        segment.file.sync().map_err(|e| failed(&*fs, "syncing", &e))?;
        fs.sync_dir().map_err(|e| failed(&*fs, "syncing", &e))?;
        self.segments.push_back(segment);
        Ok(())
    }

    /// Reads entries `[low, high)`, at least one, stopping before `max_bytes` of data are together.
    pub fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StoreError> {
        let mut found: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        let start =
            self.segments.iter().rposition(|s| s.first_noted().is_some_and(|i| i <= low)).unwrap_or(0);
        'segments: for segment in self.segments.iter().skip(start) {
            let mut offset = segment.nearest(low);
            while offset < segment.end {
                let scan = segment.read(offset).map_err(|e| failed(&*self.fs, "reading", &e))?;
                let Scan::Frame(frame, next) = scan else {
                    return Err(StoreError::Corrupt(format!(
                        "the write-ahead log changed underneath: {} of {} at byte {offset} is unreadable",
                        Segment::name(segment.sequence),
                        self.fs.describe()
                    )));
                };
                offset = next;
                let Frame::Batch { entries, .. } = frame else { continue };
                for e in entries {
                    let expected = low + found.len() as u64;
                    if e.index < low || e.index > expected {
                        continue;
                    }
                    // A replaced entry: so are all after it.
                    let dropped = found.split_off((e.index - low) as usize);
                    bytes -= dropped.iter().map(|e| e.data.len() as u64).sum::<u64>();
                    if e.index >= high {
                        continue;
                    }
                    bytes += e.data.len() as u64;
                    let enough = bytes > max_bytes && !found.is_empty();
                    found.push(e);
                    // Later frames could replace what was found only above the commit index, which no reader that
                    // sets a limit asks for.
                    if enough {
                        found.pop();
                        break 'segments;
                    }
                }
            }
        }
        Ok(found)
    }

    /// Forgets entries up to `index`, which a durable snapshot holds. Whole segments are removed.
    pub fn truncate_front(&mut self, index: u64, term: u64) -> Result<(), StoreError> {
        self.check()?;
        if index <= self.base.index {
            return Ok(());
        }
        let voters = std::mem::take(&mut self.base.voters);
        self.base = Base { index, term, voters, ..self.base.clone() };
        let result = self.remove_front();
        if let Err(e) = &result {
            self.broken = Some(e.to_string());
        }
        result
    }

    /// Forgets everything: the next entry is the one after `index`, which a durable snapshot of another member holds.
    pub fn reset(&mut self, hard_state: Option<&HardState>, index: u64, term: u64) -> Result<(), StoreError> {
        self.check()?;
        let hard_state = hard_state.unwrap_or(&self.base.hard_state).clone();
        let voters = std::mem::take(&mut self.base.voters);
        self.base = Base { index, term, hard_state, voters, store_id: self.base.store_id, reset: true };
        self.last_index = index;
        self.floor = None;
        self.terms.clear();
        let result = self.keep_newest_only();
        self.base.reset = false;
        if let Err(e) = &result {
            self.broken = Some(e.to_string());
        }
        result
    }

    fn keep_newest_only(&mut self) -> Result<(), StoreError> {
        self.rotate()?;
        while self.segments.len() > 1 {
            let Some(old) = self.segments.pop_front() else { break };
            let name = Segment::name(old.sequence);
            drop(old);
            self.fs.remove(&name).map_err(|e| failed(&*self.fs, "truncating", &e))?;
        }
        self.fs.sync_dir().map_err(|e| failed(&*self.fs, "syncing", &e))
    }

    fn remove_front(&mut self) -> Result<(), StoreError> {
        let index = self.base.index;
        // The base is durable once a segment begins with it; only then may older ones go.
        self.rotate()?;
        while self.segments.len() > 1 {
            // The first noted entry of a later segment bounds what the one before can hold.
            let next_first =
                self.segments.iter().skip(1).find_map(Segment::first_noted).unwrap_or(self.last_index + 1);
            if next_first > index + 1 {
                break;
            }
            let Some(old) = self.segments.pop_front() else { break };
            let name = Segment::name(old.sequence);
            drop(old);
            self.fs.remove(&name).map_err(|e| failed(&*self.fs, "truncating", &e))?;
        }
        self.fs.sync_dir().map_err(|e| failed(&*self.fs, "syncing", &e))?;
        while self.terms.len() > 1 && self.terms.get(1).is_some_and(|(first, _)| *first <= index) {
            self.terms.pop_front();
        }
        Ok(())
    }
}
