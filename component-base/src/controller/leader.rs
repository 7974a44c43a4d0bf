//! Leader election by Lease: of several instances of a daemon, one works and the others stand by.
//!
//! Instances never trust each other's clocks: a lease counts as expired when it has not *changed* for its duration as
//! seen by the local clock. [`Election`] decides and is pure; [`LeaderElector`] reads and writes the Lease.

use std::future::Future;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use kube::api::{Api, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Which Lease, and how fast.
#[derive(Clone, Debug)]
pub struct LeaderConfig {
    /// Namespace of the Lease.
    pub namespace: String,
    /// Name of the Lease.
    pub name: String,
    /// Who this instance is; unique per process.
    pub identity: String,
    /// How long standbys wait after the last change before they take over.
    pub lease_duration: Duration,
    /// How long the leader tries to renew before it gives up.
    pub renew_deadline: Duration,
    /// Pause between tries.
    pub retry_period: Duration,
}

impl LeaderConfig {
    /// Upstream's timing: 15, 10 and 2 seconds.
    pub fn new(namespace: impl Into<String>, name: impl Into<String>, identity: impl Into<String>) -> Self {
        Self {
            namespace: namespace.into(),
            name: name.into(),
            identity: identity.into(),
            lease_duration: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry_period: Duration::from_secs(2),
        }
    }
}

/// `hostname_uuid`, as upstream's daemons call themselves.
pub fn default_identity() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{}_{}", host.trim(), uuid::Uuid::new_v4())
}

/// What to do about a Lease just read.
#[derive(Debug, PartialEq)]
pub enum Verdict {
    /// Someone else holds it; ask again later.
    Wait,
    /// Write this: it takes or renews the lease.
    Claim(Box<LeaseSpec>),
}

/// The pure part: remembers what was seen and when it last changed.
pub struct Election {
    identity: String,
    lease_duration: Duration,
    seen: Option<LeaseSpec>,
    changed_at: Option<Instant>,
}

impl Election {
    /// Nothing seen yet.
    pub fn new(identity: impl Into<String>, lease_duration: Duration) -> Self {
        Self { identity: identity.into(), lease_duration, seen: None, changed_at: None }
    }

    /// Who holds the lease, as last seen.
    pub fn holder(&self) -> &str {
        self.seen.as_ref().and_then(|s| s.holder_identity.as_deref()).unwrap_or_default()
    }

    /// Whether this instance holds it, as last seen.
    pub fn is_leader(&self) -> bool {
        !self.identity.is_empty() && self.holder() == self.identity
    }

    /// Judges the Lease's content (`None`: there is no Lease) at `now`; `wall` goes into the claim.
    pub fn judge(&mut self, lease: Option<&LeaseSpec>, now: Instant, wall: Timestamp) -> Verdict {
        let Some(spec) = lease else {
            return Verdict::Claim(Box::new(self.claim(wall, wall, 0)));
        };
        if self.seen.as_ref() != Some(spec) {
            self.seen = Some(spec.clone());
            self.changed_at = Some(now);
        }
        let transitions = spec.lease_transitions.unwrap_or(0);
        if self.is_leader() {
            let acquired = spec.acquire_time.as_ref().map_or(wall, |t| t.0);
            return Verdict::Claim(Box::new(self.claim(acquired, wall, transitions)));
        }
        let expired =
            self.changed_at.is_none_or(|at| now.saturating_duration_since(at) >= self.lease_duration);
        if !self.holder().is_empty() && !expired {
            return Verdict::Wait;
        }
        Verdict::Claim(Box::new(self.claim(wall, wall, transitions + 1)))
    }

    /// The claim was accepted by the server.
    pub fn claimed(&mut self, spec: LeaseSpec, now: Instant) {
        self.seen = Some(spec);
        self.changed_at = Some(now);
    }

    /// What to write to let others take over at once.
    pub fn release(&self, wall: Timestamp) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(String::new()),
            lease_duration_seconds: Some(1),
            renew_time: Some(MicroTime(micros(wall))),
            acquire_time: Some(MicroTime(micros(wall))),
            lease_transitions: self.seen.as_ref().and_then(|s| s.lease_transitions),
            ..LeaseSpec::default()
        }
    }

    fn claim(&self, acquired: Timestamp, wall: Timestamp, transitions: i32) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: Some(i32::try_from(self.lease_duration.as_secs()).unwrap_or(i32::MAX)),
            acquire_time: Some(MicroTime(micros(acquired))),
            renew_time: Some(MicroTime(micros(wall))),
            lease_transitions: Some(transitions),
            ..LeaseSpec::default()
        }
    }
}

/// The API keeps microseconds; what is remembered must equal what is read back.
fn micros(t: Timestamp) -> Timestamp {
    Timestamp::from_microsecond(t.as_microsecond()).unwrap_or(t)
}

/// How the time as leader ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was asked to stop, and the lease was released.
    Stopped,
    /// The lease was lost, or could not be renewed in time: the daemon must exit at once.
    Lost,
}

/// Takes part in the election for one Lease.
pub struct LeaderElector {
    api: Api<Lease>,
    config: LeaderConfig,
    election: Election,
    lease: Option<Lease>,
    leading: watch::Sender<bool>,
}

impl LeaderElector {
    /// Takes no part yet; see [`LeaderElector::run`].
    pub fn new(client: kube::Client, config: LeaderConfig) -> Self {
        let api = Api::namespaced(client, &config.namespace);
        let election = Election::new(config.identity.clone(), config.lease_duration);
        Self { api, config, election, lease: None, leading: watch::channel(false).0 }
    }

    /// Follows whether this instance leads, for metrics and health checks.
    pub fn leading(&self) -> watch::Receiver<bool> {
        self.leading.subscribe()
    }

    /// Waits to become leader, then runs `work` until it ends, `stop` is cancelled or the lease is lost. The token
    /// given to `work` is cancelled in both latter cases, and `work` is waited for before the lease is released.
    pub async fn run<F, Fut>(mut self, stop: CancellationToken, work: F) -> Ended
    where
        F: FnOnce(CancellationToken) -> Fut,
        Fut: Future<Output = ()>,
    {
        if !self.acquire(&stop).await {
            return Ended::Stopped;
        }
        tracing::info!(lease = self.config.name, identity = self.config.identity, "became leader");
        self.leading.send_replace(true);
        let term = stop.child_token();
        let ended = {
            let work = work(term.clone());
            tokio::pin!(work);
            let ended = tokio::select! {
                () = &mut work => None,
                ended = self.hold(&stop) => Some(ended),
            };
            if let Some(ended) = ended {
                term.cancel();
                if ended == Ended::Stopped {
                    // Give workers time to finish their writes, but never longer than the lease lasts.
                    let _ = tokio::time::timeout(self.config.renew_deadline, &mut work).await;
                }
                ended
            } else {
                Ended::Stopped
            }
        };
        self.leading.send_replace(false);
        if ended == Ended::Stopped {
            self.release().await;
        } else {
            tracing::error!(lease = self.config.name, "leader election lost");
        }
        ended
    }

    async fn acquire(&mut self, stop: &CancellationToken) -> bool {
        let mut told = String::new();
        loop {
            let held = tokio::select! {
                () = stop.cancelled() => return false,
                held = self.try_once() => held,
            };
            match held {
                Ok(true) => return true,
                Ok(false) => {
                    if self.election.holder() != told {
                        self.election.holder().clone_into(&mut told);
                        tracing::info!(lease = self.config.name, holder = told, "standing by for the leader");
                    }
                }
                Err(error) => {
                    tracing::warn!(lease = self.config.name, %error, "can't read or write the Lease, trying again")
                }
            }
            // Jitter keeps standbys from asking in step.
            let pause = self.config.retry_period.mul_f64(1.0 + 1.2 * rand::random::<f64>());
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn hold(&mut self, stop: &CancellationToken) -> Ended {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                () = tokio::time::sleep(self.config.retry_period) => {}
            }
            let left = self.config.renew_deadline.saturating_sub(renewed.elapsed());
            // One request that hangs must leave time for another.
            let patience = left.min(self.config.renew_deadline / 2);
            let held = tokio::select! {
                () = stop.cancelled() => return Ended::Stopped,
                held = tokio::time::timeout(patience, self.try_once()) => held,
            };
            match held {
                Ok(Ok(true)) => {
                    renewed = Instant::now();
                    continue;
                }
                Ok(Ok(false)) => return Ended::Lost,
                Ok(Err(error)) => {
                    tracing::warn!(lease = self.config.name, %error, "can't renew the Lease, trying again")
                }
                Err(_) => tracing::warn!(
                    lease = self.config.name,
                    seconds = patience.as_secs_f32(),
                    "no answer when renewing the Lease, trying again"
                ),
            }
            if renewed.elapsed() >= self.config.renew_deadline {
                return Ended::Lost;
            }
        }
    }

    /// One round: read (unless what we wrote last should still be there), judge, write.
    async fn try_once(&mut self) -> kube::Result<bool> {
        let fresh = if self.election.is_leader() { self.lease.take() } else { None };
        let current = match fresh {
            Some(lease) => Some(lease),
            None => self.api.get_opt(&self.config.name).await?,
        };
        let spec = current.as_ref().map(|l| l.spec.clone().unwrap_or_default());
        let Verdict::Claim(claim) = self.election.judge(spec.as_ref(), Instant::now(), Timestamp::now())
        else {
            return Ok(false);
        };
        self.write(current, *claim).await
    }

    async fn write(&mut self, current: Option<Lease>, spec: LeaseSpec) -> kube::Result<bool> {
        let written = match current {
            Some(mut lease) => {
                lease.spec = Some(spec.clone());
                self.api.replace(&self.config.name, &PostParams::default(), &lease).await
            }
            None => {
                let metadata = ObjectMeta { name: Some(self.config.name.clone()), ..ObjectMeta::default() };
                self.api.create(&PostParams::default(), &Lease { metadata, spec: Some(spec.clone()) }).await
            }
        };
        match written {
            Ok(lease) => {
                self.election.claimed(lease.spec.clone().unwrap_or(spec), Instant::now());
                self.lease = Some(lease);
                Ok(true)
            }
            // Someone wrote in between: the next round reads what they wrote.
            Err(kube::Error::Api(s)) if s.code == 409 => {
                if self.election.is_leader() {
                    return Err(kube::Error::Api(s));
                }
                Ok(false)
            }
            Err(e) => Err(e),
        }
    }

    async fn release(&mut self) {
        if !self.election.is_leader() {
            return;
        }
        let spec = self.election.release(Timestamp::now());
        let current = match self.lease.take() {
            Some(lease) => Ok(Some(lease)),
            None => self.api.get_opt(&self.config.name).await,
        };
        let result = match current {
            Ok(Some(mut lease)) => {
                lease.spec = Some(spec);
                let replace =
                    async { self.api.replace(&self.config.name, &PostParams::default(), &lease).await };
                match tokio::time::timeout(self.config.renew_deadline, replace).await {
                    Ok(done) => done.map(|_| ()),
                    Err(_) => {
                        return tracing::warn!(
                            lease = self.config.name,
                            "no answer when releasing the Lease"
                        );
                    }
                }
            }
            Ok(None) => Ok(()),
            Err(e) => Err(e),
        };
        match result {
            Ok(()) => tracing::info!(lease = self.config.name, "released the Lease"),
            Err(error) => tracing::warn!(lease = self.config.name, %error, "can't release the Lease"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: Duration = Duration::from_secs(15);

    fn claim(e: &mut Election, lease: Option<&LeaseSpec>, at: Instant) -> Option<LeaseSpec> {
        match e.judge(lease, at, Timestamp::UNIX_EPOCH) {
            Verdict::Claim(spec) => Some(*spec),
            Verdict::Wait => None,
        }
    }

    #[test]
    fn one_takes_and_the_other_waits_until_it_stops_changing() {
        let (mut a, mut b) = (Election::new("a", D), Election::new("b", D));
        let t = Instant::now();
        let mut lease = claim(&mut a, None, t).expect("no lease: take it");
        a.claimed(lease.clone(), t);
        assert!(a.is_leader());
        for i in 1..10u64 {
            let now = t + Duration::from_secs(2 * i);
            lease.renew_time = Some(MicroTime(Timestamp::UNIX_EPOCH + Duration::from_secs(i)));
            assert!(claim(&mut b, Some(&lease), now).is_none(), "it keeps changing");
        }
        let last_change = t + Duration::from_secs(18);
        assert!(claim(&mut b, Some(&lease), last_change + Duration::from_secs(14)).is_none());
        let won = claim(&mut b, Some(&lease), last_change + D).expect("expired");
        assert_eq!(won.holder_identity.as_deref(), Some("b"));
        assert_eq!(won.lease_transitions, Some(1));
        assert!(claim(&mut a, Some(&won), t).is_none(), "the old leader steps back");
        assert!(!a.is_leader());
    }

    #[test]
    fn a_released_lease_is_taken_at_once() {
        let (mut a, mut b) = (Election::new("a", D), Election::new("b", D));
        let t = Instant::now();
        let lease = claim(&mut a, None, t).expect("take");
        a.claimed(lease, t);
        let free = a.release(Timestamp::UNIX_EPOCH);
        assert!(claim(&mut b, Some(&free), t).is_some());
    }

    #[test]
    fn renewing_keeps_when_it_was_acquired() {
        let mut a = Election::new("a", D);
        let t = Instant::now();
        let first = claim(&mut a, None, t).expect("take");
        a.claimed(first.clone(), t);
        let Verdict::Claim(second) = a.judge(Some(&first), t, Timestamp::UNIX_EPOCH + Duration::from_secs(2))
        else {
            panic!("the leader renews")
        };
        assert_eq!(second.acquire_time, first.acquire_time);
        assert_eq!(second.lease_transitions, first.lease_transitions);
        assert_ne!(second.renew_time, first.renew_time);
    }
}
