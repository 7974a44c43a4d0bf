//! The search for devices: all requests of all claims of a pod at once, on one node.
//!
//! Devices are tried one after the other, in the order of pools, slices and devices; with one chosen, the search goes
//! on with the next, and comes back to try another when it gets stuck. The first solution is taken: what a driver names
//! first is used first, and the first of several alternatives is preferred. Within a request the order of devices does
//! not matter, so only ascending ones are tried.

use std::cell::RefCell;
use std::collections::HashMap;

use proto::quantity::Quantity;

use super::constraint::Constraint;
use super::model::{Amounts, Device, DeviceId, Slice};
use super::pools::{self, Pool};
use super::request::{MAX_RESULTS, Mode, Request, Wanted};
use super::shared;
use super::state::Dra;
use crate::model::{Labels, Str};

/// Steps between looks at the clock.
const STEPS: u64 = 256;

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The claims, their classes or the devices are such that no node would do; upstream's text.
    Broken(String),
    /// This node has pools that contradict themselves.
    InvalidPools,
    /// The time was up.
    Timeout,
}

/// A device that was found for a request.
#[derive(Debug)]
pub struct Chosen<'a> {
    /// The request, and which of its alternatives.
    pub request: usize,
    pub alternative: usize,
    pub slice: &'a Slice,
    pub device: &'a Device,
    /// What is taken of its capacity, if others can have the rest.
    pub consumed: Option<Amounts>,
}

/// Which selectors have been found to match which device; the same for all nodes. A device is known by its address.
#[derive(Debug, Default)]
pub struct Matches(RefCell<HashMap<(usize, Key), bool>>);

/// A request or an alternative of one: claim, request, alternative.
type Key = (usize, usize, usize);

/// A device in the pools of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Place {
    pool: usize,
    slice: usize,
    device: usize,
}

/// The device to be found next.
#[derive(Clone, Copy, Debug, Default)]
struct At {
    claim: usize,
    request: usize,
    alternative: usize,
    device: usize,
}

impl At {
    fn key(self) -> Key {
        (self.claim, self.request, self.alternative)
    }
}

/// Why the search goes no further here.
enum Stop {
    /// More devices than a claim may have: another alternative may need fewer.
    TooMany,
    Failed(Failure),
}

impl From<String> for Stop {
    fn from(text: String) -> Self {
        Self::Failed(Failure::Broken(text))
    }
}

struct Search<'a, 's> {
    dra: &'a Dra,
    node: &'s str,
    labels: &'s Labels,
    wanted: &'s [Wanted<'a>],
    pools: Vec<Pool<'a>>,
    matches: &'s Matches,
    /// All devices for requests that want all.
    all: HashMap<Key, Vec<Place>>,
    constraints: Vec<Vec<Constraint<'a>>>,
    /// Devices about to be given away, with the claims that get them.
    taken: HashMap<Place, Vec<usize>>,
    /// The same for parts of devices: amounts, and how often.
    parts: HashMap<Place, (Amounts, usize)>,
    /// Counters that are left, by pool, set and name.
    counters: HashMap<usize, HashMap<&'a str, Amounts>>,
    chosen: Vec<Vec<Chosen<'a>>>,
    steps: u64,
    expired: &'s dyn Fn() -> bool,
}

/// Finds devices for all claims on a node: for each claim what was chosen, in the order of its requests. None if the
/// node does not have them.
///
/// # Errors
/// See [`Failure`]. `expired` says that the time is up.
pub fn search<'a>(
    dra: &'a Dra,
    (node, labels): (&str, &Labels),
    wanted: &[Wanted<'a>],
    matches: &Matches,
    expired: &dyn Fn() -> bool,
) -> Result<Option<Vec<Vec<Chosen<'a>>>>, Failure> {
    let mut s = Search {
        dra,
        node,
        labels,
        wanted,
        pools: pools::on_node(&dra.slices, node, labels),
        matches,
        all: HashMap::new(),
        constraints: wanted.iter().map(|w| w.constraints.clone()).collect(),
        taken: HashMap::new(),
        parts: HashMap::new(),
        counters: HashMap::new(),
        chosen: wanted.iter().map(|_| Vec::new()).collect(),
        steps: 0,
        expired,
    };
    s.prepare()?;
    match s.next(At::default(), false, Place::default()) {
        Ok(true) => Ok(Some(s.chosen)),
        Ok(false) if s.pools.iter().any(|p| p.invalid) => Err(Failure::InvalidPools),
        Ok(false) | Err(Stop::TooMany) => Ok(None),
        Err(Stop::Failed(f)) => Err(f),
    }
}

impl<'a> Search<'a, '_> {
    fn request(&self, at: At) -> &Request<'a> {
        &self.wanted[at.claim].requests[at.request][at.alternative]
    }

    fn device(&self, p: Place) -> (&'a Slice, &'a Device) {
        let slice = self.pools[p.pool].slices[p.slice];
        (slice, &slice.devices[p.device])
    }

    fn id(&self, p: Place) -> DeviceId {
        self.pools[p.pool].device_id(self.device(p).1)
    }

    /// Finds out what "all devices" means, and refuses what no claim can have.
    fn prepare(&mut self) -> Result<(), Failure> {
        for (claim, w) in self.wanted.iter().enumerate() {
            let mut fewest = 0;
            for (request, alternatives) in w.requests.iter().enumerate() {
                let mut counts = Vec::new();
                for (alternative, r) in alternatives.iter().enumerate() {
                    counts.push(match r.mode {
                        Mode::Exactly(n) => n,
                        Mode::All => {
                            let at = At { claim, request, alternative, device: 0 };
                            let places = self.everything(at, r)?;
                            let n = places.len();
                            self.all.insert(at.key(), places);
                            n
                        }
                    });
                }
                fewest += counts.into_iter().min().unwrap_or(0);
            }
            if fewest > MAX_RESULTS {
                return Err(Failure::Broken(format!(
                    "claim {}: number of requested devices {fewest} exceeds the claim limit of {MAX_RESULTS}",
                    super::claims::shown(w.claim)
                )));
            }
        }
        Ok(())
    }

    /// All devices that match a request. Without all pools known, nobody can tell.
    fn everything(&self, at: At, r: &Request<'a>) -> Result<Vec<Place>, Failure> {
        let of = super::claims::shown(self.wanted[at.claim].claim);
        let mut out = Vec::new();
        for (pool, p) in self.pools.iter().enumerate() {
            if !p.usable() {
                let what = if p.incomplete { "being updated" } else { "invalid" };
                return Err(Failure::Broken(format!(
                    "claim {of}, request {}: asks for all devices, but resource pool {} is currently {what}",
                    r.name, p.id
                )));
            }
            for (slice, s) in p.slices.iter().enumerate() {
                for device in 0..s.devices.len() {
                    let place = Place { pool, slice, device };
                    if self.selectable(at, r, place).map_err(Failure::Broken)? && self.suffices(r, place) {
                        out.push(place);
                    }
                }
            }
        }
        Ok(out)
    }

    /// Whether a device matches the selectors, and is for this node.
    fn selectable(&self, at: At, r: &Request<'a>, p: Place) -> Result<bool, String> {
        let (slice, device) = self.device(p);
        if slice.per_device && !device.nodes.has(self.node, self.labels) {
            return Ok(false);
        }
        let memo = (std::ptr::from_ref(device) as usize, at.key());
        if let Some(known) = self.matches.0.borrow().get(&memo) {
            return Ok(*known);
        }
        let mut matches = true;
        for (selector, place) in &r.selectors {
            let selector =
                selector.as_ref().as_ref().map_err(|e| format!("{place}: CEL compile error: {e}"))?;
            matches =
                selector.matches(&device.seen).map_err(|e| format!("{place}: CEL runtime error: {e}"))?;
            if !matches {
                break;
            }
        }
        self.matches.0.borrow_mut().insert(memo, matches);
        Ok(matches)
    }

    /// Whether what is left of a device's capacity is enough.
    fn suffices(&self, r: &Request<'a>, p: Place) -> bool {
        let (_, device) = self.device(p);
        if device.capacity.is_empty() && r.capacity.is_none() {
            return true;
        }
        let used = self.dra.claims.allocated().share(&self.id(p));
        shared::suffices(device, r.capacity.as_ref(), used, self.parts.get(&p).map(|(sum, _)| sum))
    }

    /// Finds this device and all that come after it. False if that is not possible; nothing has changed then.
    /// `settled` says that the alternative is chosen, `start` where in the pools to begin.
    fn next(&mut self, at: At, settled: bool, start: Place) -> Result<bool, Stop> {
        self.steps += 1;
        if self.steps.is_multiple_of(STEPS) && (self.expired)() {
            return Err(Stop::Failed(Failure::Timeout));
        }
        let Some(wanted) = self.wanted.get(at.claim) else { return Ok(true) };
        let Some(alternatives) = wanted.requests.get(at.request) else {
            let next = At { claim: at.claim + 1, ..At::default() };
            return match self.next(next, false, Place::default()) {
                // Another choice for this claim changes nothing about the next one's size, but alternatives may.
                Err(Stop::TooMany) => Ok(false),
                other => other,
            };
        };
        if !settled && alternatives[0].parent.is_some() {
            return self.alternatives(at, alternatives.len());
        }
        let request = &alternatives[at.alternative];
        let all = self.all.get(&at.key()).map(Vec::len);
        if all == Some(0) {
            return Ok(false);
        }
        let count = match request.mode {
            Mode::Exactly(n) => n,
            Mode::All => all.unwrap_or(0),
        };
        if at.device >= count {
            let next = At { claim: at.claim, request: at.request + 1, ..At::default() };
            return self.next(next, false, Place::default());
        }
        if self.chosen[at.claim].len() + count - at.device > MAX_RESULTS {
            return Err(Stop::TooMany);
        }
        let following = At { device: at.device + 1, ..at };
        if let Some(places) = self.all.get(&at.key()) {
            let place = places[at.device];
            let Some(undo) = self.take(at, place, true)? else { return Ok(false) };
            let found = self.next(following, settled, Place::default());
            if !matches!(found, Ok(true)) {
                self.give_back(at, place, undo);
            }
            return found;
        }
        self.any(at, following, settled, start)
    }

    /// One alternative of a request after the other.
    fn alternatives(&mut self, at: At, count: usize) -> Result<bool, Stop> {
        let mut all_too_many = true;
        for alternative in 0..count {
            match self.next(At { alternative, ..at }, true, Place::default()) {
                Ok(true) => return Ok(true),
                Ok(false) => all_too_many = false,
                Err(Stop::TooMany) => {}
                Err(failed) => return Err(failed),
            }
        }
        if all_too_many { Err(Stop::TooMany) } else { Ok(false) }
    }

    /// One device after the other, from `start` on.
    fn any(&mut self, at: At, following: At, settled: bool, start: Place) -> Result<bool, Stop> {
        for pool in start.pool..self.pools.len() {
            if !self.pools[pool].usable() {
                continue;
            }
            let first_slice = if pool == start.pool { start.slice } else { 0 };
            for slice in first_slice..self.pools[pool].slices.len() {
                let here = pool == start.pool && slice == start.slice;
                let first = if here { start.device } else { 0 };
                for device in first..self.pools[pool].slices[slice].devices.len() {
                    let place = Place { pool, slice, device };
                    if !self.candidate(at, place)? {
                        continue;
                    }
                    let Some(undo) = self.take(at, place, false)? else { continue };
                    let found = self.next(following, settled, Place { pool, slice, device: device + 1 });
                    if matches!(found, Ok(true)) {
                        return found;
                    }
                    self.give_back(at, place, undo);
                    found?;
                }
            }
        }
        Ok(false)
    }

    fn candidate(&self, at: At, p: Place) -> Result<bool, String> {
        let r = self.request(at);
        Ok(self.free(at, p) && self.selectable(at, r, p)? && self.suffices(r, p))
    }

    /// Whether nobody else has the device; administrators care only for their own claim.
    fn free(&self, at: At, p: Place) -> bool {
        let takers = self.taken.get(&p);
        if self.request(at).admin {
            return !takers.is_some_and(|t| t.contains(&at.claim));
        }
        takers.is_none_or(Vec::is_empty) && !self.dra.claims.allocated().whole(&self.id(p))
    }

    /// Takes a device, if it is free, tolerable, and nothing is exceeded. The answer is what [`Self::give_back`] needs.
    fn take(&mut self, at: At, p: Place, must: bool) -> Result<Option<Undo>, Stop> {
        let (slice, device) = self.device(p);
        let wanted = self.wanted;
        let r = &wanted[at.claim].requests[at.request][at.alternative];
        if !self.free(at, p) || device.taints.iter().any(|t| !r.tolerates(t)) || !self.suffices(r, p) {
            return Ok(None);
        }
        // Who shares a device shares what it takes of the counters.
        let in_use = device.multiple
            && (self.parts.contains_key(&p) || self.dra.claims.allocated().share(&self.id(p)).is_some());
        let counted = !in_use && !device.consumes.is_empty();
        if counted && !self.count(p) {
            return Ok(None);
        }
        let driver = &slice.pool.driver;
        let constraints = &mut self.constraints[at.claim];
        if let Some(i) = constraints.iter_mut().position(|c| !c.add(r.parent, r.name, driver, device)) {
            constraints[..i].iter_mut().for_each(|c| c.remove(r.parent, r.name));
            if counted {
                self.uncount(p);
            }
            if must {
                return Err(Stop::from(format!(
                    "claim {}, request {}: cannot add device {} because a claim constraint would not be satisfied",
                    super::claims::shown(wanted[at.claim].claim),
                    r.name,
                    self.id(p)
                )));
            }
            return Ok(None);
        }
        let consumed = device.multiple.then(|| shared::consumed(device, r.capacity.as_ref()));
        match &consumed {
            Some(amounts) => {
                let part = self.parts.entry(p).or_default();
                part.1 += 1;
                for (name, q) in amounts {
                    part.0.entry(name.clone()).and_modify(|sum| *sum = *sum + *q).or_insert(*q);
                }
            }
            None => self.taken.entry(p).or_default().push(at.claim),
        }
        let (request, alternative) = (at.request, at.alternative);
        self.chosen[at.claim].push(Chosen { request, alternative, slice, device, consumed });
        Ok(Some(Undo { counted }))
    }

    /// Undoes the latest [`Self::take`].
    fn give_back(&mut self, at: At, p: Place, undo: Undo) {
        let wanted = self.wanted;
        let r = &wanted[at.claim].requests[at.request][at.alternative];
        self.constraints[at.claim].iter_mut().for_each(|c| c.remove(r.parent, r.name));
        if undo.counted {
            self.uncount(p);
        }
        match self.chosen[at.claim].pop().and_then(|c| c.consumed) {
            Some(amounts) => {
                let Some(part) = self.parts.get_mut(&p) else { return };
                part.1 -= 1;
                for (name, q) in &amounts {
                    if let Some(sum) = part.0.get_mut(name) {
                        *sum = *sum - *q;
                    }
                }
                if part.1 == 0 {
                    self.parts.remove(&p);
                }
            }
            None => {
                if let Some(takers) = self.taken.get_mut(&p) {
                    takers.pop();
                }
            }
        }
    }

    /// Takes what a device needs of the pool's counters; false if there is not enough.
    fn count(&mut self, p: Place) -> bool {
        if !self.counters.contains_key(&p.pool) {
            let left = self.left(p.pool);
            self.counters.insert(p.pool, left);
        }
        self.change(p, |left, q| left - q);
        let Some(sets) = self.counters.get(&p.pool) else { return false };
        let enough = sets.values().flat_map(Amounts::values).all(|left| left.sign() >= 0);
        if !enough {
            self.uncount(p);
        }
        enough
    }

    fn uncount(&mut self, p: Place) {
        self.change(p, |left, q| left + q);
    }

    fn change(&mut self, p: Place, by: impl Fn(Quantity, Quantity) -> Quantity) {
        let (_, device) = self.device(p);
        let Some(sets) = self.counters.get_mut(&p.pool) else { return };
        apply(sets, &device.consumes, by);
    }

    /// The counters of a pool without what allocated devices take of them.
    fn left(&self, pool: usize) -> HashMap<&'a str, Amounts> {
        let p = &self.pools[pool];
        let mut sets: HashMap<&str, Amounts> = p.counters.iter().map(|(n, a)| (*n, (*a).clone())).collect();
        for d in p.slices.iter().chain(&p.elsewhere).flat_map(|s| &s.devices) {
            if !d.consumes.is_empty() && self.dra.claims.allocated().any(&p.device_id(d)) {
                apply(&mut sets, &d.consumes, |left, q| left - q);
            }
        }
        sets
    }
}

fn apply(
    sets: &mut HashMap<&str, Amounts>,
    consumes: &[(Str, Amounts)],
    by: impl Fn(Quantity, Quantity) -> Quantity,
) {
    for (set, amounts) in consumes {
        let Some(left) = sets.get_mut(set.as_ref()) else { continue };
        for (name, q) in amounts {
            if let Some(value) = left.get_mut(name) {
                *value = by(*value, *q);
            }
        }
    }
}

/// What a device took beside itself.
struct Undo {
    counted: bool,
}
