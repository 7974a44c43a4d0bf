//! Layout of the applied state, one ordered map with five kinds of key, told apart by their first byte:
//!
//! | key | value |
//! | --- | --- |
//! | `k` + key | [`Head`]: the newest revision of the key, and where its history begins |
//! | `v` + revision | [`Record`]: what that revision did; the records of one key are chained by `prev` |
//! | `t` + expiry + revision | key that expires then, if still at that revision |
//! | `m` | [`Meta`]: applied index, revision, fences, digest |
//! | `c` | [`super::members::Members`]: who belongs to the group |

use bytes::Bytes;

use super::codec::{Malformed, Reader, put_bytes, put_int};
use crate::{Revision, StoreError};

/// Version of this layout, of the log's and of the snapshot's. It grows when an earlier release could not read what is
/// written; the minor release before reads the new one already, so that each can follow the other. What is added at the
/// end of a record is no new version: it is not looked at by those who do not know it.
pub const FORMAT: u64 = 1;

/// What is said of something whose layout this release does not know. Nothing was changed.
pub fn foreign(what: &str, format: Option<u64>) -> StoreError {
    let which = format.map_or(String::new(), |f| format!("has format {f}, "));
    StoreError::Corrupt(format!(
        "{what} {which}is not of this release, which knows format {FORMAT}: it was left as it is; start the release that \
         wrote it, or restore a snapshot from before"
    ))
}

/// Key of [`Meta`].
pub const META: &[u8] = b"m";

pub fn head_key(key: &str) -> Vec<u8> {
    let mut k = Vec::with_capacity(key.len() + 1);
    k.push(b'k');
    k.extend_from_slice(key.as_bytes());
    k
}

pub fn record_key(revision: Revision) -> Vec<u8> {
    let mut k = Vec::with_capacity(9);
    k.push(b'v');
    k.extend_from_slice(&revision.to_be_bytes());
    k
}

pub fn expiry_key(expiry: u64, revision: Revision) -> Vec<u8> {
    let mut k = Vec::with_capacity(17);
    k.push(b't');
    k.extend_from_slice(&expiry.to_be_bytes());
    k.extend_from_slice(&revision.to_be_bytes());
    k
}

/// Revision in a [`record_key`].
pub fn record_revision(key: &[u8]) -> Result<Revision, StoreError> {
    key.get(1..9)
        .and_then(|b| b.try_into().ok())
        .map(u64::from_be_bytes)
        .ok_or_else(|| corrupt("a history key"))
}

/// Expiry and revision in an [`expiry_key`].
pub fn expiry_parts(key: &[u8]) -> Result<(u64, Revision), StoreError> {
    let part = |range: std::ops::Range<usize>| {
        key.get(range)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_be_bytes)
            .ok_or_else(|| corrupt("an expiry key"))
    };
    Ok((part(1..9)?, part(9..17)?))
}

/// Of [`corrupt`], where a head names a revision that is not there.
pub const NO_RECORD: &str = "the newest record of a key";

pub fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "the applied state is damaged: {what} cannot be read; restore the data directory"
    ))
}

/// Where a key stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Head {
    pub modified: Revision,
    /// Zero: the key was deleted at `modified`, and the head stays until that is compacted.
    pub created: Revision,
    /// The revision before `modified`; zero for none.
    pub prev: Revision,
    /// Unix seconds; zero for never.
    pub expiry: u64,
}

impl Head {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(16);
        for v in [self.modified, self.created, self.prev, self.expiry] {
            put_int(&mut out, v);
        }
        out
    }

    pub fn decode(bytes: &[u8]) -> Result<Head, StoreError> {
        let mut r = Reader::new(bytes);
        let mut int = || r.int().map_err(|_| corrupt("the head of a key"));
        Ok(Head { modified: int()?, created: int()?, prev: int()?, expiry: int()? })
    }
}

/// What one revision did to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    pub key: String,
    pub value: Bytes,
    /// Zero: a deletion.
    pub created: Revision,
    pub prev: Revision,
    pub expiry: u64,
}

impl Record {
    pub fn deleted(&self) -> bool {
        self.created == 0
    }

    /// The head of its key where this is the newest record, of `modified`.
    pub fn head(&self, modified: Revision) -> Head {
        Head { modified, created: self.created, prev: self.prev, expiry: self.expiry }
    }

    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.key.len() + self.value.len() + 32);
        for v in [self.created, self.prev, self.expiry] {
            put_int(&mut out, v);
        }
        put_bytes(&mut out, self.key.as_bytes());
        out.extend_from_slice(&self.value);
        out
    }

    pub fn decode(bytes: &Bytes) -> Result<Record, StoreError> {
        let read = || -> Result<Record, Malformed> {
            let mut r = Reader::new(bytes);
            let (created, prev, expiry) = (r.int()?, r.int()?, r.int()?);
            let key = r.str()?.to_owned();
            Ok(Record { key, value: bytes.slice_ref(r.rest()), created, prev, expiry })
        };
        read().map_err(|_| corrupt("a history record"))
    }
}

/// State of the whole store, written with every batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Meta {
    /// Raft index and term of the last entry inside.
    pub index: u64,
    pub term: u64,
    pub revision: Revision,
    /// Reads below this are refused.
    pub compacted: Revision,
    /// Up to here history that nobody can read has been removed.
    pub scrubbed: Revision,
    /// Digest of everything that was ever written, in order: the same on all members at the same entry.
    pub chain: u64,
}

impl Meta {
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(40);
        for v in [FORMAT, self.index, self.term, self.revision, self.compacted, self.scrubbed, self.chain] {
            put_int(&mut out, v);
        }
        out
    }

    /// Adds what a revision did to the digest. Where the key's history begins is left out: members forget at their own
    /// pace.
    pub fn extend_chain(&mut self, revision: Revision, record: &Record) {
        let mut h = crc32fast::Hasher::new();
        for v in [revision, record.created, record.expiry] {
            h.update(&v.to_le_bytes());
        }
        h.update(record.key.as_bytes());
        h.update(&[0]);
        h.update(&record.value);
        self.chain =
            (self.chain.rotate_left(29) ^ u64::from(h.finalize())).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    pub fn decode(bytes: &[u8]) -> Result<Meta, StoreError> {
        let mut r = Reader::new(bytes);
        let mut int = || r.int().map_err(|_| corrupt("the store's state record"));
        let format = int()?;
        if format != FORMAT {
            return Err(foreign("the applied state", Some(format)));
        }
        let meta = Meta {
            index: int()?,
            term: int()?,
            revision: int()?,
            compacted: int()?,
            scrubbed: int()?,
            chain: 0,
        };
        // Stores of before it was kept begin with zero.
        Ok(Meta {
            chain: if r.is_empty() { 0 } else { r.int().map_err(|_| corrupt("the store's digest"))? },
            ..meta
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layouts_come_back() {
        let head = Head { modified: 300, created: 1, prev: 299, expiry: 1_700_000_000 };
        assert_eq!(Head::decode(&head.encode()).unwrap(), head);
        let record = Record {
            key: "/registry/x".into(),
            value: Bytes::from_static(b"v"),
            created: 3,
            prev: 2,
            expiry: 0,
        };
        assert_eq!(Record::decode(&Bytes::from(record.encode())).unwrap(), record);
        let meta = Meta { index: 9, term: 2, revision: 7, compacted: 3, scrubbed: 1, chain: u64::MAX };
        assert_eq!(Meta::decode(&meta.encode()).unwrap(), meta);
        assert_eq!(record_revision(&record_key(77)).unwrap(), 77);
        assert_eq!(expiry_parts(&expiry_key(5, 6)).unwrap(), (5, 6));
        assert!(record_key(255) < record_key(256));
    }

    #[test]
    fn a_newer_format_is_refused() {
        let mut bytes = Meta::default().encode();
        bytes[0] = FORMAT as u8 + 1;
        assert!(Meta::decode(&bytes).unwrap_err().to_string().contains("start the release that wrote it"));
    }

    #[test]
    fn what_a_later_release_adds_is_not_looked_at() {
        let meta = Meta { index: 9, term: 2, revision: 7, compacted: 3, scrubbed: 1, chain: u64::MAX };
        assert_eq!(Meta::decode(&[meta.encode(), vec![5, 6]].concat()).unwrap(), meta);
    }
}
