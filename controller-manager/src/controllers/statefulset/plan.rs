//! Pure part: which pods of a stateful set to make, delete or mend now, and what its status says.
//!
//! The result is a list of tasks, one per pod. In a set that is ordered there is at most one that changes anything,
//! and what waits behind it is not in the list; in a parallel set tasks are independent of each other.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;

use super::claims::{self, Owners};
use super::model::{self, Replica, Wanted};
use crate::util::{meta, pods, revisions};

/// Pods made in one go, at most.
const BURST: usize = 500;

/// What is known when a set is looked at.
pub struct Seen<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    /// The claim of that name, if there is one.
    pub claim: &'a (dyn Fn(&str) -> Option<Arc<PersistentVolumeClaim>> + Sync),
    pub current: &'a ControllerRevision,
    pub update: &'a ControllerRevision,
    pub collisions: i32,
    pub now: Timestamp,
}

/// A write.
#[derive(Clone, Debug)]
pub enum Action {
    CreateClaim {
        claim: Box<PersistentVolumeClaim>,
        pod: String,
    },
    OwnClaim {
        claim: Arc<PersistentVolumeClaim>,
        owners: Vec<OwnerReference>,
    },
    CreatePod(Box<Pod>),
    DeletePod(Arc<Pod>),
    /// Give the pod the labels of its place.
    Identify(Arc<Pod>, i32),
    Warn {
        reason: &'static str,
        message: String,
    },
    /// The pod can't be made: why.
    Blocked {
        pod: String,
        why: String,
    },
}

/// What to do for one pod, in this order; an action that fails ends the task.
pub type Task = Vec<Action>;

/// What to do.
#[derive(Debug)]
pub struct Plan {
    /// The status if everything succeeds.
    pub status: StatefulSetStatus,
    pub tasks: Vec<Task>,
    /// Pods whose deletion begins their update: if it fails, they still count as current.
    pub updating: i32,
    /// When a pod becomes available.
    pub again: Option<SignedDuration>,
}

struct Look<'a> {
    seen: &'a Seen<'a>,
    wanted: Wanted<'a>,
    replicas: Vec<Replica>,
    /// Pods without a place, from the highest ordinal down.
    condemned: Vec<Arc<Pod>>,
    tasks: Vec<Task>,
}

/// Plans the next step of a set.
pub fn plan(seen: &Seen<'_>) -> Plan {
    let mut look = Look::new(seen);
    let mut status = look.status();
    let mut updating = 0;
    if seen.set.metadata.deletion_timestamp.is_none() && look.keep_replicas() && look.scale_down() {
        updating = look.update();
    }
    status.current_replicas = status.current_replicas.map(|n| n - updating);
    complete(&look.wanted, &mut status);
    tidy(&mut status);
    let again = look.again();
    let tasks = look.tasks.into_iter().filter(|t| !t.is_empty()).collect();
    Plan { status, tasks, updating, again }
}

impl<'a> Look<'a> {
    fn new(seen: &'a Seen<'a>) -> Self {
        let wanted = Wanted::new(seen.set);
        let mut placed: BTreeMap<i32, Arc<Pod>> = BTreeMap::new();
        let mut condemned = Vec::new();
        for pod in seen.pods {
            let Some(ordinal) = wanted.ordinal(pod) else { continue };
            if wanted.has_place(ordinal) {
                placed.insert(ordinal, pod.clone());
            } else {
                condemned.push(pod.clone());
            }
        }
        condemned.sort_by_key(|p| Reverse(wanted.ordinal(p)));
        let most = if wanted.parallel() { BURST } else { 1 };
        let (mut replicas, mut missing) = (Vec::new(), 0);
        for ordinal in wanted.start()..wanted.start().saturating_add(wanted.replicas()) {
            if let Some(pod) = placed.remove(&ordinal) {
                replicas.push(Replica::There(pod));
            } else if missing < most {
                missing += 1;
                replicas.push(Replica::Missing(Box::new(new_pod(seen, &wanted, ordinal))));
            } else {
                // Those behind wait for their turn.
                break;
            }
        }
        Self { seen, wanted, replicas, condemned, tasks: Vec::new() }
    }

    fn available(&self, pod: &Pod) -> bool {
        pods::is_available(pod, self.wanted.min_ready(), self.seen.now)
    }

    fn unavailable(&self, pod: &Pod) -> bool {
        !self.available(pod) || pod.metadata.deletion_timestamp.is_some()
    }

    /// Brings each pod that has a place to life. Says whether one may go on behind them.
    fn keep_replicas(&mut self) -> bool {
        let ordered = !self.wanted.parallel();
        for replica in self.replicas.clone() {
            let mut task = Vec::new();
            let stop = self.keep(&replica, ordered, &mut task);
            let blocked = task.iter().any(|a| matches!(a, Action::Blocked { .. }));
            self.tasks.push(task);
            if ordered && (stop || blocked) {
                return false;
            }
        }
        true
    }

    /// Says whether the pods behind this one must wait.
    fn keep(&self, replica: &Replica, ordered: bool, task: &mut Task) -> bool {
        let pod = match replica {
            Replica::Missing(pod) => {
                let ordinal = self.wanted.ordinal(pod).unwrap_or(0);
                if self.claims_go_first(pod, ordinal) {
                    return true;
                }
                if self.make_claims(pod, ordinal, task) {
                    task.push(Action::CreatePod(pod.clone()));
                }
                return ordered;
            }
            Replica::There(pod) => pod,
        };
        let going = pod.metadata.deletion_timestamp.is_some();
        if pods::is_terminal(pod) {
            if !going {
                task.push(Action::DeletePod(pod.clone()));
            }
            return true;
        }
        let ordinal = self.wanted.ordinal(pod).unwrap_or(0);
        if pods::phase(pod) == "Pending" {
            self.make_claims(pod, ordinal, task);
        }
        let running = pods::phase(pod) == "Running" && self.available(pod);
        if !ordered || (running && !going) {
            self.mend(pod, ordinal, task);
        } else {
            self.own_claims(pod, ordinal, task);
        }
        ordered && (going || !running)
    }

    /// The labels and claims a pod should have.
    fn mend(&self, pod: &Arc<Pod>, ordinal: i32, task: &mut Task) {
        let name = meta::name(&pod.metadata);
        let [(key, value), _] = model::identity(name, ordinal);
        if pod.metadata.labels.as_ref().and_then(|l| l.get(&key)) != Some(&value) {
            task.push(Action::Identify(pod.clone(), ordinal));
        }
        self.own_claims(pod, ordinal, task);
    }

    fn own_claims(&self, pod: &Pod, ordinal: i32, task: &mut Task) {
        for template in self.wanted.spec.volume_claim_templates.iter().flatten() {
            let name = self.wanted.claim_name(template, ordinal);
            let Some(claim) = (self.seen.claim)(&name) else { continue };
            let Owners::Set(owners) = claims::owners(&self.wanted, &claim, pod) else { continue };
            if claims::conflicting(&self.wanted, &claim, pod) {
                let message = format!(
                    "PersistentVolumeClaim {name} has a conflicting OwnerReference that acts as a manging controller, \
                     the retention policy is ignored for this claim"
                );
                task.push(Action::Warn { reason: "ConflictingController", message });
            }
            task.push(Action::OwnClaim { claim, owners });
        }
    }

    /// Makes claims that are missing. Says whether the pod can use them.
    fn make_claims(&self, pod: &Pod, ordinal: i32, task: &mut Task) -> bool {
        let pod = meta::name(&pod.metadata).to_owned();
        let mut usable = true;
        for claim in self.wanted.claims(ordinal) {
            match (self.seen.claim)(meta::name(&claim.metadata)) {
                None => task.push(Action::CreateClaim { claim: Box::new(claim), pod: pod.clone() }),
                Some(there) if there.metadata.deletion_timestamp.is_some() => {
                    let why = format!("pvc {} is being deleted", meta::name(&there.metadata));
                    task.push(Action::Blocked { pod: pod.clone(), why });
                    usable = false;
                }
                Some(_) => {}
            }
        }
        usable
    }

    /// Whether a claim is still to be deleted with an earlier pod.
    fn claims_go_first(&self, pod: &Pod, ordinal: i32) -> bool {
        self.wanted.deletes_claims().1
            && self.wanted.claims(ordinal).any(|c| {
                (self.seen.claim)(meta::name(&c.metadata))
                    .is_some_and(|c| claims::of_earlier_pod(&c, &pod.metadata))
            })
    }

    /// Deletes pods without a place. Says whether none is left to wait for.
    fn scale_down(&mut self) -> bool {
        let ordered = !self.wanted.parallel();
        let mut own = Vec::new();
        for pod in &self.condemned {
            let ordinal = self.wanted.ordinal(pod).unwrap_or(0);
            self.own_claims(pod, ordinal, &mut own);
        }
        self.tasks.push(own);
        let first_unhealthy = self
            .replicas
            .iter()
            .map(Replica::pod)
            .chain(self.condemned.iter().rev().map(Arc::as_ref))
            .find(|p| self.unavailable(p))
            .map(|p| meta::name(&p.metadata).to_owned());
        for pod in self.condemned.clone() {
            let going = pod.metadata.deletion_timestamp.is_some();
            let healthy = pods::phase(&pod) == "Running" && self.available(&pod);
            if ordered && (going || (!healthy && first_unhealthy.as_deref() != pod.metadata.name.as_deref()))
            {
                return false;
            }
            if !going {
                self.tasks.push(vec![Action::DeletePod(pod)]);
                if ordered {
                    return false;
                }
            }
        }
        true
    }

    /// Deletes pods of old revisions, the last first. Says how many.
    fn update(&mut self) -> i32 {
        if self.wanted.on_delete() {
            return 0;
        }
        let newest = meta::name(&self.seen.update.metadata);
        let first = usize::try_from(self.wanted.partition().unwrap_or(0)).unwrap_or(0);
        let old = |r: &Replica| {
            model::revision_of(r.pod()) != newest && r.pod().metadata.deletion_timestamp.is_none()
        };
        let mut victims = Vec::new();
        if let Some(most) = self.wanted.max_unavailable() {
            let down = self.replicas.iter().filter(|r| self.unavailable(r.pod())).count();
            let budget = usize::try_from(most).unwrap_or(1).saturating_sub(down);
            victims.extend(self.replicas.iter().skip(first).rev().filter(|r| old(r)).take(budget).cloned());
        } else {
            for replica in self.replicas.iter().skip(first).rev() {
                if old(replica) {
                    victims.push(replica.clone());
                    break;
                }
                if self.unavailable(replica.pod()) {
                    break;
                }
            }
        }
        let mut deleted = 0;
        for victim in victims {
            if let Replica::There(pod) = victim {
                self.tasks.push(vec![Action::DeletePod(pod)]);
                deleted += 1;
            }
        }
        deleted
    }

    fn status(&self) -> StatefulSetStatus {
        let (current, update) =
            (meta::name(&self.seen.current.metadata), meta::name(&self.seen.update.metadata));
        let number = |f: &dyn Fn(&Pod) -> bool| {
            i32::try_from(self.seen.pods.iter().filter(|p| f(p)).count()).unwrap_or(i32::MAX)
        };
        let of = |revision: &str| {
            number(&|p| p.metadata.deletion_timestamp.is_none() && model::revision_of(p) == revision)
        };
        let ready = |p: &Pod| pods::phase(p) == "Running" && pods::is_ready(p);
        StatefulSetStatus {
            observed_generation: self.seen.set.metadata.generation,
            current_revision: Some(current.to_owned()),
            update_revision: Some(update.to_owned()),
            collision_count: Some(self.seen.collisions),
            replicas: number(&|_| true),
            ready_replicas: Some(number(&ready)),
            available_replicas: Some(number(&|p| ready(p) && self.available(p))),
            current_replicas: Some(of(current)),
            updated_replicas: Some(of(update)),
            conditions: self.seen.set.status.as_ref().and_then(|s| s.conditions.clone()),
        }
    }

    fn again(&self) -> Option<SignedDuration> {
        let wait = SignedDuration::from_secs(self.wanted.min_ready().into());
        let left = |p: &Arc<Pod>| Some(wait - self.seen.now.duration_since(pods::ready_since(p)?));
        self.seen.pods.iter().filter_map(left).filter(|l| l.is_positive()).min()
    }
}

/// A pod for an empty place: of the current revision below the partition, else of the newest.
fn new_pod(seen: &Seen<'_>, wanted: &Wanted<'_>, ordinal: i32) -> Pod {
    let keep_current = match wanted.partition() {
        Some(partition) => partition,
        None if wanted.on_delete() => 0,
        None => seen.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0),
    };
    let old = ordinal < wanted.start().saturating_add(keep_current);
    let revision = if old { seen.current } else { seen.update };
    let template = revisions::template_of(revision).unwrap_or_else(|| wanted.spec.template.clone());
    wanted.pod(ordinal, &template, meta::name(&revision.metadata))
}

/// A finished rolling update makes the newest revision the current one.
fn complete(wanted: &Wanted<'_>, status: &mut StatefulSetStatus) {
    let all = Some(wanted.replicas());
    let done = status.updated_replicas == all && status.ready_replicas == all && Some(status.replicas) == all;
    if done && !wanted.on_delete() {
        status.current_replicas = status.updated_replicas;
        status.current_revision = status.update_revision.clone();
    }
}

/// The API leaves zero counts out, but for available replicas.
fn tidy(status: &mut StatefulSetStatus) {
    for n in [&mut status.ready_replicas, &mut status.current_replicas, &mut status.updated_replicas] {
        *n = n.filter(|n| *n != 0);
    }
}
