//! One priority level: requests wait in queues, each queue's turn comes by virtual time, and what runs takes seats.
//! No I/O; time is passed in.
//!
//! This is start-time fair queuing for requests of unknown duration, on a server with many seats (KEP-1040, "Fair
//! Queuing for Server Requests"): the virtual time R advances by the seats each busy queue would get; a queue's next
//! request starts, virtually, when its former ones would have ended if they took a guessed service time; when a
//! request ends, the guess is corrected. Of the waiting heads, the one that would end first runs.
//!
//! R is counted in seat-nanoseconds in 128 bits, so that it needs no epochs.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Time;
use super::shuffle;
use super::timing::{Integrator, Seen, Timing};

/// Virtual time and work, in seat-nanoseconds.
pub type SeatTime = i128;

/// The guess of how long a request runs, until it ended: 3 ms.
const SERVICE: Time = 3_000_000;

const REQUEST_BUCKETS: &[f64] = &[0.0, 0.001, 0.003, 0.01, 0.03, 0.1, 0.25, 0.5, 0.75, 1.0];
const SEAT_BUCKETS: &[f64] = &[0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99, 1.0];
const DEMAND_BUCKETS: &[f64] = &[0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4, 1.7, 2.0, 2.8, 4.0, 6.0];

/// What a request costs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Work {
    /// Seats while it runs.
    pub initial: u32,
    /// Seats after it ended, for the work that it left behind (events to watchers).
    pub last: u32,
    /// How long those are taken, in nanoseconds.
    pub extra: Time,
}

impl Work {
    pub const ONE: Self = Self { initial: 1, last: 0, extra: 0 };

    /// The most seats it takes at a time.
    pub fn seats(&self) -> u32 {
        self.initial.max(self.last)
    }

    fn total(&self) -> SeatTime {
        SeatTime::from(self.initial) * SeatTime::from(SERVICE)
            + SeatTime::from(self.last) * SeatTime::from(self.extra)
    }
}

/// What happens to requests that find no seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Response {
    /// Everything runs at once.
    Exempt,
    Reject,
    Queue {
        queues: usize,
        hand: usize,
        length: usize,
    },
}

/// Why a request may not run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    QueueFull,
    ConcurrencyLimit,
    TimeOut,
}

impl Rejection {
    /// The label in metrics.
    pub fn reason(self) -> &'static str {
        match self {
            Self::QueueFull => "queue-full",
            Self::ConcurrencyLimit => "concurrency-limit",
            Self::TimeOut => "time-out",
        }
    }
}

/// A request that was let in; the number is used again once it is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u32);

/// What became of an arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    Execute(Ticket),
    /// Waits; so many are in its queue now.
    Wait(Ticket, usize),
    Reject(Rejection),
}

#[derive(Debug)]
enum Phase<W> {
    Waiting(W),
    Executing,
    /// Ended, but its last seats are still taken.
    Lingering,
}

#[derive(Debug)]
struct Request<W> {
    schema: Arc<str>,
    details: Box<str>,
    arrived: Time,
    arrival_r: SeatTime,
    started: Time,
    queue: Option<usize>,
    work: Work,
    phase: Phase<W>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Ticket>,
    waiting_initial: u64,
    waiting_seats: u64,
    waiting_work: SeatTime,
    executing: usize,
    seats: u64,
    next_r: SeatTime,
}

impl Queue {
    fn active(&self) -> bool {
        !self.waiting.is_empty() || self.executing > 0
    }
}

/// Counters for the debug tables.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    pub dispatched: u64,
    pub rejected: u64,
    pub timed_out: u64,
    pub cancelled: u64,
}

/// Facts of the last dispatch from a queue, for metrics; in seat-seconds.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dispatch {
    pub r: f64,
    pub s: f64,
    pub s_bounds: (f64, f64),
    pub discounted_bounds: (f64, f64),
}

/// Time-weighted histograms of a level.
pub struct Meters {
    pub waiting: Timing,
    pub executing: Timing,
    pub seats: Timing,
    pub demand: Timing,
    demand_period: Integrator,
}

/// One level. `W` wakes who waits.
pub struct QueueSet<W> {
    response: Response,
    limit: u64,
    queues: Vec<Queue>,
    requests: Vec<Option<Request<W>>>,
    free: Vec<u32>,
    waiting: usize,
    waiting_seats: u64,
    executing: usize,
    /// All seats taken, with and without queue.
    seats: u64,
    /// Those taken or asked for by way of queues, and queues that have requests: what R goes by.
    queue_demand: u64,
    active: u64,
    r: SeatTime,
    r_time: Time,
    robin: usize,
    enqueues: usize,
    pub totals: Totals,
    pub dispatch: Dispatch,
    /// Dispatches that failed because the request in turn is too wide for the free seats.
    pub no_accommodation: u64,
    pub meters: Meters,
}

impl<W> QueueSet<W> {
    pub fn new(now: Time) -> Self {
        Self {
            response: Response::Reject,
            limit: 0,
            queues: Vec::new(),
            requests: Vec::new(),
            free: Vec::new(),
            waiting: 0,
            waiting_seats: 0,
            executing: 0,
            seats: 0,
            queue_demand: 0,
            active: 0,
            r: 0,
            r_time: now,
            robin: 0,
            enqueues: 0,
            totals: Totals::default(),
            dispatch: Dispatch::default(),
            no_accommodation: 0,
            meters: Meters {
                waiting: Timing::new(REQUEST_BUCKETS, now),
                executing: Timing::new(REQUEST_BUCKETS, now),
                seats: Timing::new(SEAT_BUCKETS, now),
                demand: Timing::new(DEMAND_BUCKETS, now),
                demand_period: Integrator::new(now),
            },
        }
    }

    /// Changes the rules. Who waits in a queue that is no more wanted keeps his place; no one new gets in there.
    /// `denominator`: what utilization is measured against.
    pub fn configure(&mut self, now: Time, response: Response, limit: u64, denominator: u64) -> Vec<W> {
        self.advance(now);
        if let Response::Queue { queues, .. } = response
            && queues > self.queues.len()
        {
            self.queues.resize_with(queues, Queue::default);
        }
        self.response = response;
        self.limit = limit;
        let places = match response {
            Response::Queue { queues, length, .. } => queues * length.max(1),
            _ => 1,
        };
        self.meters.waiting.set_denominator(now, places as f64);
        self.meters.executing.set_denominator(now, denominator as f64);
        self.meters.seats.set_denominator(now, denominator as f64);
        self.meters.demand.set_denominator(now, denominator as f64);
        self.drop_surplus();
        self.dispatch_all(now)
    }

    /// Seats wanted since the last call.
    pub fn take_demand(&mut self, now: Time) -> Seen {
        self.meters.demand_period.reset(now)
    }

    pub fn is_idle(&self) -> bool {
        self.waiting == 0 && self.executing == 0
    }

    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn executing(&self) -> usize {
        self.executing
    }

    pub fn seats_in_use(&self) -> u64 {
        self.seats
    }

    pub fn current_r(&mut self, now: Time) -> f64 {
        self.advance(now);
        seat_seconds(self.r)
    }

    /// A request arrives. `wake` makes what wakes it, should it have to wait; `hash` is its flow's; `details` is shown
    /// in the debug tables.
    pub fn start(
        &mut self,
        now: Time,
        work: Work,
        hash: u64,
        schema: &Arc<str>,
        details: Box<str>,
        wake: impl FnOnce() -> W,
    ) -> Start {
        self.advance(now);
        let mut request = Request {
            schema: Arc::clone(schema),
            details,
            arrived: now,
            arrival_r: self.r,
            started: now,
            queue: None,
            work,
            phase: Phase::Executing,
        };
        let Response::Queue { queues, hand, length } = self.response else {
            if !self.accommodates(work.seats()) {
                self.totals.rejected += 1;
                return Start::Reject(Rejection::ConcurrencyLimit);
            }
            let t = self.insert(request);
            self.executing += 1;
            self.take_seats(now, t);
            self.totals.dispatched += 1;
            return Start::Execute(t);
        };
        let at = self.choose(hash, queues, hand);
        if self.seats >= self.limit && self.queues[at].waiting.len() >= length {
            self.totals.rejected += 1;
            return Start::Reject(Rejection::QueueFull);
        }
        request.queue = Some(at);
        if !self.queues[at].active() {
            self.queues[at].next_r = self.r;
            self.active += 1;
        }
        self.queue_demand += u64::from(work.seats());
        if self.waiting == 0 && self.seats < self.limit && self.accommodates(work.seats()) {
            // The only one who waits is dispatched at once: no need to queue.
            self.robin = at;
            let t = self.insert(request);
            let (r, s) = (seat_seconds(self.r), seat_seconds(self.queues[at].next_r));
            self.dispatch = Dispatch { r, s, s_bounds: (s, s), discounted_bounds: (s, s) };
            self.execute(now, t);
            return Start::Execute(t);
        }
        request.phase = Phase::Waiting(wake());
        let arrival_r = request.arrival_r;
        let t = self.insert(request);
        let q = &mut self.queues[at];
        q.waiting.push_back(t);
        q.waiting_initial += u64::from(work.initial);
        q.waiting_seats += u64::from(work.seats());
        q.waiting_work += work.total();
        if q.waiting.len() == 1 {
            q.next_r = q.next_r.max(arrival_r);
        }
        let len = q.waiting.len();
        self.waiting += 1;
        self.waiting_seats += u64::from(work.seats());
        self.note(now);
        Start::Wait(t, len)
    }

    /// Dispatches what can be; to be called after [`Start::Wait`], as the arrival may run at once.
    pub fn dispatch_all(&mut self, now: Time) -> Vec<W> {
        let mut woken = Vec::new();
        while self.waiting > 0 && self.seats < self.limit {
            let Some(w) = self.dispatch_one(now) else { break };
            woken.push(w);
        }
        woken
    }

    /// A waiting request gives up. False: it was dispatched meanwhile and must be finished. `timed_out`: it waited
    /// too long, as opposed to its client having gone.
    pub fn cancel(&mut self, now: Time, t: Ticket, timed_out: bool) -> bool {
        self.advance(now);
        let waits = self.request(t).is_some_and(|r| matches!(r.phase, Phase::Waiting(_)));
        if !waits {
            return false;
        }
        self.unqueue(t);
        self.totals.rejected += 1;
        self.totals.cancelled += 1;
        self.totals.timed_out += u64::from(timed_out);
        let Some(r) = self.remove(t) else { return true };
        self.queue_demand -= u64::from(r.work.seats());
        if let Some(at) = r.queue {
            self.bound(at);
            self.settle(at);
        }
        self.note(now);
        true
    }

    /// A running request ended. Wakes who can run now; the time, if any, after which [`Self::release`] is due for the
    /// seats that it still holds.
    pub fn finish(&mut self, now: Time, t: Ticket) -> (Vec<W>, Option<Time>) {
        self.advance(now);
        let Some(r) = self.request_mut(t) else { return (Vec::new(), None) };
        debug_assert!(matches!(r.phase, Phase::Executing), "only what runs can end");
        r.phase = Phase::Lingering;
        let (queue, work, took) = (r.queue, r.work, now.saturating_sub(r.started));
        self.executing -= 1;
        if let Some(at) = queue {
            let q = &mut self.queues[at];
            q.executing -= 1;
            let guess = SeatTime::from(SERVICE) - SeatTime::from(took);
            q.next_r -= SeatTime::from(work.initial) * guess;
            if !q.active() {
                self.active -= 1;
            }
            self.bound(at);
        }
        if work.extra > 0 && work.last > 0 {
            self.note(now);
            return (Vec::new(), Some(work.extra));
        }
        (self.release(now, t), None)
    }

    /// The last seats of an ended request are free.
    pub fn release(&mut self, now: Time, t: Ticket) -> Vec<W> {
        self.advance(now);
        let Some(r) = self.remove(t) else { return Vec::new() };
        let seats = u64::from(r.work.seats());
        self.seats -= seats;
        if let Some(at) = r.queue {
            self.queues[at].seats -= seats;
            self.queue_demand -= seats;
        }
        self.note(now);
        self.drop_surplus();
        self.dispatch_all(now)
    }

    fn request(&self, t: Ticket) -> Option<&Request<W>> {
        self.requests.get(t.0 as usize).and_then(Option::as_ref)
    }

    fn request_mut(&mut self, t: Ticket) -> Option<&mut Request<W>> {
        self.requests.get_mut(t.0 as usize).and_then(Option::as_mut)
    }

    fn insert(&mut self, r: Request<W>) -> Ticket {
        if let Some(i) = self.free.pop() {
            self.requests[i as usize] = Some(r);
            return Ticket(i);
        }
        self.requests.push(Some(r));
        Ticket((self.requests.len() - 1) as u32)
    }

    fn remove(&mut self, t: Ticket) -> Option<Request<W>> {
        let r = self.requests.get_mut(t.0 as usize)?.take();
        if r.is_some() {
            self.free.push(t.0);
        }
        r
    }

    /// Brings R to `now`.
    fn advance(&mut self, now: Time) {
        let spent = now.saturating_sub(self.r_time);
        self.r_time = self.r_time.max(now);
        if self.active > 0 && spent > 0 {
            let seats = self.queue_demand.min(self.limit);
            self.r += SeatTime::from(seats) * SeatTime::from(spent) / SeatTime::from(self.active);
        }
    }

    fn note(&mut self, now: Time) {
        let m = &mut self.meters;
        m.waiting.set(now, self.waiting as f64);
        m.executing.set(now, self.executing as f64);
        m.seats.set(now, self.seats as f64);
        let demand = (self.seats + self.waiting_seats) as f64;
        m.demand.set(now, demand);
        m.demand_period.set(now, demand);
    }

    fn accommodates(&self, seats: u32) -> bool {
        let seats = u64::from(seats);
        match self.response {
            Response::Exempt => true,
            // Wider than the level: alone, or never.
            _ if seats > self.limit => self.executing == 0,
            _ => self.seats + seats <= self.limit,
        }
    }

    /// Of the flow's queues the one with the least work waiting; ties go around.
    fn choose(&mut self, hash: u64, queues: usize, hand: usize) -> usize {
        let hand = shuffle::deal(hash, queues, hand.max(1));
        let cards = hand.cards();
        let offset = self.enqueues % cards.len();
        self.enqueues = self.enqueues.wrapping_add(1);
        let order = (0..cards.len()).map(|i| cards[(offset + i) % cards.len()] as usize);
        order.min_by_key(|at| self.queues[*at].waiting_work).unwrap_or(0)
    }

    fn take_seats(&mut self, now: Time, t: Ticket) {
        let seats = self.request(t).map_or(0, |r| u64::from(r.work.seats()));
        self.seats += seats;
        self.note(now);
    }

    /// Runs a request of a queue, which does not wait any more.
    fn execute(&mut self, now: Time, t: Ticket) {
        let limit = u32::try_from(self.limit).unwrap_or(u32::MAX).max(1);
        let Some(r) = self.request_mut(t) else { return };
        let before = r.work.seats();
        if r.work.last > limit {
            // The same area, narrower and longer.
            r.work.extra = r.work.extra * Time::from(r.work.last) / Time::from(limit);
            r.work.last = limit;
        }
        r.phase = Phase::Executing;
        r.started = now;
        let (work, queue) = (r.work, r.queue);
        self.queue_demand -= u64::from(before - work.seats());
        if let Some(at) = queue {
            let q = &mut self.queues[at];
            q.executing += 1;
            q.seats += u64::from(work.seats());
            q.next_r += work.total();
            self.bound(at);
        }
        self.executing += 1;
        self.totals.dispatched += 1;
        self.take_seats(now, t);
    }

    /// Runs the request whose turn it is; None where it does not fit.
    fn dispatch_one(&mut self, now: Time) -> Option<W> {
        let (at, t) = self.next_in_turn()?;
        let seats = self.request(t).map_or(1, |r| r.work.seats());
        if !self.accommodates(seats) {
            self.no_accommodation += 1;
            return None;
        }
        self.unqueue(t);
        self.robin = at;
        let phase = self.request_mut(t).map(|r| std::mem::replace(&mut r.phase, Phase::Executing));
        self.execute(now, t);
        match phase {
            Some(Phase::Waiting(w)) => Some(w),
            _ => None,
        }
    }

    fn next_in_turn(&mut self) -> Option<(usize, Ticket)> {
        let n = self.queues.len();
        let mut best: Option<(SeatTime, usize, Ticket)> = None;
        let (mut lo, mut hi) = (SeatTime::MAX, SeatTime::MIN);
        let (mut dlo, mut dhi) = (SeatTime::MAX, SeatTime::MIN);
        for i in 1..=n {
            let at = (self.robin + i) % n;
            let q = &self.queues[at];
            let Some(t) = q.waiting.front().copied() else { continue };
            let discounted = q.next_r - SeatTime::from(q.seats) * SeatTime::from(SERVICE);
            (lo, hi) = (lo.min(q.next_r), hi.max(q.next_r));
            (dlo, dhi) = (dlo.min(discounted), dhi.max(discounted));
            let end = q.next_r + self.request(t).map_or(0, |r| r.work.total());
            if best.is_none_or(|(e, ..)| end < e) {
                best = Some((end, at, t));
            }
        }
        let (_, at, t) = best?;
        self.dispatch = Dispatch {
            r: seat_seconds(self.r),
            s: seat_seconds(self.queues[at].next_r),
            s_bounds: (seat_seconds(lo), seat_seconds(hi)),
            discounted_bounds: (seat_seconds(dlo), seat_seconds(dhi)),
        };
        Some((at, t))
    }

    /// Takes a request out of its queue.
    fn unqueue(&mut self, t: Ticket) {
        let Some((at, work)) = self.request(t).and_then(|r| r.queue.map(|q| (q, r.work))) else { return };
        let q = &mut self.queues[at];
        if let Some(i) = q.waiting.iter().position(|x| *x == t) {
            q.waiting.remove(i);
            q.waiting_initial -= u64::from(work.initial);
            q.waiting_seats -= u64::from(work.seats());
            q.waiting_work -= work.total();
            self.waiting -= 1;
            self.waiting_seats -= u64::from(work.seats());
        }
    }

    /// A queue may not save up virtual time while its requests could not run: nothing starts before it arrived.
    fn bound(&mut self, at: usize) {
        let head = self.queues[at].waiting.front().copied();
        if let Some(arrival) = head.and_then(|t| self.request(t)).map(|r| r.arrival_r) {
            let q = &mut self.queues[at];
            q.next_r = q.next_r.max(arrival);
        }
    }

    /// Bookkeeping for a queue that lost a waiting request.
    fn settle(&mut self, at: usize) {
        if !self.queues[at].active() {
            self.active -= 1;
        }
        self.drop_surplus();
    }

    /// Queues beyond the wanted number go once they are empty, from the end, so that places keep their numbers.
    fn drop_surplus(&mut self) {
        let wanted = match self.response {
            Response::Queue { queues, .. } => queues,
            _ => 0,
        };
        while self.queues.len() > wanted && self.queues.last().is_some_and(|q| !q.active() && q.seats == 0) {
            self.queues.pop();
        }
        self.robin = if self.queues.is_empty() { 0 } else { self.robin % self.queues.len() };
    }
}

fn seat_seconds(t: SeatTime) -> f64 {
    t as f64 / 1e9
}

/// One queue in the debug tables.
#[derive(Debug, Clone, Default)]
pub struct QueueDump {
    pub pending: usize,
    pub executing: usize,
    pub seats: u64,
    pub next_r: f64,
    pub initial_sum: u64,
    pub seats_sum: u64,
    pub work_sum: f64,
}

/// One request in the debug tables.
#[derive(Debug, Clone)]
pub struct RequestDump {
    pub schema: Arc<str>,
    pub details: Box<str>,
    /// None: it never was in a queue.
    pub queue: Option<usize>,
    /// Its place among those that wait; none when it runs.
    pub place: Option<usize>,
    pub arrived: Time,
    pub started: Option<Time>,
    pub work: Work,
}

/// Running and waiting requests, and their seats.
#[derive(Debug, Clone, Copy, Default)]
pub struct Load {
    pub executing: u64,
    pub executing_seats: u64,
    pub waiting: u64,
    pub waiting_seats: u64,
}

impl<W> QueueSet<W> {
    pub fn dump_queues(&self) -> Vec<QueueDump> {
        let dump = |q: &Queue| QueueDump {
            pending: q.waiting.len(),
            executing: q.executing,
            seats: q.seats,
            next_r: seat_seconds(q.next_r),
            initial_sum: q.waiting_initial,
            seats_sum: q.waiting_seats,
            work_sum: seat_seconds(q.waiting_work),
        };
        self.queues.iter().map(dump).collect()
    }

    /// Queued ones by queue and place, then running ones.
    pub fn dump_requests(&self) -> Vec<RequestDump> {
        let mut out: Vec<RequestDump> = Vec::new();
        for (i, slot) in self.requests.iter().enumerate() {
            let Some(r) = slot else { continue };
            let place = match r.phase {
                Phase::Waiting(_) => {
                    let q = r.queue.map(|at| &self.queues[at]);
                    q.and_then(|q| q.waiting.iter().position(|t| t.0 as usize == i))
                }
                Phase::Executing => None,
                Phase::Lingering => continue,
            };
            out.push(RequestDump {
                schema: Arc::clone(&r.schema),
                details: r.details.clone(),
                queue: r.queue,
                place,
                arrived: r.arrived,
                started: place.is_none().then_some(r.started),
                work: r.work,
            });
        }
        out.sort_by_key(|r| (r.queue.is_none(), r.queue, r.place.is_none(), r.place));
        out
    }

    /// What each schema's requests take now.
    pub fn load(&self, mut each: impl FnMut(&Arc<str>, Load)) {
        for r in self.requests.iter().flatten() {
            let seats = u64::from(r.work.seats());
            let load = match r.phase {
                Phase::Waiting(_) => Load { waiting: 1, waiting_seats: seats, ..Load::default() },
                Phase::Executing => Load { executing: 1, executing_seats: seats, ..Load::default() },
                Phase::Lingering => Load { executing_seats: seats, ..Load::default() },
            };
            each(&r.schema, load);
        }
    }
}
