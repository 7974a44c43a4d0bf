//! Simulations of one level, with time made up, and of the entry of requests.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::control::{Controller, Entry};
use super::feed::Objects;
use super::queueset::{QueueSet, Rejection, Response, Start, Ticket, Work};
use crate::http::query::Query;
use crate::request::{RequestInfo, UserInfo};

const MS: u64 = 1_000_000;

/// A level under load: clients that keep so many requests each, of fixed duration and width.
struct Sim {
    set: QueueSet<u32>,
    now: u64,
    /// By request number: client, ticket once known, and end of its run.
    running: BTreeMap<u64, Vec<(u32, Ticket)>>,
    tickets: BTreeMap<u32, (usize, Ticket)>,
    next: u32,
    served: Vec<u64>,
    rejected: Vec<u64>,
}

#[derive(Clone, Copy)]
struct Client {
    flow: u64,
    parallel: usize,
    took: u64,
    work: Work,
}

impl Sim {
    fn new(response: Response, limit: u64) -> Self {
        let mut set = QueueSet::new(0);
        set.configure(0, response, limit, limit);
        Self {
            set,
            now: 0,
            running: BTreeMap::new(),
            tickets: BTreeMap::new(),
            next: 0,
            served: Vec::new(),
            rejected: Vec::new(),
        }
    }

    fn arrive(&mut self, clients: &[Client], i: usize) -> bool {
        let id = self.next;
        self.next += 1;
        let c = clients[i];
        let schema: Arc<str> = "s".into();
        match self.set.start(self.now, c.work, c.flow, &schema, "".into(), || id) {
            Start::Execute(t) => {
                self.tickets.insert(id, (i, t));
                self.run(clients, id);
            }
            Start::Wait(t, _) => {
                self.tickets.insert(id, (i, t));
                for w in self.set.dispatch_all(self.now) {
                    self.run(clients, w);
                }
            }
            Start::Reject(_) => {
                self.rejected[i] += 1;
                return false;
            }
        }
        true
    }

    fn run(&mut self, clients: &[Client], id: u32) {
        let (i, t) = self.tickets[&id];
        self.running.entry(self.now + clients[i].took).or_default().push((id, t));
    }

    /// Each client always has its number of requests in the system.
    fn play(&mut self, clients: &[Client], until: u64) {
        self.served = vec![0; clients.len()];
        self.rejected = vec![0; clients.len()];
        for (i, c) in clients.iter().enumerate() {
            for _ in 0..c.parallel {
                self.arrive(clients, i);
            }
        }
        while let Some((at, ended)) = self.running.pop_first() {
            if at > until {
                break;
            }
            self.now = at;
            for (id, t) in ended {
                let (i, _) = self.tickets.remove(&id).expect("known");
                self.served[i] += 1;
                let (woken, later) = self.set.finish(at, t);
                assert!(later.is_none(), "no request of these lingers");
                for w in woken {
                    self.run(clients, w);
                }
                self.arrive(clients, i);
            }
        }
    }
}

const QUEUES: Response = Response::Queue { queues: 64, hand: 6, length: 50 };

fn client(flow: u64, parallel: usize, took: u64) -> Client {
    Client { flow, parallel, took, work: Work::ONE }
}

/// Spreads small numbers over the hash space.
fn flow(n: u64) -> u64 {
    n.wrapping_mul(0x9E37_79B9_7F4A_7C15)
}

#[test]
fn an_elephant_does_not_starve_mice() {
    let clients = [client(flow(1), 200, 10 * MS), client(flow(2), 2, 10 * MS), client(flow(3), 2, 10 * MS)];
    let mut s = Sim::new(QUEUES, 6);
    s.play(&clients, 10_000 * MS);
    // Six seats for ten seconds are 6000 runs. Queues are served alike: the elephant fills the six of its hand, each
    // mouse uses two of its own.
    let total: u64 = s.served.iter().sum();
    assert!((5990..=6010).contains(&total), "no seat is idle: {:?}", s.served);
    for mouse in &s.served[1..] {
        assert!(*mouse > 6000 * 2 / 12, "{:?}", s.served);
    }
}

#[test]
fn equal_flows_get_equal_seats() {
    let clients: Vec<Client> = (0..4).map(|i| client(flow(i + 10), 40, (5 + 5 * i) * MS)).collect();
    let mut s = Sim::new(QUEUES, 8);
    s.play(&clients, 20_000 * MS);
    // Seat time, not requests, is what is shared.
    let time: Vec<u64> = s.served.iter().zip(&clients).map(|(n, c)| n * c.took / MS).collect();
    let (lo, hi) = (*time.iter().min().unwrap(), *time.iter().max().unwrap());
    assert!(hi * 100 < lo * 135, "{time:?}");
}

#[test]
fn wide_requests_get_through() {
    let wide = Work { initial: 4, ..Work::ONE };
    let clients = [client(flow(1), 100, 10 * MS), Client { work: wide, ..client(flow(2), 1, 10 * MS) }];
    let mut s = Sim::new(QUEUES, 4);
    s.play(&clients, 5_000 * MS);
    assert!(s.served[1] > 50, "{:?}", s.served);
    // Wider than the level itself: runs alone.
    let wider = Work { initial: 9, ..Work::ONE };
    let clients = [client(flow(1), 10, 10 * MS), Client { work: wider, ..client(flow(2), 1, 10 * MS) }];
    let mut s = Sim::new(QUEUES, 4);
    s.play(&clients, 5_000 * MS);
    assert!(s.served[0] > 50 && s.served[1] > 10, "{:?}", s.served);
}

#[test]
fn full_queues_and_levels_refuse() {
    let mut s = Sim::new(Response::Queue { queues: 1, hand: 1, length: 3 }, 2);
    s.served = vec![0];
    s.rejected = vec![0];
    let c = [client(0, 0, 10 * MS)];
    assert_eq!((0..7).filter(|_| s.arrive(&c, 0)).count(), 5);
    assert_eq!(s.set.totals.rejected, 2);
    let mut q: QueueSet<u32> = QueueSet::new(0);
    q.configure(0, Response::Reject, 1, 1);
    let schema: Arc<str> = "s".into();
    let Start::Execute(t) = q.start(0, Work::ONE, 0, &schema, "".into(), || 0) else { panic!("free") };
    let second = q.start(0, Work::ONE, 0, &schema, "".into(), || 1);
    assert_eq!(second, Start::Reject(Rejection::ConcurrencyLimit));
    q.finish(5, t);
    assert!(q.is_idle());
    assert!(matches!(q.start(6, Work::ONE, 0, &schema, "".into(), || 2), Start::Execute(_)));
}

#[test]
fn cancelled_and_lingering() {
    let mut q: QueueSet<u32> = QueueSet::new(0);
    q.configure(0, Response::Queue { queues: 2, hand: 1, length: 5 }, 2, 2);
    let schema: Arc<str> = "s".into();
    let lingering = Work { initial: 1, last: 2, extra: 5 * MS };
    let Start::Execute(a) = q.start(0, lingering, 0, &schema, "".into(), || 0) else { panic!("free") };
    let Start::Wait(b, 1) = q.start(0, Work::ONE, 0, &schema, "".into(), || 1) else { panic!("full") };
    let Start::Wait(c, 2) = q.start(0, Work::ONE, 0, &schema, "".into(), || 2) else { panic!("full") };
    assert!(q.dispatch_all(0).is_empty());
    assert!(q.cancel(MS, b, true), "it waited");
    let (woken, later) = q.finish(2 * MS, a);
    assert_eq!((woken, later), (vec![], Some(5 * MS)));
    assert_eq!(q.release(7 * MS, a), [2], "the last seats are free");
    assert!(!q.cancel(7 * MS, c, false), "it runs already");
    q.finish(8 * MS, c);
    assert!(q.is_idle());
    assert_eq!(q.seats_in_use(), 0);
    assert_eq!((q.totals.timed_out, q.totals.cancelled, q.totals.dispatched), (1, 1, 2));
}

#[test]
fn fewer_queues_lose_nobody() {
    let mut q: QueueSet<u32> = QueueSet::new(0);
    q.configure(0, Response::Queue { queues: 16, hand: 1, length: 5 }, 1, 1);
    let schema: Arc<str> = "s".into();
    let mut tickets = BTreeMap::new();
    for i in 0..16u32 {
        match q.start(0, Work::ONE, u64::from(i), &schema, "".into(), || i) {
            Start::Execute(t) | Start::Wait(t, _) => tickets.insert(i, t),
            Start::Reject(_) => panic!("there is room"),
        };
    }
    q.configure(1, Response::Reject, 1, 1);
    let mut current = 0;
    let mut order = vec![0];
    while let (woken, _) = q.finish(10, tickets[&current])
        && let [next] = woken[..]
    {
        current = next;
        order.push(next);
    }
    order.sort_unstable();
    assert_eq!(order, (0..16).collect::<Vec<_>>());
    assert!(q.is_idle() && q.dump_queues().is_empty());
}

proptest::proptest! {
    /// Whatever comes and goes, seats are never overrun, all is served, and the counters end at zero.
    #[test]
    fn bookkeeping_holds(steps in proptest::collection::vec((0u8..4, 0u64..8, 1u32..4), 1..200)) {
        let mut q: QueueSet<u32> = QueueSet::new(0);
        q.configure(0, Response::Queue { queues: 4, hand: 2, length: 4 }, 5, 5);
        let schema: Arc<str> = "s".into();
        let (mut running, mut waiting): (Vec<Ticket>, BTreeMap<u32, Ticket>) = Default::default();
        for (n, (what, flow, seats)) in steps.iter().enumerate() {
            let now = n as u64 * MS;
            let mut woken = Vec::new();
            match what {
                0 | 1 => match q.start(now, Work { initial: *seats, ..Work::ONE }, *flow, &schema, "".into(), || n as u32) {
                    Start::Execute(t) => running.push(t),
                    Start::Wait(t, _) => {
                        waiting.insert(n as u32, t);
                        woken = q.dispatch_all(now);
                    }
                    Start::Reject(_) => {}
                },
                2 if !running.is_empty() => {
                    let t = running.remove(*flow as usize % running.len());
                    woken = q.finish(now, t).0;
                }
                3 => {
                    if let Some((_, t)) = waiting.pop_first() {
                        proptest::prop_assert!(q.cancel(now, t, true));
                        woken = q.dispatch_all(now);
                    }
                }
                _ => {}
            }
            for w in woken {
                running.push(waiting.remove(&w).expect("it waited"));
            }
            proptest::prop_assert_eq!(q.executing(), running.len());
            proptest::prop_assert_eq!(q.waiting(), waiting.len());
            proptest::prop_assert!(q.seats_in_use() <= 5);
            proptest::prop_assert!(waiting.is_empty() || q.seats_in_use() > 2, "seats idle while the narrowest would fit");
        }
        let mut now = steps.len() as u64 * MS;
        while let Some(t) = running.pop() {
            now += MS;
            for w in q.finish(now, t).0 {
                running.push(waiting.remove(&w).expect("it waited"));
            }
        }
        proptest::prop_assert!(waiting.is_empty() && q.is_idle());
        proptest::prop_assert_eq!(q.seats_in_use(), 0);
    }
}

fn controller(seats: u64) -> Arc<Controller> {
    Controller::new(seats, &component_base::metrics::Metrics::default())
}

fn level(name: &str, shares: u32, lendable: u32, response: Value) -> Value {
    json!({"metadata": {"name": name, "uid": format!("pl-{name}")}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response}}})
}

fn schema(name: &str, precedence: u32, level: &str, user: &str) -> Value {
    json!({"metadata": {"name": name, "uid": format!("fs-{name}")}, "spec": {
        "matchingPrecedence": precedence, "priorityLevelConfiguration": {"name": level},
        "distinguisherMethod": {"type": "ByUser"},
        "rules": [{"subjects": [{"kind": "User", "user": {"name": user}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}]}]}})
}

fn read() -> RequestInfo {
    RequestInfo { is_resource: true, verb: "get".into(), resource: "pods".into(), ..RequestInfo::default() }
}

fn named(name: &str) -> UserInfo {
    UserInfo { name: name.into(), groups: vec!["system:authenticated".into()], ..UserInfo::default() }
}

#[test]
fn configuration() {
    let c = controller(100);
    let o = Objects::default();
    assert_eq!(&*c.classify(&read(), &named("eve")).expect("always").name, "catch-all");
    let queue = json!({"type": "Queue", "queuing": {"queues": 8, "handSize": 2, "queueLengthLimit": 5}});
    o.upsert("prioritylevelconfigurations", &level("a", 45, 50, queue));
    o.upsert("flowschemas", &schema("late", 500, "a", "*"));
    o.upsert("flowschemas", &schema("early", 400, "a", "eve"));
    o.upsert("flowschemas", &schema("lost", 1, "nowhere", "*"));
    let conditions = c.digest(&o);
    let of = |n: &str| conditions.iter().find(|d| d.schema == n).expect("a condition").condition();
    assert_eq!(of("early")["status"], "False");
    assert_eq!(
        of("lost")["message"],
        "This FlowSchema references the PriorityLevelConfiguration object named \"nowhere\" but there is no such object"
    );
    assert_eq!(&*c.classify(&read(), &named("eve")).expect("a schema").name, "early");
    assert_eq!(&*c.classify(&read(), &named("bob")).expect("a schema").name, "late");
    let admin = UserInfo { groups: vec!["system:masters".into()], ..named("root") };
    assert!(c.classify(&read(), &admin).expect("a schema").exempt);
    // 45 and 5 shares of 100 seats; half of the 90 may be lent.
    let limits = |n: &str| c.views().iter().find(|v| &*v.level.name == n).expect("a level").limits;
    assert_eq!((limits("a").nominal, limits("a").lower, limits("catch-all").nominal), (90, 45, 10));
    // A level that goes away stays while something of it is left.
    o.remove("prioritylevelconfigurations", "a");
    c.digest(&o);
    assert_eq!(&*c.classify(&read(), &named("eve")).expect("a schema").name, "catch-all");
    c.digest(&o);
    assert!(!c.views().iter().any(|v| &*v.level.name == "a"));
}

#[tokio::test]
async fn waiting_refused_and_borrowed() {
    let c = controller(10);
    let o = Objects::default();
    let queue = json!({"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}});
    o.upsert("prioritylevelconfigurations", &level("a", 5, 0, queue));
    o.upsert("flowschemas", &schema("s", 400, "a", "*"));
    c.digest(&o);
    let (info, user, query) = (read(), named("eve"), Query::default());
    let entry = Entry {
        info: &info,
        user: &user,
        query: &query,
        stats: None,
        timeout: Some(Duration::from_millis(800)),
    };
    let mut held = Vec::new();
    for _ in 0..5 {
        held.push(c.enter(&entry).await.ok().flatten().expect("a seat"));
    }
    let next = c.enter(&entry);
    tokio::pin!(next);
    assert!(futures::poll!(next.as_mut()).is_pending());
    let table = super::dump::requests(&c, true);
    assert!(table.contains("0,") && table.lines().count() == 7, "{table}");
    // A client that goes away leaves no trace.
    {
        let gone = c.enter(&entry);
        tokio::pin!(gone);
        assert!(futures::poll!(gone.as_mut()).is_pending());
        let Err(refused) = c.enter(&entry).await else { panic!("the queue is full") };
        assert_eq!((refused.retry_after, refused.class.schema.to_str().expect("text")), (1, "fs-s"));
    }
    held.pop();
    let permit = next.await.ok().flatten().expect("the next in turn");
    assert_eq!(permit.class().level, "pl-a");
    // A quarter of the request's time is all it may wait.
    let before = tokio::time::Instant::now();
    assert!(c.enter(&entry).await.is_err());
    let waited = before.elapsed();
    assert!((200..600).contains(&waited.as_millis()), "{waited:?}");
    drop((held, permit));
    assert!(c.views().iter().all(|v| v.level.queues.lock().is_idle()));
    let text = super::dump::priority_levels(&c);
    assert!(text.starts_with("PriorityLevelName, ActiveQueues, IsIdle, "), "{text}");
}

#[test]
fn idle_levels_lend() {
    let c = controller(100);
    let o = Objects::default();
    let reject = json!({"type": "Reject"});
    o.upsert("prioritylevelconfigurations", &level("busy", 50, 50, reject.clone()));
    o.upsert("prioritylevelconfigurations", &level("idle", 45, 80, reject));
    c.digest(&o);
    let limit = |n: &str| c.views().iter().find(|v| &*v.level.name == n).expect("a level").limits.current;
    // The busy level takes all it has, for a whole period.
    let views = c.views();
    let busy = views.iter().find(|v| &*v.level.name == "busy").expect("a level");
    let schema: Arc<str> = "s".into();
    let second = 1_000_000_000;
    let n = limit("busy");
    for _ in 0..n {
        let (tx, _rx) = tokio::sync::oneshot::channel();
        let started = busy.level.queues.lock().start(second, Work::ONE, 0, &schema, "".into(), move || tx);
        assert!(matches!(started, Start::Execute(_)));
    }
    c.levels.lock().adjust(11 * second);
    assert!(limit("busy") > 50, "it borrows: {}", limit("busy"));
    assert!(limit("idle") >= 9, "it keeps what it does not lend: {}", limit("idle"));
    let sum: u64 = ["busy", "idle", "catch-all"].iter().map(|n| limit(n)).sum();
    assert!(sum <= 101, "seats are lent, not made: {sum}");
}
