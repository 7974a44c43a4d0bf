//! Tests of the log by itself.

use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{Entry, HardState};

use super::frame::{self, Frame, Scan};
use super::segment::Segment;
use super::{Base, Wal};
use crate::StoreError;
use crate::embedded::tests::sim::SimFs;

const SEGMENT: u64 = 4096;

fn open(fs: &SimFs) -> Result<Wal, StoreError> {
    Wal::open(Arc::new(fs.clone()), SEGMENT, Base { store_id: 5, voters: vec![1], ..Base::default() })
}

fn entry(index: u64, term: u64) -> Entry {
    Entry {
        index,
        term,
        data: Bytes::from(format!("entry {index} of {term} {}", "x".repeat(200))),
        ..Entry::default()
    }
}

fn filled(fs: &SimFs, n: u64) -> Wal {
    let mut wal = open(fs).unwrap();
    for i in 1..=n {
        wal.append(None, &[entry(i, 1 + i / 20)]).unwrap();
    }
    wal
}

fn first_segment(fs: &SimFs) -> String {
    use crate::embedded::fs::Fs;
    fs.list().unwrap().into_iter().min().unwrap()
}

#[test]
fn entries_and_state_come_back() {
    let fs = SimFs::default();
    let mut wal = filled(&fs, 100);
    let hard_state = HardState { term: 9, vote: 1, commit: 77, ..HardState::default() };
    wal.append(Some(&hard_state), &[]).unwrap();
    drop(wal);
    let wal = open(&fs).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (1, 100));
    assert_eq!(wal.base().hard_state, hard_state);
    assert_eq!((wal.base().store_id, wal.base().voters.as_slice()), (5, &[1][..]));
    for i in 1..=100 {
        assert_eq!(wal.term(i), Some(1 + i / 20));
        assert_eq!(wal.entries(i, i + 1, u64::MAX).unwrap(), [entry(i, 1 + i / 20)]);
    }
    assert_eq!(wal.term(101), None);
    assert_eq!(wal.entries(1, 101, u64::MAX).unwrap().len(), 100);
    let some = wal.entries(40, 101, 1000).unwrap();
    assert_eq!((some.len(), some[0].index), (4, 40), "as many as fit, in order");
    assert_eq!(wal.entries(40, 101, 0).unwrap().len(), 1, "at least one");
}

#[test]
fn a_new_leader_replaces_entries() {
    let fs = SimFs::default();
    let mut wal = filled(&fs, 30);
    wal.append(None, &[entry(25, 7), entry(26, 7)]).unwrap();
    for wal in [wal, open(&fs).unwrap()] {
        assert_eq!(wal.last_index(), 26);
        assert_eq!((wal.term(24), wal.term(25), wal.term(27)), (Some(2), Some(7), None));
        let all = wal.entries(20, 27, u64::MAX).unwrap();
        assert_eq!(all.iter().map(|e| e.term).collect::<Vec<_>>(), [2, 2, 2, 2, 2, 7, 7]);
    }
}

#[test]
fn truncation_keeps_what_is_needed() {
    let fs = SimFs::default();
    let mut wal = filled(&fs, 100);
    let (before, term) = (wal.bytes(), wal.term(60).unwrap());
    wal.truncate_front(60, term).unwrap();
    assert!(wal.bytes() < before / 2 + 2 * SEGMENT);
    assert_ne!(first_segment(&fs), "0000000000000001.wal");
    wal.append(None, &[entry(101, 6)]).unwrap();
    for wal in [wal, open(&fs).unwrap()] {
        assert_eq!((wal.first_index(), wal.last_index()), (61, 101));
        assert_eq!((wal.term(60), wal.term(59), wal.term(61)), (Some(term), None, Some(4)));
        assert_eq!(wal.entries(61, 102, u64::MAX).unwrap().len(), 41);
    }
    let mut wal = open(&fs).unwrap();
    wal.truncate_front(101, 6).unwrap();
    drop(wal);
    let mut wal = open(&fs).unwrap();
    assert_eq!((wal.first_index(), wal.last_index(), wal.term(101)), (102, 101, Some(6)));
    wal.append(None, &[entry(102, 6)]).unwrap();
    assert_eq!(open(&fs).unwrap().last_index(), 102);
}

/// What is whole and cannot be read is another release's: it is neither damage nor the torn end of the log, and stays.
#[test]
fn what_a_newer_release_wrote_is_refused_and_kept() {
    let base = Base { store_id: 5, voters: vec![1], ..Base::default() };
    let (mut ours, mut newer, mut batch) = (Vec::new(), Vec::new(), Vec::new());
    base.encode(&mut ours);
    newer.extend_from_slice(&ours);
    newer[0] = 2;
    frame::encode_batch(&mut batch, None, &[entry(1, 1)]);
    type Frames<'a> = &'a [(u8, &'a [u8])];
    let cases: [(&str, Frames<'_>); 5] = [
        ("a base alone", &[(frame::BASE, &newer)]),
        ("a base and what follows it", &[(frame::BASE, &newer), (frame::BATCH, &batch)]),
        ("the last batch", &[(frame::BASE, &ours), (frame::BATCH, &batch), (frame::BATCH, &[9])]),
        ("a batch before others", &[(frame::BASE, &ours), (frame::BATCH, &[9]), (frame::BATCH, &batch)]),
        ("another kind of frame", &[(frame::BASE, &ours), (frame::SEAL + 1, &[])]),
    ];
    for (what, frames) in cases {
        let fs = SimFs::default();
        let mut segment = Segment::create(&fs, 1, SEGMENT).unwrap();
        for (kind, payload) in frames {
            segment.write(*kind, &mut payload.to_vec()).unwrap();
        }
        let before = fs.content(&Segment::name(1));
        let refused = open(&fs).map(drop).unwrap_err().to_string();
        assert!(refused.contains("start the release that wrote it"), "{what}: {refused}");
        assert_eq!(refused.contains("has format 2"), frames[0].1[0] == 2, "{what}: {refused}");
        assert_eq!(fs.content(&Segment::name(1)), before, "{what}");
    }
}

/// What a later release adds at the end of a base is not looked at.
#[test]
fn a_base_may_grow() {
    let (fs, base) = (SimFs::default(), Base { store_id: 5, voters: vec![1], ..Base::default() });
    let mut segment = Segment::create(&fs, 1, SEGMENT).unwrap();
    let mut payload = Vec::new();
    base.encode(&mut payload);
    payload.extend_from_slice(&[0, 7, 7]);
    segment.write(frame::BASE, &mut payload).unwrap();
    assert!(matches!(segment.read(0).unwrap(), Scan::Frame(Frame::Base(found), _) if found == base));
}

/// Every byte of an acknowledged record matters: wherever one flips, the log is refused or, at its very end, cut.
#[test]
fn damage_is_noticed_wherever_it_is() {
    let fs = SimFs::default();
    let wal = filled(&fs, 12);
    let end = wal.segments.back().unwrap().end as usize;
    let sequence = wal.segments.len();
    drop(wal);
    assert_eq!(sequence, 1, "all in one segment");
    let name = first_segment(&fs);
    // The last frame begins with the last magic.
    let content = fs.content(&name);
    let last = content.windows(4).rposition(|w| w == b"CXWL").unwrap();
    for offset in 0..end {
        fs.damage(&name, offset);
        match open(&fs) {
            Err(e) => {
                assert!(offset < last, "byte {offset}: {e}");
                assert!(e.to_string().contains("acknowledged writes would be lost"), "byte {offset}: {e}");
            }
            Ok(wal) => {
                // Padding carries nothing.
                assert!(
                    offset >= last || wal.last_index() == 12,
                    "byte {offset}: the log ends at {}",
                    wal.last_index()
                );
                if wal.last_index() < 12 {
                    break;
                }
            }
        }
        fs.damage(&name, offset);
    }
}

#[test]
fn a_missing_segment_is_refused() {
    use crate::embedded::fs::Fs;
    let fs = SimFs::default();
    drop(filled(&fs, 100));
    fs.remove("0000000000000003.wal").unwrap();
    let error = open(&fs).err().unwrap().to_string();
    assert!(error.contains("the segment before it is missing"), "{error}");
}

#[test]
fn a_failed_sync_ends_all_writing() {
    let fs = SimFs::default();
    let mut wal = filled(&fs, 3);
    fs.fail_syncs();
    let error = wal.append(None, &[entry(4, 1)]).unwrap_err().to_string();
    assert!(error.contains("syncing the write-ahead log in the simulated disk"), "{error}");
    fs.restart();
    let error = wal.append(None, &[entry(4, 1)]).unwrap_err().to_string();
    assert!(
        error.contains("writes are refused until the cause is removed and the server restarted"),
        "{error}"
    );
    drop(wal);
    let mut wal = open(&fs).unwrap();
    let last = wal.last_index();
    assert!(last == 3 || last == 4, "what was not acknowledged may be there or not");
    wal.append(None, &[entry(last + 1, 1)]).unwrap();
}

#[test]
fn a_batch_larger_than_a_segment_fits() {
    let fs = SimFs::default();
    let mut wal = open(&fs).unwrap();
    let big = Entry { index: 1, term: 1, data: Bytes::from(vec![3; 50_000]), ..Entry::default() };
    wal.append(None, &[big.clone(), entry(2, 1)]).unwrap();
    wal.append(None, &[entry(3, 1)]).unwrap();
    drop(wal);
    let wal = open(&fs).unwrap();
    assert_eq!(wal.entries(1, 4, u64::MAX).unwrap()[0], big);
    assert_eq!(wal.last_index(), 3);
}

#[test]
fn a_snapshot_of_another_member_takes_the_place_of_the_log() {
    let fs = SimFs::default();
    let mut wal = filled(&fs, 30);
    let hard_state = HardState { term: 9, vote: 2, commit: 500, ..HardState::default() };
    wal.reset(Some(&hard_state), 500, 8).unwrap();
    wal.append(None, &[entry(501, 9)]).unwrap();
    for wal in [wal, open(&fs).unwrap()] {
        assert_eq!((wal.first_index(), wal.last_index()), (501, 501));
        assert_eq!((wal.term(500), wal.term(501), wal.term(30)), (Some(8), Some(9), None));
        assert_eq!(wal.base().hard_state, hard_state);
        assert_eq!(wal.entries(501, 502, u64::MAX).unwrap(), [entry(501, 9)]);
    }
    let mut wal = open(&fs).unwrap();
    wal.truncate_front(501, 9).unwrap();
    assert_eq!(open(&fs).unwrap().last_index(), 501);
}

/// The machine may stop anywhere on the way: the log is the old one or the new one.
#[test]
fn a_crash_while_the_log_is_replaced() {
    for stop in 0..12 {
        let fs = SimFs::default();
        let mut wal = filled(&fs, 60);
        fs.fail_after(stop);
        let done = wal.reset(None, 500, 8).is_ok();
        drop(wal);
        fs.power_cut(&mut rand::SeedableRng::seed_from_u64(stop));
        let wal = open(&fs).unwrap();
        let ends = (wal.first_index(), wal.last_index());
        assert!(ends == (501, 500) || (!done && ends == (1, 60)), "stopped after {stop}: {ends:?}");
    }
}

/// Segments without entries may outlive those before them, when the machine stops while all of them are removed.
#[test]
fn a_crash_while_segments_are_removed() {
    use crate::embedded::fs::Fs;
    let fs = SimFs::default();
    let mut wal = filled(&fs, 14);
    wal.truncate_front(13, 1).unwrap();
    wal.truncate_front(14, 1).unwrap();
    drop(wal);
    let newest = fs.list().unwrap().pop().unwrap();
    // As before the last removal: the segment of the first truncation, sealed, which holds no entries.
    let old = SimFs::default();
    let mut wal = filled(&old, 14);
    wal.truncate_front(13, 1).unwrap();
    let empty = old.list().unwrap().pop().unwrap();
    wal.rotate().unwrap();
    assert!(empty < newest);
    fs.adopt(&old, &empty);
    let wal = open(&fs).unwrap();
    assert_eq!((wal.first_index(), wal.last_index()), (15, 14));
}
