//! One file of the log.

use std::collections::VecDeque;
use std::io;

use bytes::Bytes;

use super::frame::{self, HEADER, MAGIC, Opened, Scan};
use crate::embedded::fs::{File, Fs};

/// An open segment.
pub struct Segment {
    pub sequence: u64,
    pub file: Box<dyn File>,
    /// Bytes reserved.
    pub size: u64,
    /// Where the next frame goes.
    pub end: u64,
    pub sealed: bool,
    /// First entry index and offset of some batches, ascending by offset.
    pub notes: VecDeque<(u64, u64)>,
}

impl Segment {
    pub fn name(sequence: u64) -> String {
        format!("{sequence:016x}.wal")
    }

    /// The number of the segment in a file of this name.
    pub fn sequence_of(name: &str) -> Option<u64> {
        u64::from_str_radix(name.strip_suffix(".wal")?, 16).ok().filter(|s| Segment::name(*s) == name)
    }

    pub fn create(fs: &dyn Fs, sequence: u64, size: u64) -> io::Result<Segment> {
        let file = fs.create(&Segment::name(sequence), size)?;
        Ok(Segment { sequence, file, size, end: 0, sealed: false, notes: VecDeque::new() })
    }

    pub fn open(fs: &dyn Fs, sequence: u64) -> io::Result<Segment> {
        let file = fs.open(&Segment::name(sequence))?;
        let size = file.len()?;
        Ok(Segment { sequence, file, size, end: 0, sealed: false, notes: VecDeque::new() })
    }

    /// Writes a frame at the end; the payload's buffer is used up.
    pub fn write(&mut self, kind: u8, payload: &mut Vec<u8>) -> io::Result<()> {
        frame::seal_frame(self.sequence, self.end, kind, payload);
        self.file.write_at(self.end, payload)?;
        self.end += payload.len() as u64;
        Ok(())
    }

    /// What stands at `offset`.
    pub fn read(&self, offset: u64) -> io::Result<Scan> {
        let mut header = [0; HEADER];
        if self.file.read_at(offset, &mut header)? < HEADER {
            return Ok(Scan::End);
        }
        let Some((kind, length, crc)) = frame::parse_header(&header) else {
            let empty = header == [0; HEADER] && self.zero_from(offset)?;
            return Ok(if empty { Scan::End } else { Scan::Bad });
        };
        let next = offset + frame::framed(length as usize);
        if next > self.size {
            return Ok(Scan::Bad);
        }
        let mut payload = vec![0; length as usize];
        if self.file.read_at(offset + HEADER as u64, &mut payload)? < payload.len() {
            return Ok(Scan::Bad);
        }
        Ok(match frame::open_frame(self.sequence, offset, kind, crc, Bytes::from(payload)) {
            Some(Opened::Frame(frame)) => Scan::Frame(frame, next),
            Some(Opened::Foreign(format)) => Scan::Foreign(format),
            None => Scan::Bad,
        })
    }

    /// Calls `each` on the rest of the file, in pieces that overlap by a header less one byte.
    fn pieces(&self, from: u64, each: &mut dyn FnMut(u64, &[u8]) -> io::Result<bool>) -> io::Result<()> {
        let mut piece = vec![0; 64 << 10];
        let mut at = from;
        while at < self.size {
            let n = self.file.read_at(at, &mut piece)?;
            if n == 0 || !each(at, &piece[..n])? || n < piece.len() {
                break;
            }
            at += (n - MAGIC.len()) as u64;
        }
        Ok(())
    }

    fn zero_from(&self, offset: u64) -> io::Result<bool> {
        let mut zero = true;
        self.pieces(offset, &mut |_, piece| {
            zero = piece.iter().all(|b| *b == 0);
            Ok(zero)
        })?;
        Ok(zero)
    }

    /// The offset of a valid frame after `offset`, if there is one.
    pub fn valid_after(&self, offset: u64) -> io::Result<Option<u64>> {
        let mut found = None;
        self.pieces(offset + 1, &mut |at, piece| {
            for i in memchr::memmem::find_iter(piece, &MAGIC) {
                let here = at + i as u64;
                if here.is_multiple_of(8) && matches!(self.read(here)?, Scan::Frame(..) | Scan::Foreign(..)) {
                    found = Some(here);
                    return Ok(false);
                }
            }
            Ok(true)
        })?;
        Ok(found)
    }

    /// Remembers where a batch stands.
    pub fn note(&mut self, first: Option<u64>, offset: u64) {
        if let Some(index) = first {
            self.notes.push_back((index, offset));
        }
    }

    /// Index of the first entry noted.
    pub fn first_noted(&self) -> Option<u64> {
        self.notes.front().map(|(index, _)| *index)
    }

    /// From where to look for an entry.
    pub fn nearest(&self, index: u64) -> u64 {
        self.notes.iter().rev().find(|(first, _)| *first <= index).map_or(0, |(_, offset)| *offset)
    }
}
