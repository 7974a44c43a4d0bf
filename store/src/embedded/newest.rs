//! Where each key stands, in memory: the revision of its newest record, which holds all that its head in the map does.
//! So a read looks into the map once instead of twice, and a creation not at all.
//!
//! Keys are known by a hash of 64 bits under a seed of this process, which keeps this at some 20 to 40 bytes a key
//! whatever its length. Whoever finds a record compares its key. Where two keys have met in one hash, the map is asked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher as _, BuildHasherDefault, Hasher, RandomState};

use super::kv::Kv;
use super::record::Head;
use crate::{Revision, StoreError};

/// Of keys that are hashes already.
#[derive(Default)]
struct Itself(u64);

impl Hasher for Itself {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for b in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*b);
        }
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}

/// Keys whose room is never given back.
const SMALL: usize = 4096;

/// What stands for a hash that several keys have.
const SHARED: Revision = 0;

/// See the module.
#[derive(Default)]
pub struct Newest {
    seed: RandomState,
    revisions: HashMap<u64, Revision, BuildHasherDefault<Itself>>,
    /// Bits that all hashes have, so that keys meet, for tests.
    #[cfg(test)]
    blind: u64,
}

/// Where a key stands.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// The map has no head of it.
    Nowhere,
    /// Its newest record is of this revision, if that is of this key. If not, the map knows.
    At(Revision),
    /// The map knows.
    InTheMap,
}

/// A key's head was written, or removed.
pub struct Step {
    hash: u64,
    /// Zero where there was no head.
    from: Revision,
    /// Zero where there is none any more.
    to: Revision,
}

impl Newest {
    /// Of the heads in a map.
    pub fn load(kv: &dyn Kv) -> Result<Newest, StoreError> {
        let mut newest = Newest::default();
        let mut bad = None;
        kv.scan(b"k", b"l", &mut |key, head| {
            match Head::decode(&head) {
                Ok(head) => newest.step(&newest.hashed(&key[1..], 0, head.modified)),
                Err(e) => bad = Some(e),
            }
            bad.is_none()
        })?;
        bad.map_or(Ok(newest), Err)
    }

    fn hash(&self, key: &[u8]) -> u64 {
        let hash = self.seed.hash_one(key);
        #[cfg(test)]
        let hash = hash | self.blind;
        hash
    }

    fn hashed(&self, key: &[u8], from: Revision, to: Revision) -> Step {
        Step { hash: self.hash(key), from, to }
    }

    /// What [`Newest::step`] is told of a key.
    pub fn moved(&self, key: &str, from: Revision, to: Revision) -> Step {
        self.hashed(key.as_bytes(), from, to)
    }

    /// Steps are told in their order.
    pub fn step(&mut self, step: &Step) {
        match self.revisions.entry(step.hash) {
            Entry::Vacant(free) if step.from == 0 => {
                free.insert(step.to);
            }
            // From another key's revision, or from none although there is one.
            Entry::Vacant(free) => {
                free.insert(SHARED);
            }
            Entry::Occupied(mut there) if *there.get() != step.from || step.from == SHARED => {
                there.insert(SHARED);
            }
            Entry::Occupied(there) if step.to == 0 => {
                there.remove();
                self.give_back();
            }
            Entry::Occupied(mut there) => {
                there.insert(step.to);
            }
        }
    }

    /// Gives memory back once most keys have gone, as events do.
    fn give_back(&mut self) {
        let (keys, room) = (self.revisions.len(), self.revisions.capacity());
        if room > SMALL && keys < room / 8 {
            self.revisions.shrink_to(keys * 2);
        }
    }

    pub fn find(&self, key: &str) -> Found {
        match self.revisions.get(&self.hash(key.as_bytes())) {
            None => Found::Nowhere,
            Some(&SHARED) => Found::InTheMap,
            Some(&revision) => Found::At(revision),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};

    use super::*;
    use crate::embedded::apply::Applier;
    use crate::embedded::command::Command;
    use crate::embedded::kv::MemKv;
    use crate::embedded::state::State;

    fn step(hash: u64, from: Revision, to: Revision) -> Step {
        Step { hash, from, to }
    }

    #[test]
    fn a_key_is_followed() {
        let mut newest = Newest::default();
        assert_eq!(newest.find("a"), Found::Nowhere);
        for (from, to, found) in [(0, 3, Found::At(3)), (3, 5, Found::At(5)), (5, 0, Found::Nowhere)] {
            newest.step(&newest.moved("a", from, to));
            assert_eq!(newest.find("a"), found);
            assert_eq!(newest.find("b"), Found::Nowhere);
        }
    }

    #[test]
    fn room_is_given_back() {
        let mut newest = Newest::default();
        for hash in 0..100_000 {
            newest.step(&step(hash, 0, hash + 1));
        }
        let most = newest.revisions.capacity();
        for hash in 0..99_000 {
            newest.step(&step(hash, hash + 1, 0));
        }
        assert!(newest.revisions.capacity() < most / 8);
        assert!((99_000..100_000).all(|hash| newest.revisions[&hash] == hash + 1));
    }

    /// Two keys of one hash: neither is ever taken to be absent, or to stand where it does not.
    #[test]
    fn keys_that_meet_are_left_to_the_map() {
        let orders: [&[(Revision, Revision)]; 4] =
            [&[(0, 3), (0, 4)], &[(0, 3), (0, 4), (4, 0)], &[(0, 3), (3, 5), (0, 6), (5, 7)], &[(3, 5)]];
        for steps in orders {
            let mut newest = Newest::default();
            let hash = newest.hash(b"a");
            for (from, to) in steps {
                newest.step(&step(hash, *from, *to));
            }
            assert_eq!(newest.find("a"), Found::InTheMap, "{steps:?}");
        }
    }

    fn random_command(rng: &mut StdRng, revision: Revision, now: u64) -> Command {
        let key = format!("/k/{}", rng.random_range(0..12));
        let expected = if rng.random_bool(0.4) { 0 } else { rng.random_range(0..=revision) };
        match rng.random_range(0..20) {
            0 => Command::Compact { revision: rng.random_range(0..=revision) },
            1 => Command::Expire { now, limit: 3 },
            2..5 => Command::Delete { key, expected },
            n => {
                let expiry = if n == 5 { now + 3 } else { 0 };
                Command::Put { key, expected, value: Bytes::from(n.to_string()), expiry }
            }
        }
    }

    /// Where all keys meet in four hashes, everything is as where none do.
    #[test]
    fn nothing_shows_of_keys_that_meet() {
        for seed in 0..60 {
            let mut rng = StdRng::seed_from_u64(seed);
            let (plain, meta) = State::load(Arc::new(MemKv::default())).unwrap();
            let (narrow, _) = State::load(Arc::new(MemKv::default())).unwrap();
            narrow.gate.write().blind = !3;
            let mut appliers =
                [Applier::new(Arc::clone(&plain), meta), Applier::new(Arc::clone(&narrow), meta)];
            for index in 1..80 {
                let commands: Vec<Command> = (0..rng.random_range(1..4))
                    .map(|_| {
                        let known = if rng.random_bool(0.5) { plain.revision() } else { 0 };
                        let mut command = random_command(&mut rng, plain.revision(), index);
                        if let Command::Put { key, expected, .. } | Command::Delete { key, expected } =
                            &mut command
                            && known > 0
                        {
                            *expected = plain.get(key, 0).unwrap().map_or(0, |kv| kv.mod_revision);
                        }
                        command
                    })
                    .collect();
                let [a, b] = appliers.each_mut().map(|a| a.entry(index, 1, commands.clone()).unwrap());
                assert_eq!(format!("{a:?}"), format!("{b:?}"), "seed {seed}");
                let (scrubs, commits) = (rng.random_bool(0.2), rng.random_bool(0.7));
                for applier in &mut appliers {
                    if commits || scrubs {
                        applier.commit().unwrap();
                    }
                    while scrubs && applier.needs_scrub() {
                        applier.scrub(2).unwrap();
                    }
                }
                for key in (0..12).map(|n| format!("/k/{n}")) {
                    let at = rng.random_range(plain.compacted()..=plain.revision());
                    assert_eq!(plain.get(&key, at).unwrap(), narrow.get(&key, at).unwrap(), "seed {seed}");
                }
            }
        }
    }
}
