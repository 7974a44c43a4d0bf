//! The layout on disk from release to release. `testdata/format-1` holds what a release of that format has written. This
//! release must read it, and write the same: then the release before reads what this one has written, and each can take
//! the place of the other. A change that alters these files needs another format, which the release before must know.
//!
//! `COXSWAIN_TEST_WRITE_FORMAT=1` writes them; for a new format, never over those of one that was released.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use super::sim::SimFs;
use crate::embedded::apply::Applier;
use crate::embedded::command::{Command, encode};
use crate::embedded::kv::MemKv;
use crate::embedded::members::Members;
use crate::embedded::record::FORMAT;
use crate::embedded::snapshot;
use crate::embedded::state::State;
use crate::embedded::wal::{Base, Wal};
use crate::embedded::{Config, Engine};
use crate::{Op, Store, Txn, TxnResult};

const STORE: u64 = 5;
const SEGMENT: usize = 4096;
/// The entry with which the snapshot ends.
const SNAPSHOT: u64 = 2;
/// Far in the future, in Unix seconds.
const LATER: u64 = 4_000_000_000;

fn put(key: &str, expected: u64, value: &str, expiry: u64) -> Command {
    Command::Put { key: key.to_owned(), expected, value: Bytes::from(value.to_owned()), expiry }
}

/// Every kind of command.
fn entries() -> Vec<Vec<Command>> {
    vec![
        vec![put("/r/a", 0, "first", 0), put("/r/b", 0, "expires", LATER), put("/r/c", 0, "goes", 0)],
        vec![put("/r/a", 1, "second", 0), Command::Delete { key: "/r/c".to_owned(), expected: 3 }],
        vec![put("/r/d", 0, "third", 0), Command::Compact { revision: 2 }],
        vec![Command::Expire { now: 1, limit: 10 }, Command::Check { index: 2, chain: 7 }],
    ]
}

/// What is written for these entries: the log, the snapshot, and the applied state at its end as pairs.
fn written() -> [(&'static str, Vec<u8>); 3] {
    let (log, snapshots, kv) = (SimFs::default(), SimFs::default(), MemKv::default());
    let base = Base { store_id: STORE, voters: vec![1], ..Base::default() };
    let mut wal = Wal::open(Arc::new(log.clone()), SEGMENT as u64, base).unwrap();
    let (state, meta) = State::load(Arc::new(kv.clone())).unwrap();
    let mut applier = Applier::new(state, meta);
    let members = Members::of_voters(&[1]);
    applier.members(&members);
    for (commands, index) in entries().into_iter().zip(1..) {
        let hard_state = HardState { term: 2, vote: 1, commit: index - 1, ..HardState::default() };
        let data = Bytes::from(encode(&commands));
        wal.append(Some(&hard_state), &[Entry { index, term: 2, data, ..Entry::default() }]).unwrap();
        applier.entry(index, 2, commands).unwrap();
        applier.commit().unwrap();
        if index == SNAPSHOT {
            snapshot::write(&snapshots, &kv, STORE, &applier.meta(), &members).unwrap();
        }
    }
    let mut log = log.content("0000000000000001.wal");
    // The rest of the segment is reserved, and empty.
    log.truncate(log.iter().rposition(|b| *b != 0).unwrap() + 1);
    let snapshot = snapshots.content(&snapshot::name(SNAPSHOT));
    let mut pairs = Vec::new();
    for (key, value) in kv.0.lock().iter() {
        for part in [&key[..], &value[..]] {
            pairs.extend_from_slice(&(part.len() as u32).to_le_bytes());
            pairs.extend_from_slice(part);
        }
    }
    [("log", log), ("snapshot", snapshot), ("applied", pairs)]
}

fn file(format: u64, name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("testdata/format-{format}/{name}"))
}

fn kept(format: u64, name: &str) -> Vec<u8> {
    let path = file(format, name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A data directory as a release of that format leaves it when it is killed.
fn directory(format: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    std::fs::create_dir(path("wal")).unwrap();
    std::fs::create_dir(path("snapshots")).unwrap();
    let mut log = kept(format, "log");
    log.resize(SEGMENT, 0);
    std::fs::write(path("wal/0000000000000001.wal"), log).unwrap();
    std::fs::write(path("snapshots").join(snapshot::name(SNAPSHOT)), kept(format, "snapshot")).unwrap();
    std::fs::write(path("IDENTITY"), format!("{STORE:016x}\n")).unwrap();
    dir
}

fn config(dir: &tempfile::TempDir) -> Config {
    Config { retention_seconds: 0, ..Config::new(dir.path()) }
}

/// An earlier release can read what this one writes.
#[test]
fn what_is_written_is_what_this_format_is() {
    for (name, bytes) in written() {
        if std::env::var_os("COXSWAIN_TEST_WRITE_FORMAT").is_some() {
            std::fs::create_dir_all(file(FORMAT, name).parent().unwrap()).unwrap();
            std::fs::write(file(FORMAT, name), &bytes).unwrap();
        }
        assert!(
            bytes == kept(FORMAT, name),
            "{name} is written otherwise than releases of format {FORMAT} do"
        );
    }
}

/// This release goes on with what an earlier one has left, and with what it has itself made of it.
#[tokio::test]
async fn what_earlier_releases_wrote_is_read() {
    for format in 1..=FORMAT {
        let dir = directory(format);
        for round in 0..2u64 {
            let s = Engine::open(config(&dir)).unwrap();
            let value = async |key, revision| s.get(key, revision).await.unwrap().map(|kv| kv.value);
            assert_eq!(value("/r/a", 0).await.as_deref(), Some(&b"second"[..]));
            assert_eq!(value("/r/a", 3).await.as_deref(), Some(&b"first"[..]), "history");
            assert_eq!(value("/r/b", 0).await.as_deref(), Some(&b"expires"[..]));
            assert_eq!(value("/r/c", 0).await, None);
            assert_eq!(value("/r/d", 0).await.as_deref(), Some(&b"third"[..]));
            assert_eq!((s.current_revision().await.unwrap(), s.oldest_revision()), (6 + round, 2));
            let op = Op::Put { value: Bytes::from_static(b"new"), ttl_seconds: 0 };
            let done = s.txn(Txn { key: format!("/r/new{round}"), expected: 0, op }).await.unwrap();
            assert!(matches!(done, TxnResult::Done(r) if r == 7 + round), "{done:?}");
            s.close().await.unwrap();
        }
    }
}

/// What a later release has written is refused in so many words, by each file that can tell, and is whole afterwards.
#[test]
fn what_later_releases_write_is_refused_and_kept() {
    let later = |place: &str, payload: usize| {
        let dir = directory(FORMAT);
        let path = dir.path().join(place);
        let mut bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes[payload], FORMAT as u8);
        bytes[payload] += 1;
        (dir, path, bytes)
    };
    // The snapshot: length, checksum, payload.
    let (dir, path, mut bytes) = later(&format!("snapshots/{}", snapshot::name(SNAPSHOT)), 8);
    let length = u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
    let crc = crc32fast::hash(&bytes[8..8 + length]);
    bytes[4..8].copy_from_slice(&crc.to_le_bytes());
    std::fs::write(&path, &bytes).unwrap();
    let refused = Engine::open(config(&dir)).map(drop).unwrap_err().to_string();
    assert!(
        refused.contains("has format 2") && refused.contains("start the release that wrote it"),
        "{refused}"
    );
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    // The log: the checksum is over more than the payload, so `wal/tests.rs` writes one. Here it is damage.
    let (dir, path, bytes) = later("wal/0000000000000001.wal", 16);
    std::fs::write(&path, &bytes).unwrap();
    let refused = Engine::open(config(&dir)).map(drop).unwrap_err().to_string();
    assert!(refused.contains("acknowledged writes would be lost"), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}
