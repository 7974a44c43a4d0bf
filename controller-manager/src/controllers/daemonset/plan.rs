//! Pure part: which pods a daemon set makes and deletes now, and what its status says.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::failed::FailedPods;
use super::fit::{Conditions, Fit};
use super::model;
use crate::util::{meta, pods};

/// Pods made, and pods deleted, in one go at most.
const BURST: usize = 250;

/// What is known when a daemon set is looked at.
pub struct Seen<'a> {
    pub ds: &'a DaemonSet,
    pub nodes: &'a [Arc<Node>],
    /// The set's pods.
    pub pods: &'a [Arc<Pod>],
    /// Hash of the present template.
    pub hash: &'a str,
    pub failed: &'a FailedPods,
    pub now: Timestamp,
}

/// What to do.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes that get a pod.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Nodes where a failed pod is among those deleted.
    pub failed_on: Vec<String>,
    /// Events: whether a warning, reason, message.
    pub events: Vec<(bool, &'static str, String)>,
    /// When to look again.
    pub again: Option<SignedDuration>,
}

/// A node with its pods.
struct Place<'a> {
    fit: Fit,
    /// Whether the node exists.
    exists: bool,
    /// Scheduled ones first, then from old to young.
    pods: Vec<&'a Arc<Pod>>,
}

type Places<'a> = BTreeMap<&'a str, Place<'a>>;

fn places<'a>(seen: &Seen<'a>) -> Places<'a> {
    let conditions = Conditions::of(seen.ds);
    let mut all: Places<'a> = BTreeMap::new();
    for node in seen.nodes {
        let place = Place { fit: conditions.judge(node), exists: true, pods: Vec::new() };
        all.insert(meta::name(&node.metadata), place);
    }
    for pod in seen.pods {
        // Ended and being deleted: somebody else holds it, it takes no place.
        if pods::is_terminal(pod) && pod.metadata.deletion_timestamp.is_some() {
            continue;
        }
        let Some(node) = model::node_of(pod) else { continue };
        let gone = Place { fit: Fit { run: false, stay: false }, exists: false, pods: Vec::new() };
        all.entry(node).or_insert(gone).pods.push(pod);
    }
    for place in all.values_mut() {
        place.pods.sort_by_key(|p| {
            (pods::node(p).is_empty(), meta::created(&p.metadata), meta::name(&p.metadata).to_owned())
        });
    }
    all
}

/// Plans the next step. Pods that are updated wait until those that are missing or too many are dealt with.
pub fn plan(seen: &Seen<'_>) -> Plan {
    let places = places(seen);
    let mut plan = Plan::default();
    for (node, place) in &places {
        if place.exists {
            keep(seen, node, place, &mut plan);
        } else {
            // Nobody else deletes a pod that was never scheduled and never will be.
            let waiting = place.pods.iter().filter(|p| pods::node(p).is_empty() && alive(p));
            plan.delete.extend(waiting.map(|p| (*p).clone()));
        }
    }
    if plan.create.is_empty() && plan.delete.is_empty() && model::is_rolling(seen.ds) {
        roll(seen, &places, &mut plan);
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan
}

fn alive(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_none()
}

fn available(seen: &Seen<'_>, pod: &Pod) -> bool {
    pods::is_available(pod, model::min_ready(seen.ds), seen.now)
}

/// Brings a node to the right number of pods.
fn keep(seen: &Seen<'_>, node: &str, place: &Place<'_>, plan: &mut Plan) {
    if place.fit.run && place.pods.is_empty() {
        return plan.create.push(node.to_owned());
    }
    if !place.fit.stay {
        let all = place.pods.iter().filter(|p| alive(p));
        return plan.delete.extend(all.map(|p| (*p).clone()));
    }
    let mut running: Vec<&Arc<Pod>> = Vec::new();
    for pod in place.pods.iter().filter(|p| alive(p)) {
        let name = format!("{}/{}", meta::namespace(&pod.metadata), meta::name(&pod.metadata));
        match pods::phase(pod) {
            "Failed" => {
                if let Some(left) = seen.failed.left(meta::uid(&seen.ds.metadata), node, seen.now) {
                    plan.again = Some(plan.again.map_or(left, |a| a.min(left)));
                    continue;
                }
                let message = format!("Found failed daemon pod {name} on node {node}, will try to kill it");
                plan.events.push((true, "FailedDaemonPod", message));
                plan.failed_on.push(node.to_owned());
                plan.delete.push((*pod).clone());
            }
            "Succeeded" => {
                let message =
                    format!("Found succeeded daemon pod {name} on node {node}, will try to delete it");
                plan.events.push((false, "SucceededDaemonPod", message));
                plan.delete.push((*pod).clone());
            }
            _ => running.push(pod),
        }
    }
    if !model::surges(seen.ds) {
        return plan.delete.extend(running.into_iter().skip(1).cloned());
    }
    if running.is_empty() && place.fit.run {
        return plan.create.push(node.to_owned());
    }
    if running.len() < 2 {
        return;
    }
    // One of each kind, until the new one can stand alone or the old one is of no use.
    let (new, old): (Vec<_>, Vec<_>) =
        running.into_iter().partition(|p| model::is_new(seen.ds, p, seen.hash));
    plan.delete.extend(
        new.iter()
            .chain(&old)
            .filter(|p| {
                !new.first().is_some_and(|n| Arc::ptr_eq(n, p))
                    && !old.first().is_some_and(|o| Arc::ptr_eq(o, p))
            })
            .map(|p| (*p).clone()),
    );
    if let (Some(new), Some(old)) = (new.first(), old.first())
        && (!pods::is_ready(old) || available(seen, new))
    {
        plan.delete.push((*old).clone());
    }
}

/// A node's pods as an update sees them.
enum Update<'a> {
    /// Several of a kind: [`keep`] has to clean up first.
    Crowded,
    Pods {
        new: Option<&'a Arc<Pod>>,
        old: Option<&'a Arc<Pod>>,
    },
}

fn update_of<'a>(seen: &Seen<'_>, place: &Place<'a>) -> Update<'a> {
    let (mut new, mut old) = (None, None);
    for pod in place.pods.iter().filter(|p| alive(p)) {
        let slot = if model::is_new(seen.ds, pod, seen.hash) { &mut new } else { &mut old };
        if slot.replace(*pod).is_some() {
            return Update::Crowded;
        }
    }
    Update::Pods { new, old }
}

/// Replaces old pods within the limits of the update strategy.
fn roll(seen: &Seen<'_>, places: &Places<'_>, plan: &mut Plan) {
    let desired = i32::try_from(places.values().filter(|p| p.fit.run).count()).unwrap_or(i32::MAX);
    let (surge, unavailable) = model::limits(seen.ds, desired);
    if surge == 0 {
        roll_in_place(seen, places, unavailable, plan);
    } else {
        roll_with_surge(seen, places, surge, desired, plan);
    }
}

/// First the old pod goes, then [`keep`] makes the new one.
fn roll_in_place(seen: &Seen<'_>, places: &Places<'_>, most: i32, plan: &mut Plan) {
    let mut missing = 0;
    let mut candidates = Vec::new();
    for place in places.values().filter(|p| p.fit.run || !p.pods.is_empty()) {
        match update_of(seen, place) {
            Update::Pods { new: Some(new), old: None } => missing += i32::from(!available(seen, new)),
            Update::Pods { new: None, old: Some(old) } if available(seen, old) => {
                candidates.push(old.clone())
            }
            Update::Pods { new: None, old: Some(old) } => {
                // It is of no use anyway.
                plan.delete.push(old.clone());
                missing += 1;
            }
            Update::Pods { .. } | Update::Crowded => missing += 1,
        }
    }
    let room = usize::try_from(most - missing).unwrap_or(0);
    plan.delete.extend(candidates.into_iter().take(room));
}

/// The new pod comes beside the old one, which goes when the new one is available.
fn roll_with_surge(seen: &Seen<'_>, places: &Places<'_>, most: i32, desired: i32, plan: &mut Plan) {
    let (mut surging, mut serving) = (0, 0);
    let mut candidates = Vec::new();
    let mut misplaced = Vec::new();
    for (node, place) in places {
        let Update::Pods { new, old } = update_of(seen, place) else {
            surging += 1;
            continue;
        };
        serving += i32::from(old.or(new).is_some_and(|p| available(seen, p)));
        match (new, old) {
            (_, None) => {}
            (None, Some(old)) => match (available(seen, old), place.fit.run) {
                (false, false) => plan.delete.push(old.clone()),
                (false, true) => plan.create.push((*node).to_owned()),
                (true, false) => misplaced.push(old.clone()),
                (true, true) => candidates.push((*node).to_owned()),
            },
            (Some(new), Some(_)) if !available(seen, new) => surging += 1,
            (Some(_), Some(old)) => plan.delete.push(old.clone()),
        }
    }
    // A pod on a node that is no longer wanted serves until there are enough elsewhere.
    let spare = usize::try_from(serving - desired).unwrap_or(0);
    plan.delete.extend(misplaced.into_iter().take(spare));
    let room = usize::try_from(most - surging).unwrap_or(0);
    plan.create.extend(candidates.into_iter().take(room));
}

/// The status. `observe`: whether the present generation was dealt with.
pub fn status(seen: &Seen<'_>, collisions: i32, observe: bool) -> DaemonSetStatus {
    let mut s = seen.ds.status.clone().unwrap_or_default();
    let (mut desired, mut current, mut misplaced) = (0, 0, 0);
    let (mut ready, mut serving, mut updated) = (0, 0, 0);
    for place in places(seen).values().filter(|p| p.exists) {
        let first = place.pods.first();
        if !place.fit.run {
            misplaced += i32::from(first.is_some());
            continue;
        }
        desired += 1;
        let Some(pod) = first else { continue };
        current += 1;
        ready += i32::from(pods::is_ready(pod));
        serving += i32::from(available(seen, pod));
        updated += i32::from(model::is_new(seen.ds, pod, seen.hash));
    }
    s.desired_number_scheduled = desired;
    s.current_number_scheduled = current;
    s.number_misscheduled = misplaced;
    s.number_ready = ready;
    s.number_available = Some(serving).filter(|n| *n != 0);
    s.number_unavailable = Some(desired - serving).filter(|n| *n != 0);
    s.updated_number_scheduled = Some(updated).filter(|n| *n != 0);
    if collisions != 0 {
        s.collision_count = Some(collisions);
    }
    if observe {
        s.observed_generation = seen.ds.metadata.generation;
    }
    s
}

/// When the next ready pod becomes available.
pub fn next_available(seen: &Seen<'_>) -> Option<SignedDuration> {
    let wait = SignedDuration::from_secs(model::min_ready(seen.ds).into());
    let left = |p: &Arc<Pod>| Some(wait - seen.now.duration_since(pods::ready_since(p)?));
    seen.pods.iter().filter_map(left).filter(|l| l.is_positive()).min()
}
