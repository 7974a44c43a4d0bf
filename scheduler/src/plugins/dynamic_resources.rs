//! DynamicResources: the pod's ResourceClaims are allocated for a node, or can be.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use k8s_openapi::api::resource::v1 as api;

use crate::cache::{Cache, NodeInfo};
use crate::config::args;
use crate::dra::claims::{self, Shared};
use crate::dra::extended::{self, Mapping};
use crate::dra::request::{self, Wanted};
use crate::dra::search::{self, Failure, Matches};
use crate::dra::{Class, binding, result};
use crate::framework::event::ClaimChange;
use crate::framework::{Action, ClusterEvent, Cycle, Filter, Plugin, Rejection, Resource, Scorer, scale};
use crate::model::{NodeSelector, PodInfo, Str, convert};

/// The name in configuration and messages.
pub const NAME: &str = "DynamicResources";

/// An alternative counts more the earlier it comes (`FirstAvailableDeviceRequestMaxSize`).
const ALTERNATIVES: i64 = 8;

/// The plugin.
pub struct DynamicResources {
    filter_timeout: Option<Duration>,
    binding_timeout: Duration,
}

/// How long devices may take to get ready, if the configuration says nothing.
const BINDING_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the search may take for one node.
const FILTER_TIMEOUT: Duration = Duration::from_secs(10);

/// The time devices may take to get ready, of `DynamicResourcesArgs`.
///
/// # Errors
/// Arguments out of range.
pub fn binding_timeout(a: &args::DynamicResources) -> Result<Duration, String> {
    let timeout = a.binding_timeout.map_or(BINDING_TIMEOUT, |d| d.0);
    if timeout < Duration::from_secs(1) {
        return Err(format!("{NAME}: bindingTimeout: Invalid value: must be at least 1 second"));
    }
    Ok(timeout)
}

impl DynamicResources {
    /// The plugin with its arguments.
    ///
    /// # Errors
    /// Arguments out of range.
    pub fn new(a: &args::DynamicResources) -> Result<Self, String> {
        let filter_timeout = a.filter_timeout.map_or(FILTER_TIMEOUT, |d| d.0);
        Ok(Self {
            filter_timeout: (!filter_timeout.is_zero()).then_some(filter_timeout),
            binding_timeout: binding_timeout(a)?,
        })
    }

    fn expired(&self) -> impl Fn() -> bool + use<> {
        let (begun, timeout) = (Instant::now(), self.filter_timeout);
        move || timeout.is_some_and(|t| begun.elapsed() > t)
    }
}

/// A claim that has an allocation.
struct Allocated<'a> {
    claim: &'a api::ResourceClaim,
    nodes: Option<NodeSelector>,
}

impl<'a> Allocated<'a> {
    fn new(claim: &'a api::ResourceClaim) -> Self {
        let selector = claims::allocation(claim).and_then(|a| a.node_selector.as_ref());
        Self { claim, nodes: selector.map(convert::node_selector) }
    }

    fn reaches(&self, n: &NodeInfo) -> bool {
        self.nodes.as_ref().is_none_or(|s| s.matches(&n.name, &n.facts().labels))
    }

    /// Whether its devices will not become ready any more.
    fn failed(&self, now: i64, timeout: Duration) -> bool {
        match binding::ready(self.claim) {
            Ok(ready) => {
                let timeout = i64::try_from(timeout.as_secs()).unwrap_or(i64::MAX);
                !ready && binding::timed_out(self.claim, now, timeout)
            }
            Err(_) => true,
        }
    }
}

fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

fn refused(text: impl Into<String>) -> Rejection {
    Rejection::unresolvable(NAME, text.into())
}

/// Splits a pod's claims into those that have an allocation and those that need one.
fn split(all: Vec<&Shared>) -> (Vec<Allocated<'_>>, Vec<&Shared>) {
    let (has, needs): (Vec<&Shared>, Vec<&Shared>) =
        all.into_iter().partition(|c| claims::allocation(c).is_some());
    (has.into_iter().map(|c| Allocated::new(c)).collect(), needs)
}

/// What keeps the claims of a pod from being allocated, wherever.
fn obstacle(cache: &Cache, needs: &[&Shared]) -> Option<Rejection> {
    for c in needs {
        if cache.dra.claims.is_pending(claims::uid(c)) {
            let text = format!("resource claim {} is in the process of being allocated", claims::shown(c));
            return Some(refused(text));
        }
        for r in c.spec.devices.iter().flat_map(|d| d.requests.iter().flatten()) {
            let exactly = r.exactly.iter().map(|e| (r.name.clone(), &e.device_class_name));
            let others = r.first_available.iter().flatten();
            let others = others.map(|s| (format!("{}/{}", r.name, s.name), &s.device_class_name));
            if r.exactly.is_none() && r.first_available.as_ref().is_none_or(Vec::is_empty) {
                return Some(refused(format!(
                    "resource claim {}, request {}: unknown request type",
                    claims::shown(c),
                    r.name
                )));
            }
            for (name, class) in exactly.chain(others) {
                if class.is_empty() {
                    return Some(Rejection::error(NAME, format!("request {name}: unsupported request type")));
                }
                if !cache.dra.classes.contains_key(class.as_str()) {
                    return Some(refused(format!("request {name}: device class {class} does not exist")));
                }
            }
        }
    }
    None
}

/// Reads the claims that need an allocation.
fn read<'a>(cache: &'a Cache, needs: &[&'a Shared]) -> Result<Vec<Wanted<'a>>, Rejection> {
    needs.iter().map(|c| request::read(&cache.dra, c)).collect::<Result<_, _>>().map_err(broken)
}

fn broken(text: String) -> Rejection {
    Rejection::error(NAME, format!("running {NAME:?} filter plugin: {text}"))
}

/// Finds devices on a node, and words them as allocations.
fn allocate(
    cache: &Cache,
    wanted: &[Wanted<'_>],
    matches: &Matches,
    n: &NodeInfo,
    expired: &dyn Fn() -> bool,
) -> Result<Vec<api::AllocationResult>, Rejection> {
    let node = (n.name.as_ref(), &n.facts().labels);
    match search::search(&cache.dra, node, wanted, matches, expired) {
        Ok(Some(chosen)) => {
            let mut share = || uuid::Uuid::new_v4().to_string();
            let pairs = wanted.iter().zip(&chosen);
            Ok(pairs.map(|(w, c)| result::allocation(w, c, &n.name, &mut share)).collect())
        }
        Ok(None) => Err(refused("cannot allocate all claims")),
        Err(Failure::InvalidPools) => Err(refused("invalid resource pools were encountered")),
        Err(Failure::Timeout) => {
            Err(broken(format!("node {}: timed out trying to allocate devices", n.name)))
        }
        Err(Failure::Broken(text)) => Err(broken(text)),
    }
}

/// A pod's extended resources that device classes stand for.
struct Extended<'a> {
    pod: &'a PodInfo,
    backed: Vec<(Str, &'a Class)>,
    claims: RefCell<HashMap<Vec<Str>, Rc<Made>>>,
}

/// The claim for the resources that some nodes do not have from device plugins, as it would be made.
#[derive(Default)]
struct Made {
    claim: api::ResourceClaim,
    mappings: Vec<Mapping>,
    /// What its selectors match.
    matches: Matches,
}

impl<'a> Extended<'a> {
    /// None if no class stands for what the pod asks for.
    fn new(cache: &'a Cache, pod: &'a PodInfo) -> Option<Self> {
        if pod.want().extended.is_empty() {
            return None;
        }
        let backed = extended::backed(&cache.dra, pod);
        (!backed.is_empty()).then(|| Self { pod, backed, claims: RefCell::default() })
    }

    /// The claim that the pod needs on a node; none if device plugins report everything there.
    fn on(&self, n: &NodeInfo) -> Result<Option<Rc<Made>>, Rejection> {
        let allocatable = &n.facts().allocatable;
        let stands = |name: &Str| self.backed.iter().any(|(b, _)| b == name);
        let asked = self.pod.requests.asked.scalar.iter();
        let mut others = asked.filter(|(name, n)| *n > 0 && extended::possible(name) && !stands(name));
        if others.any(|(name, _)| !allocatable.scalar.iter().any(|(has, _)| has == name)) {
            return Err(refused("cannot fit resource"));
        }
        let missing: Vec<(Str, &Class)> =
            self.backed.iter().filter(|(name, _)| allocatable.get(name) == 0).cloned().collect();
        if missing.is_empty() {
            return Ok(None);
        }
        let names = missing.iter().map(|(name, _)| name.clone()).collect();
        let mut claims = self.claims.borrow_mut();
        let made = claims.entry(names).or_insert_with(|| {
            let (claim, mappings) = extended::claim(self.pod, &missing);
            Rc::new(Made { claim, mappings, matches: Matches::default() })
        });
        Ok(Some(made.clone()))
    }
}

/// Finds devices for a pod's claims and the one for its extended resources, whose allocation is the last.
fn allocate_with(
    cache: &Cache,
    needs: &[&Shared],
    made: &Made,
    n: &NodeInfo,
    expired: &dyn Fn() -> bool,
) -> Result<Vec<api::AllocationResult>, Rejection> {
    let mut wanted = read(cache, needs)?;
    wanted.push(request::read(&cache.dra, &made.claim).map_err(broken)?);
    allocate(cache, &wanted, &made.matches, n, expired)
}

/// What is to be written for a claim before its pod is bound.
#[derive(Clone, Debug)]
pub struct ClaimPlan {
    pub claim: Shared,
    /// What it gets; none if it has something already.
    pub allocation: Option<api::AllocationResult>,
    /// The claim is to be created, for extended resources: what the containers have of it. It has the pod's UID so far.
    pub create: Option<Vec<Mapping>>,
}

/// What is to be done for the claims of a pod that goes to `node`.
///
/// # Errors
/// The devices that the decision found are not there: nothing of this can be.
pub fn plan(cache: &Cache, pod: &PodInfo, node: &NodeInfo) -> Result<Vec<ClaimPlan>, String> {
    let extended = Extended::new(cache, pod);
    if pod.want().resource_claims.is_empty() && extended.is_none() {
        return Ok(Vec::new());
    }
    let all = cache.dra.claims.of(pod)?;
    let (_, needs) = split(all.clone());
    let words = |r: Rejection| r.reasons.join(", ");
    let made = extended.map_or(Ok(None), |e| e.on(node)).map_err(words)?;
    let mut found: Vec<api::AllocationResult> = Vec::new();
    let open = needs.len() + usize::from(made.is_some());
    if open > 0 {
        found = match (cache.dra.kept(&pod.uid, node.slot), &made) {
            (Some(kept), _) if kept.len() == open => (*kept).clone(),
            (_, Some(made)) => allocate_with(cache, &needs, made, node, &|| false).map_err(words)?,
            (_, None) => read(cache, &needs)
                .and_then(|wanted| allocate(cache, &wanted, &Matches::default(), node, &|| false))
                .map_err(words)?,
        };
    }
    let mut found = found.into_iter();
    let mut plans: Vec<ClaimPlan> = Vec::new();
    for c in all {
        let allocation = if claims::allocation(c).is_none() { found.next() } else { None };
        plans.push(ClaimPlan { claim: c.clone(), allocation, create: None });
    }
    if let Some(made) = made {
        plans.push(ClaimPlan {
            claim: Arc::new(made.claim.clone()),
            allocation: found.next(),
            create: Some(made.mappings.clone()),
        });
    }
    Ok(plans)
}

/// A claim of a pod that fits nowhere whose allocation should be given up, so that it can get another: one that keeps
/// the pod from a node, and that nobody else uses.
#[must_use]
pub fn to_deallocate(cache: &Cache, pod: &PodInfo, timeout: Duration) -> Option<Shared> {
    let all = cache.dra.claims.of(pod).ok()?;
    let now = now();
    let unused = |c: &api::ResourceClaim| {
        let mut users = c.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
        users.all(|r| r.uid.as_str() == pod.uid.as_ref())
    };
    let in_the_way = |c: &&&Shared| {
        let a = Allocated::new(c);
        a.failed(now, timeout) || cache.nodes().any(|n| !a.reaches(n))
    };
    let mut allocated = all.iter().filter(|c| claims::allocation(c).is_some());
    allocated.find(|c| unused(c) && in_the_way(c)).map(|c| (*c).clone())
}

impl Plugin for DynamicResources {
    fn name(&self) -> &'static str {
        NAME
    }

    fn pre_enqueue(&self, pod: &PodInfo, cache: &Cache) -> Result<(), String> {
        if pod.want().resource_claims.is_empty() {
            return Ok(());
        }
        cache.dra.claims.of(pod).map(|_| ())
    }

    fn filter<'a>(&'a self, cx: Cycle<'a>) -> Result<Filter<'a>, Rejection> {
        let cache = cx.cache;
        let extended = Extended::new(cache, cx.pod);
        if cx.pod.want().resource_claims.is_empty() && extended.is_none() {
            return Ok(Filter::Skip);
        }
        let all = cache.dra.claims.of(cx.pod).map_err(refused)?;
        if all.is_empty() && extended.is_none() {
            return Ok(Filter::Skip);
        }
        // Left over from an attempt that failed: it has to go first.
        let stale = extended.is_some() && cache.dra.claims.extended(&cx.pod.uid).is_some();
        let (has, needs) = split(all);
        if let Some(r) = obstacle(cache, &needs) {
            return Err(r);
        }
        let wanted = read(cache, &needs)?;
        let now = now();
        let failed: Vec<bool> = has.iter().map(|a| a.failed(now, self.binding_timeout)).collect();
        let matches = Matches::default();
        cache.dra.begin(&cx.pod.uid);
        Ok(Filter::Check(Box::new(move |n| {
            if stale {
                return Err(refused("cannot schedule extended resource claim"));
            }
            let made = extended.as_ref().map_or(Ok(None), |e| e.on(n))?;
            let away = has.iter().zip(&failed).any(|(a, failed)| *failed || !a.reaches(n));
            if made.is_some() || !wanted.is_empty() {
                let found = match &made {
                    Some(made) => allocate_with(cache, &needs, made, n, &self.expired())?,
                    None => allocate(cache, &wanted, &matches, n, &self.expired())?,
                };
                if !away {
                    cache.dra.keep(n.slot, found);
                }
            }
            if away {
                return Err(refused("resourceclaim not available on the node"));
            }
            Ok(())
        })))
    }

    fn may_score(&self, cx: Cycle<'_>) -> bool {
        !cx.pod.want().resource_claims.is_empty()
    }

    fn score<'a>(&'a self, cx: Cycle<'a>, _feasible: &[&NodeInfo]) -> Option<Box<dyn Scorer + 'a>> {
        let all = cx.cache.dra.claims.of(cx.pod).ok()?;
        let alternatives = |c: &&&Shared| {
            let requests = c.spec.devices.iter().flat_map(|d| d.requests.iter().flatten());
            requests.into_iter().any(|r| r.first_available.as_ref().is_some_and(|f| !f.is_empty()))
        };
        if !all.iter().any(|c| alternatives(&c)) {
            return None;
        }
        Some(Box::new(Preference { cache: cx.cache, pod: cx.pod, claims: all }))
    }

    fn events(&self) -> &'static [(Resource, Action)] {
        const {
            &[
                (Resource::Node, Action::ADD.or(Action::LABELS).or(Action::ALLOCATABLE)),
                (Resource::ResourceClaim, Action::ADD.or(Action::UPDATE)),
                (Resource::UnscheduledPod, Action::GENERATED_CLAIM),
                (Resource::DeviceClass, Action::ADD.or(Action::UPDATE)),
                (Resource::ResourceSlice, Action::ADD.or(Action::UPDATE)),
            ]
        }
    }

    fn hint(&self, pod: &PodInfo, e: &ClusterEvent<'_>) -> bool {
        e.claim.is_none_or(|c| may_help(pod, c))
    }
}

/// Whether a change of a claim may help a pod: the claim was given up, or it is one of the pod's that says something
/// new.
fn may_help(pod: &PodInfo, change: ClaimChange<'_>) -> bool {
    let ClaimChange { old, new } = change;
    let given_up = old.is_some_and(|o| claims::allocation(o).is_some() && claims::allocation(new).is_none());
    let m = &new.metadata;
    let mine = || {
        m.namespace.as_deref() == Some(pod.namespace.as_ref())
            && pod
                .want()
                .resource_claims
                .iter()
                .filter_map(|r| r.claim())
                .any(|n| m.name.as_deref() == Some(n))
    };
    given_up || (mine() && old.is_none_or(|o| o.status != new.status))
}

/// Scores nodes by how early in the lists of alternatives their devices come.
struct Preference<'a> {
    cache: &'a Cache,
    pod: &'a PodInfo,
    claims: Vec<&'a Shared>,
}

impl Scorer for Preference<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let kept = self.cache.dra.kept(&self.pod.uid, node.slot);
        let mut found = kept.iter().flat_map(|k| k.iter());
        let of = |c: &Shared| {
            let a = match claims::allocation(c) {
                Some(a) => Some(a),
                None => found.next(),
            };
            a.map_or(0, |a| preference(c, a))
        };
        self.claims.iter().copied().map(of).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        scale(scores, false);
    }
}

fn preference(c: &api::ResourceClaim, a: &api::AllocationResult) -> i64 {
    let given =
        |name: &str| a.devices.iter().flat_map(|d| d.results.iter().flatten()).any(|r| r.request == name);
    let mut score = 0;
    for r in c.spec.devices.iter().flat_map(|d| d.requests.iter().flatten()) {
        for (rank, s) in (0..ALTERNATIVES).zip(r.first_available.iter().flatten()) {
            if given(&format!("{}/{}", r.name, s.name)) {
                score += ALTERNATIVES - rank;
            }
        }
    }
    score
}
