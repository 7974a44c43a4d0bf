//! The loop that owns the state: applies changes, and writes rules when some have gathered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use component_base::process::Shutdown;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use super::setup;
use super::watches::{Change, KINDS, Msg, NodeFacts};
use crate::conntrack::{self, Flows};
use crate::health::{ProxyHealth, ServiceHealth};
use crate::metrics::{Ip, Metrics};
use crate::model::state::State;
use crate::model::{Family, Here, Service, ServiceName};
use crate::options::Settings;
use crate::sync::Backend;

/// One address family with its rules.
struct Side {
    family: Family,
    backend: Backend,
    state: State,
    /// UDP flows that the installed rules allow.
    flows: BTreeMap<ServiceName, Flows>,
}

/// The proxy at work.
pub struct Proxier {
    settings: Arc<Settings>,
    sides: Vec<Side>,
    here: Here,
    node: NodeFacts,
    /// The service and family of each slice.
    slices: HashMap<ServiceName, (ServiceName, Family)>,
    health: ProxyHealth,
    service_health: ServiceHealth,
    health_dirty: BTreeSet<ServiceName>,
    metrics: Metrics,
    unsynced: usize,
    last: Option<Instant>,
    failures: u32,
    cleaned_other: bool,
}

impl Proxier {
    pub fn new(
        settings: Arc<Settings>,
        backends: Vec<(Family, Backend)>,
        health: ProxyHealth,
        service_health: ServiceHealth,
        metrics: Metrics,
    ) -> Self {
        let here = Here { node: settings.node.as_str().into(), zone: "".into() };
        let side =
            |(family, backend)| Side { family, backend, state: State::default(), flows: BTreeMap::new() };
        Self {
            sides: backends.into_iter().map(side).collect(),
            settings,
            here,
            node: NodeFacts::default(),
            slices: HashMap::new(),
            health,
            service_health,
            health_dirty: BTreeSet::new(),
            metrics,
            unsynced: KINDS,
            last: None,
            failures: 0,
            cleaned_other: false,
        }
    }

    /// Follows changes until `stop`.
    pub async fn run(mut self, mut changes: mpsc::Receiver<Change>, stop: Shutdown) {
        let period = setup::sync_period(&self.settings);
        let mut check = tokio::time::interval(period);
        check.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        check.reset();
        loop {
            let due = self.due();
            let wait = tokio::time::sleep(due.unwrap_or(Duration::from_secs(3600)));
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                change = changes.recv() => {
                    let Some(c) = change else { return };
                    self.apply(c);
                    while let Ok(c) = changes.try_recv() {
                        self.apply(c);
                    }
                }
                _ = check.tick() => self.check().await,
                () = wait => if due.is_some() { self.sync().await },
            }
        }
    }

    fn dirty(&self) -> bool {
        self.last.is_none() || self.failures > 0 || self.sides.iter().any(|s| s.state.is_dirty())
    }

    /// How long until rules may be written, if there is something to write.
    fn due(&self) -> Option<Duration> {
        if self.unsynced > 0 || !self.dirty() {
            return None;
        }
        let pause = if self.failures > 0 {
            let backoff = Duration::from_secs(1 << self.failures.min(5));
            backoff.min(setup::sync_period(&self.settings))
        } else {
            setup::min_sync_period(&self.settings)
        };
        Some(self.last.map_or(Duration::ZERO, |l| pause.saturating_sub(l.elapsed())))
    }

    /// Somebody may have flushed the tables.
    async fn check(&mut self) {
        if self.last.is_none() {
            return;
        }
        let mut lost = false;
        for s in &mut self.sides {
            if !s.backend.alive().await {
                warn!(family = s.family.name(), "rules were removed by somebody else, writing them again");
                s.backend.force_full();
                lost = true;
            }
        }
        if lost {
            self.sync().await;
        }
    }

    fn side(&mut self, family: Family) -> Option<&mut Side> {
        self.sides.iter_mut().find(|s| s.family == family)
    }

    fn apply(&mut self, c: Change) {
        let was = self.dirty();
        match c {
            Change::Service(Msg::Set(name, [v4, v6])) => {
                self.metrics.service_changes.inc();
                self.set_service(&name, v4, v6);
            }
            Change::Service(Msg::Gone(name)) => {
                self.metrics.service_changes.inc();
                self.set_service(&name, None, None);
            }
            Change::Service(Msg::Synced(seen)) => {
                let known: BTreeSet<ServiceName> =
                    self.sides.iter().flat_map(|s| s.state.services().map(|x| x.0.clone())).collect();
                for name in known.into_iter().filter(|n| !seen.contains(n)) {
                    self.set_service(&name, None, None);
                }
                self.unsynced = self.unsynced.saturating_sub(1);
            }
            Change::Slice(Msg::Set(slice, facts)) => {
                self.metrics.endpoint_changes.inc();
                let target = facts.as_ref().map(|f| (f.0.clone(), f.1));
                if self.slices.get(&slice) != target.as_ref() {
                    self.drop_slice(&slice);
                }
                if let Some((service, family, ports)) = facts {
                    self.slices.insert(slice.clone(), (service.clone(), family));
                    self.health_dirty.insert(service.clone());
                    if let Some(s) = self.side(family) {
                        s.state.set_slice(&service, &slice.name, Some(ports));
                    }
                }
            }
            Change::Slice(Msg::Gone(slice)) => {
                self.metrics.endpoint_changes.inc();
                self.drop_slice(&slice);
            }
            Change::Slice(Msg::Synced(seen)) => {
                let gone: Vec<ServiceName> =
                    self.slices.keys().filter(|n| !seen.contains(*n)).cloned().collect();
                gone.iter().for_each(|n| self.drop_slice(n));
                self.unsynced = self.unsynced.saturating_sub(1);
            }
            Change::Node(Msg::Set(_, facts)) => self.set_node(facts),
            Change::Node(Msg::Gone(_)) => self.health.set_eligible(false),
            Change::Node(Msg::Synced(seen)) => {
                if seen.is_empty() {
                    warn!(node = %self.here.node, "the Node object does not exist (yet)");
                }
                self.unsynced = self.unsynced.saturating_sub(1);
            }
        }
        if self.dirty() {
            self.health.queued();
            if !was {
                for s in &self.sides {
                    self.metrics.last_queued.get_or_create(&Ip { ip_family: s.family.name() }).set(now());
                }
            }
        }
    }

    fn set_service(&mut self, name: &ServiceName, v4: Option<Service>, v6: Option<Service>) {
        self.health_dirty.insert(name.clone());
        for (family, service) in [(Family::V4, v4), (Family::V6, v6)] {
            if let Some(s) = self.side(family) {
                s.state.set_service(name, service);
            }
        }
    }

    fn drop_slice(&mut self, slice: &ServiceName) {
        if let Some((service, family)) = self.slices.remove(slice) {
            self.health_dirty.insert(service.clone());
            if let Some(s) = self.side(family) {
                s.state.set_slice(&service, &slice.name, None);
            }
        }
    }

    fn set_node(&mut self, facts: NodeFacts) {
        self.health.set_eligible(facts.stays);
        if facts == self.node {
            return;
        }
        self.here.zone.clone_from(&facts.zone);
        let detector = setup::detector(&self.settings, &facts.pod_cidrs);
        for s in &mut self.sides {
            let of = |ips: Vec<std::net::IpAddr>| -> Vec<std::net::IpAddr> {
                ips.into_iter().filter(|i| Family::of(*i) == s.family).collect()
            };
            let ports = setup::node_port_ips(&self.settings, &facts.ips).map(of);
            s.backend.set_node(&self.here, &detector, of(facts.ips.clone()), ports);
            s.backend.force_full();
            s.state.mark_all();
        }
        info!(zone = %facts.zone, "facts of the node changed");
        self.node = facts;
    }

    async fn sync(&mut self) {
        let mut failed = false;
        for s in &mut self.sides {
            let dirty = s.state.take_dirty();
            let label = Ip { ip_family: s.family.name() };
            let begun = Instant::now();
            match s.backend.sync(&s.state, &dirty).await {
                Ok(o) => {
                    let took = begun.elapsed().as_secs_f64();
                    self.metrics.sync.get_or_create(&label).observe(took);
                    let kind = if o.full { &self.metrics.full_sync } else { &self.metrics.partial_sync };
                    kind.get_or_create(&label).observe(took);
                    self.metrics.last.get_or_create(&label).set(now());
                    self.metrics.rules.get_or_create(&label).set(o.total as i64);
                    self.metrics.rules_last.get_or_create(&label).set(o.written as i64);
                    info!(
                        family = s.family.name(),
                        changed = dirty.len(),
                        written = o.written,
                        total = o.total,
                        full = o.full,
                        ms = (took * 1000.0) as u64,
                        "rules are in sync"
                    );
                    s.forget_flows(&dirty, &self.here).await;
                }
                Err(e) => {
                    error!(
                        family = s.family.name(),
                        error = format!("{e:#}"),
                        "cannot write rules, trying again"
                    );
                    self.metrics.failures.get_or_create(&label).inc();
                    s.state.mark(dirty);
                    s.backend.force_full();
                    failed = true;
                }
            }
        }
        self.last = Some(Instant::now());
        if failed {
            self.failures += 1;
            return;
        }
        self.failures = 0;
        self.health.updated();
        for name in std::mem::take(&mut self.health_dirty) {
            let (mut port, mut local) = (0, 0);
            for s in &self.sides {
                port = port.max(s.state.service(&name).map_or(0, |x| x.health_check_node_port));
                local = local.max(s.state.local_ready(&name));
            }
            self.service_health.set(&name, port, local).await;
        }
        if !std::mem::replace(&mut self.cleaned_other, true) {
            super::clean_up_other(self.settings.mode).await;
        }
    }
}

impl Side {
    /// Drops UDP flows that the changed rules no longer stand for.
    async fn forget_flows(&mut self, dirty: &BTreeSet<ServiceName>, here: &Here) {
        for name in dirty {
            let new = conntrack::flows(&self.state, name, here);
            let old = if new.is_empty() {
                self.flows.remove(name)
            } else {
                self.flows.insert(name.clone(), new.clone())
            };
            let stale = conntrack::stale(&old.unwrap_or_default(), &new);
            if !stale.is_empty() {
                conntrack::forget(self.family, &stale).await;
            }
        }
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |d| d.as_secs_f64())
}
