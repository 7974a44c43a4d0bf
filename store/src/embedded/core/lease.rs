//! Reads by lease: a leader that a majority has just answered knows for how long nobody else can lead, and answers
//! linearizable reads meanwhile without asking.
//!
//! Why that is right: who takes a heartbeat promises to vote for nobody during [`PROMISE`] ticks, of which the first may
//! be a mere moment: for 450 ms at least, by his clock. A member that has just started cannot know what it has promised,
//! and keeps a promise all the same. So once a majority has answered heartbeats, nobody can win an election until so
//! long after the first of these was *sent*. A lease lasts [`LENGTH`] from there, by the leader's clock: it is over in
//! time unless that clock goes more than a third slower than another member's.
//!
//! An election that a leader has asked for breaks promises. So a leader that hands over ends its lease before it says
//! so, and for the rest of its term: what it said may arrive late.
//!
//! A pause of the process between the look at the clock and the answer does no harm: the read is as of the look, which
//! came after it was asked for. A pause before the look is seen by the clock, which goes on while the machine sleeps
//! ([`boot_time`]). Of a virtual machine that is frozen from outside nothing inside can know; there reads should ask
//! (`--store-lease-reads=false`).

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use raft::eraftpb::{Message, MessageType};

/// Ticks for which a member that has taken a heartbeat, or has just started, votes for nobody: an election's least time.
pub const PROMISE: u64 = 10;
/// How long a lease lasts.
pub const LENGTH: Duration = Duration::from_millis(300);
/// Heartbeats whose sending is remembered.
const SENT: usize = 1024;

/// The lease as readers see it, on any thread.
#[derive(Default)]
pub struct Granted {
    /// When it ends, in nanoseconds; zero for none.
    until: AtomicU64,
    /// The last entry that is committed. Nobody else has been told of it before it is here.
    committed: AtomicU64,
}

impl Granted {
    /// The entry that a read must have seen, if the lease says so. `now` must be taken after the read was asked for.
    pub fn index(&self, now: Duration) -> Option<u64> {
        (nanos(now) < self.until.load(Ordering::SeqCst)).then(|| self.committed.load(Ordering::SeqCst))
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// The leader's side. See the module.
pub struct Lease {
    /// None where reads always ask.
    granted: Option<Arc<Granted>>,
    length: Duration,
    /// What marks heartbeats that carry no question of a read, so that their answers can be told apart.
    count: u64,
    /// What heartbeats carried, and when it was first sent.
    sent: VecDeque<(Vec<u8>, Duration)>,
    /// By member, when the last heartbeat was sent that it has answered.
    answered: BTreeMap<u64, Duration>,
    /// When the lease ends.
    ends: Duration,
    /// No more leases in this term.
    handed_over: bool,
    /// Handing over ends nothing, for tests that must notice.
    #[cfg(test)]
    pub clings: bool,
}

impl Lease {
    /// `granted`: where readers look; none where reads always ask.
    pub fn new(granted: Option<Arc<Granted>>) -> Lease {
        Lease {
            granted,
            length: LENGTH,
            count: 0,
            sent: VecDeque::new(),
            answered: BTreeMap::new(),
            ends: Duration::ZERO,
            handed_over: false,
            #[cfg(test)]
            clings: false,
        }
    }

    #[cfg(test)]
    pub fn stretch(&mut self, length: Duration) {
        self.length = length;
    }

    /// The entry that a read which was asked for before `now` must have seen, without asking.
    pub fn index(&self, now: Duration) -> Option<u64> {
        self.granted.as_ref()?.index(now)
    }

    /// Messages leave this member after `now`.
    pub fn sending(&mut self, messages: &mut [Message], now: Duration) {
        if self.granted.is_none() {
            return;
        }
        self.count += 1;
        for m in messages {
            match m.get_msg_type() {
                MessageType::MsgTimeoutNow => self.hand_over(),
                MessageType::MsgHeartbeat if !self.handed_over => {
                    if m.context.is_empty() {
                        m.context = self.count.to_le_bytes().to_vec().into();
                    }
                    self.remember(&m.context, now);
                }
                _ => {}
            }
        }
    }

    fn remember(&mut self, context: &[u8], now: Duration) {
        if self.sent.iter().rev().any(|(c, _)| c == context) {
            return;
        }
        // What was sent longer ago grants nothing any more.
        while self.sent.front().is_some_and(|(_, at)| at.saturating_add(self.length) < now)
            || self.sent.len() >= SENT
        {
            self.sent.pop_front();
        }
        self.sent.push_back((context.to_vec(), now));
    }

    /// A member has answered a heartbeat of this term. `me`: who leads; `is_majority`: whether these are enough.
    pub fn answered(&mut self, by: u64, context: &[u8], me: u64, is_majority: impl Fn(&[u64]) -> bool) {
        let Some((_, sent)) = self.sent.iter().rev().find(|(c, _)| c == context) else { return };
        let latest = self.answered.entry(by).or_default();
        *latest = (*latest).max(*sent);
        let mut order: Vec<_> = self.answered.iter().map(|(id, at)| (*at, *id)).collect();
        order.sort_unstable_by(|a, b| b.cmp(a));
        let mut members = vec![me];
        for (at, id) in order {
            members.push(id);
            if is_majority(&members) {
                self.ends = self.ends.max(at.saturating_add(self.length));
                return;
            }
        }
    }

    /// Shows readers how far they may go. `reigns`: this member leads and has committed something as the leader.
    pub fn publish(&self, reigns: bool, committed: u64) {
        let Some(granted) = &self.granted else { return };
        granted.committed.store(committed, Ordering::SeqCst);
        let ends = if reigns && !self.handed_over { nanos(self.ends) } else { 0 };
        granted.until.store(ends, Ordering::SeqCst);
    }

    /// This member hands the lead over.
    pub fn hand_over(&mut self) {
        #[cfg(test)]
        if self.clings {
            return;
        }
        self.handed_over = true;
        self.void();
    }

    /// Another term begins, or the members change: all that was promised counts for nothing.
    pub fn forget(&mut self, another_term: bool) {
        self.handed_over &= !another_term;
        self.void();
    }

    fn void(&mut self) {
        self.sent.clear();
        self.answered.clear();
        self.ends = Duration::ZERO;
        if let Some(granted) = &self.granted {
            granted.until.store(0, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    fn message(kind: MessageType, to: u64) -> Message {
        let mut m = Message { to, ..Message::default() };
        m.set_msg_type(kind);
        m
    }

    /// Member 1 leads 2 and 3.
    fn leader() -> (Lease, Arc<Granted>) {
        let granted = Arc::new(Granted::default());
        (Lease::new(Some(Arc::clone(&granted))), granted)
    }

    /// Sends heartbeats; what they carry.
    fn beat(lease: &mut Lease, now: Duration) -> Vec<u8> {
        let mut messages = [2, 3].map(|to| message(MessageType::MsgHeartbeat, to));
        lease.sending(&mut messages, now);
        assert_eq!(messages[0].context, messages[1].context);
        messages[0].context.to_vec()
    }

    fn answer(lease: &mut Lease, by: u64, context: &[u8]) {
        lease.answered(by, context, 1, |ids| ids.len() >= 2);
        lease.publish(true, 7);
    }

    #[test]
    fn it_counts_from_the_sending() {
        let (mut lease, granted) = leader();
        let first = beat(&mut lease, ms(1000));
        assert_eq!(granted.index(ms(1000)), None, "nobody has answered");
        let second = beat(&mut lease, ms(1100));
        answer(&mut lease, 2, &first);
        assert_eq!(granted.index(ms(1299)), Some(7));
        assert_eq!(granted.index(ms(1300)), None);
        answer(&mut lease, 3, &second);
        assert_eq!(granted.index(ms(1399)), Some(7));
        // Late, doubled and foreign answers grant nothing.
        for context in [&first, &second, &vec![9; 8], &Vec::new()] {
            answer(&mut lease, 2, context);
        }
        assert_eq!(granted.index(ms(1400)), None);
    }

    #[test]
    fn a_majority_is_needed() {
        let (mut lease, granted) = leader();
        let context = beat(&mut lease, ms(1000));
        lease.answered(2, &context, 1, |ids| ids.len() >= 3);
        lease.publish(true, 7);
        assert_eq!(granted.index(ms(1001)), None);
        lease.answered(3, &context, 1, |ids| ids.len() >= 3);
        lease.publish(false, 7);
        assert_eq!(granted.index(ms(1001)), None, "nothing is committed in this term");
        lease.publish(true, 7);
        assert_eq!(granted.index(ms(1001)), Some(7));
    }

    #[test]
    fn a_question_that_is_sent_again_counts_from_the_first_time() {
        let (mut lease, granted) = leader();
        for now in [1000, 1200] {
            let mut question = [message(MessageType::MsgHeartbeat, 2)];
            question[0].context = b"question".to_vec().into();
            lease.sending(&mut question, ms(now));
        }
        answer(&mut lease, 2, b"question");
        assert_eq!((granted.index(ms(1299)), granted.index(ms(1300))), (Some(7), None));
    }

    #[test]
    fn handing_over_ends_it_for_the_term() {
        let (mut lease, granted) = leader();
        let context = beat(&mut lease, ms(1000));
        answer(&mut lease, 2, &context);
        lease.sending(&mut [message(MessageType::MsgTimeoutNow, 2)], ms(1010));
        assert_eq!(granted.index(ms(1011)), None);
        let context = beat(&mut lease, ms(1100));
        lease.forget(false);
        answer(&mut lease, 2, &context);
        assert_eq!(granted.index(ms(1101)), None);
        lease.forget(true);
        let context = beat(&mut lease, ms(1200));
        answer(&mut lease, 2, &context);
        assert_eq!(granted.index(ms(1201)), Some(7));
    }

    #[test]
    fn who_asks_always_has_none() {
        let mut lease = Lease::new(None);
        let mut messages = [message(MessageType::MsgHeartbeat, 2)];
        lease.sending(&mut messages, ms(1000));
        assert!(messages[0].context.is_empty());
        answer(&mut lease, 2, b"");
        assert_eq!(lease.index(ms(1001)), None);
    }
}
