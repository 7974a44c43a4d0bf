//! Frames, the unit of writing and of checking. Eight-byte aligned:
//! magic `CXWL` (4), kind (1), three zero bytes, payload length (4), CRC-32 (4), payload, zero padding.
//! The checksum also covers segment number and offset, so that bytes of another place never pass for a frame here.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, HardState};

use crate::embedded::codec::{Malformed, Reader, put_bytes, put_int};
use crate::embedded::record::FORMAT;

pub const MAGIC: [u8; 4] = *b"CXWL";
pub const HEADER: usize = 16;
pub const BASE: u8 = 1;
pub const BATCH: u8 = 2;
pub const SEAL: u8 = 3;
/// Kinds up to this may be a later release's.
const LAST_KIND: u8 = 15;

/// What the log needs to know about everything before it; first frame of each segment.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Base {
    /// Tells stores apart; made once, at random.
    pub store_id: u64,
    /// Last entry that a durable snapshot holds.
    pub index: u64,
    pub term: u64,
    pub hard_state: HardState,
    /// The members that voted when the group was made.
    pub voters: Vec<u64>,
    /// Everything before is void: a snapshot of another member took its place.
    pub reset: bool,
}

/// A frame's content.
#[derive(Debug, Clone, PartialEq)]
pub enum Frame {
    Base(Base),
    Batch { hard_state: Option<HardState>, entries: Vec<Entry> },
    Seal,
}

/// What stands at an offset.
#[derive(Debug)]
pub enum Scan {
    /// A frame, and where the next begins.
    Frame(Frame, u64),
    /// A frame that is whole, and says what this release does not know; its format, where that is known.
    Foreign(Option<u64>),
    /// Nothing was ever written here.
    End,
    Bad,
}

/// A frame whose checksum holds.
pub enum Opened {
    Frame(Frame),
    Foreign(Option<u64>),
}

/// Bytes a payload of this length takes as a frame.
pub fn framed(payload: usize) -> u64 {
    (HEADER as u64 + payload as u64).next_multiple_of(8)
}

fn checksum(sequence: u64, offset: u64, kind: u8, payload: &[u8]) -> u32 {
    let mut h = crc32fast::Hasher::new();
    h.update(&sequence.to_le_bytes());
    h.update(&offset.to_le_bytes());
    h.update(&[kind]);
    h.update(payload);
    h.finalize()
}

/// Turns a payload into its frame, in place.
pub fn seal_frame(sequence: u64, offset: u64, kind: u8, payload: &mut Vec<u8>) {
    let n = payload.len();
    let crc = checksum(sequence, offset, kind, payload);
    payload.resize(framed(n) as usize, 0);
    payload.copy_within(0..n, HEADER);
    payload[..4].copy_from_slice(&MAGIC);
    payload[4] = kind;
    payload[5..8].fill(0);
    payload[8..12].copy_from_slice(&(n as u32).to_le_bytes());
    payload[12..16].copy_from_slice(&crc.to_le_bytes());
    payload[HEADER + n..].fill(0);
}

/// A header's kind, payload length and checksum, if it can be one.
pub fn parse_header(header: &[u8; HEADER]) -> Option<(u8, u32, u32)> {
    if header[..4] != MAGIC || header[5..8] != [0; 3] || !(BASE..=LAST_KIND).contains(&header[4]) {
        return None;
    }
    let word = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    Some((header[4], word(8), word(12)))
}

/// The content, if the checksum holds. What was written so, and cannot be read, is no damage.
pub fn open_frame(sequence: u64, offset: u64, kind: u8, crc: u32, payload: Bytes) -> Option<Opened> {
    if checksum(sequence, offset, kind, &payload) != crc {
        return None;
    }
    let known = match kind {
        BASE => match Reader::new(&payload).int() {
            Ok(FORMAT) => Base::decode(&payload).map(Frame::Base),
            format => return Some(Opened::Foreign(format.ok())),
        },
        BATCH => decode_batch(&payload),
        SEAL => Ok(Frame::Seal),
        _ => Err(Malformed),
    };
    Some(known.map_or(Opened::Foreign(None), Opened::Frame))
}

fn put_hard_state(out: &mut Vec<u8>, hs: &HardState) {
    for v in [hs.term, hs.vote, hs.commit] {
        put_int(out, v);
    }
}

fn get_hard_state(r: &mut Reader<'_>) -> Result<HardState, Malformed> {
    Ok(HardState { term: r.int()?, vote: r.int()?, commit: r.int()?, ..HardState::default() })
}

impl Base {
    pub fn encode(&self, out: &mut Vec<u8>) {
        for v in [FORMAT, self.store_id, self.index, self.term] {
            put_int(out, v);
        }
        put_hard_state(out, &self.hard_state);
        put_int(out, self.voters.len() as u64);
        for v in &self.voters {
            put_int(out, *v);
        }
        // Releases before this existed read no further.
        if self.reset {
            out.push(1);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Base, Malformed> {
        let mut r = Reader::new(bytes);
        if r.int()? != FORMAT {
            return Err(Malformed);
        }
        let (store_id, index, term) = (r.int()?, r.int()?, r.int()?);
        let hard_state = get_hard_state(&mut r)?;
        let n = r.int()?;
        let voters = (0..n).map(|_| r.int()).collect::<Result<_, _>>()?;
        let reset = !r.is_empty() && r.byte()? != 0;
        Ok(Base { store_id, index, term, hard_state, voters, reset })
    }
}

/// Payload of a batch.
pub fn encode_batch(out: &mut Vec<u8>, hard_state: Option<&HardState>, entries: &[Entry]) {
    out.reserve(entries.iter().map(|e| e.data.len() + e.context.len() + 32).sum::<usize>() + 64);
    match hard_state {
        Some(hs) => {
            out.push(1);
            put_hard_state(out, hs);
        }
        None => out.push(0),
    }
    put_int(out, entries.len() as u64);
    for e in entries {
        out.push(e.entry_type as u8);
        put_int(out, e.term);
        put_int(out, e.index);
        put_bytes(out, &e.context);
        put_bytes(out, &e.data);
    }
}

fn decode_batch(bytes: &Bytes) -> Result<Frame, Malformed> {
    let mut r = Reader::new(bytes);
    let hard_state = match r.byte()? {
        0 => None,
        1 => Some(get_hard_state(&mut r)?),
        _ => return Err(Malformed),
    };
    let n = r.int()?;
    let mut entries = Vec::new();
    for _ in 0..n {
        let entry_type = match r.byte()? {
            0 => EntryType::EntryNormal,
            1 => EntryType::EntryConfChange,
            2 => EntryType::EntryConfChangeV2,
            _ => return Err(Malformed),
        };
        let (term, index) = (r.int()?, r.int()?);
        let (context, data) = (bytes.slice_ref(r.bytes()?), bytes.slice_ref(r.bytes()?));
        entries.push(Entry { entry_type, term, index, context, data, ..Entry::default() });
    }
    Ok(Frame::Batch { hard_state, entries })
}
