//! Trying out one node: all pods of lower priority go, then as many as possible come back.
//!
//! Pods that nothing but the node decides about are tried on a copy of it. Others are tried on the cache itself
//! (victims removed, checked, put back), so that counts of topologies and terms are right.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Candidate, NAME, Victims};
use crate::cache::{Cache, NodeInfo, Slot};
use crate::decide::{Compiled, compile};
use crate::framework::{Cycle, Profile, Rejection};
use crate::model::{PodInfo, Str};

fn gone() -> Rejection {
    Rejection::unresolvable(NAME, "node(s) disappeared")
}

fn more_important(a: &PodInfo, b: &PodInfo) -> std::cmp::Ordering {
    let started = |p: &PodInfo| p.started.unwrap_or(i64::MAX);
    b.priority.cmp(&a.priority).then(started(a).cmp(&started(b)))
}

/// The pods that may be evicted, the most important first.
fn lower(n: &NodeInfo, pod: &PodInfo) -> Result<Vec<Arc<PodInfo>>, Rejection> {
    let mut lower: Vec<Arc<PodInfo>> = n.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable(NAME, "No preemption victims found for incoming pod"));
    }
    lower.sort_by(|a, b| more_important(a, b));
    Ok(lower)
}

/// Spares as many as possible, those protected by a budget first, the important before the others. `try_back`
/// puts a pod back and keeps it if the preemptor still fits.
fn spare(
    node: Str,
    (protected, free): (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>),
    mut try_back: impl FnMut(&Arc<PodInfo>) -> bool,
) -> Arc<Candidate> {
    let mut victims: Vec<Arc<PodInfo>> = Vec::new();
    let mut violations = 0;
    for (list, counts) in [(protected, true), (free, false)] {
        for p in list {
            if !try_back(&p) {
                violations += usize::from(counts);
                victims.push(p);
            }
        }
    }
    victims.sort_by(|a, b| more_important(a, b));
    Arc::new(Candidate { node, victims, violations })
}

/// The pods that must leave a node so that a pod fits whose checks look at nothing else.
pub fn on_copy(cache: &Cache, compiled: &Compiled<'_>, pod: &PodInfo, slot: Slot) -> Victims {
    let n = cache.node_at(slot).ok_or_else(gone)?;
    let lower = lower(n, pod)?;
    let mut copy = n.clone();
    lower.iter().for_each(|p| copy.remove(&p.uid));
    compiled.check(&copy)?;
    Ok(spare(n.name.clone(), split_by_budget(cache, &lower), |p| {
        copy.add(p.clone());
        let fits = compiled.check(&copy).is_ok();
        if !fits {
            copy.remove(&p.uid);
        }
        fits
    }))
}

fn fits(cache: &Cache, profile: &Profile, pod: &PodInfo, slot: Slot) -> Result<(), Rejection> {
    let compiled = compile(profile, Cycle { cache, pod })?;
    compiled.check(cache.node_at(slot).ok_or_else(gone)?)
}

/// The pods that must leave a node so that any pod fits.
pub fn in_cache(cache: &mut Cache, profile: &Profile, pod: &PodInfo, slot: Slot) -> Victims {
    let n = cache.node_at(slot).ok_or_else(gone)?;
    let (node, lower) = (n.name.clone(), lower(n, pod)?);
    let assumed: HashMap<Str, bool> =
        lower.iter().map(|p| (p.uid.clone(), cache.is_assumed(&p.uid))).collect();
    let put_back = |cache: &mut Cache, p: &Arc<PodInfo>| {
        if assumed.get(&p.uid) == Some(&true) {
            cache.assume(p.clone());
        } else {
            cache.set_pod(p.clone());
        }
    };
    for p in &lower {
        cache.remove_pod(&p.uid);
    }
    if let Err(r) = fits(cache, profile, pod, slot) {
        lower.iter().for_each(|p| put_back(cache, p));
        return Err(r);
    }
    let groups = split_by_budget(cache, &lower);
    let out = spare(node, groups, |p| {
        put_back(cache, p);
        let fits = fits(cache, profile, pod, slot).is_ok();
        if !fits {
            cache.remove_pod(&p.uid);
        }
        fits
    });
    out.victims.iter().for_each(|p| put_back(cache, p));
    Ok(out)
}

/// Pods whose eviction would break a disruption budget, and the others.
fn split_by_budget(cache: &Cache, pods: &[Arc<PodInfo>]) -> (Vec<Arc<PodInfo>>, Vec<Arc<PodInfo>>) {
    if cache.budgets.is_empty() {
        return (Vec::new(), pods.to_vec());
    }
    let mut left: Vec<i32> = cache.budgets.values().map(|b| b.allowed).collect();
    pods.iter().cloned().partition(|p| {
        for (b, left) in cache.budgets.values().zip(&mut left) {
            let covers =
                b.namespace == p.namespace && !b.selector.is_empty() && b.selector.matches(&p.labels);
            if covers && !b.disrupted.contains(&p.name) {
                *left -= 1;
                if *left < 0 {
                    return true;
                }
            }
        }
        false
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, on, pod_with, profile};

    fn sized(name: &str, cpu: u32, priority: i32) -> Arc<PodInfo> {
        let requests = json!({"requests": {"cpu": format!("{cpu}m")}});
        let spec = json!({"priority": priority, "containers": [{"name": "c", "resources": requests}]});
        pod_with(name, spec, json!({}))
    }

    proptest! {
        #[test]
        fn a_copy_and_the_cache_give_the_same_victims(
            pods in prop::collection::vec((100..2000u32, 0..5i32), 0..8), cpu in 100..4500u32, priority in 0..6i32,
        ) {
            let mut c = cluster([node("n", json!({}))]);
            for (i, (cpu, priority)) in pods.iter().enumerate() {
                c.set_pod(on(&sized(&format!("p{i}"), *cpu, *priority), "n"));
            }
            let (p, new) = (profile(json!({})), sized("new", cpu, priority));
            let slot = c.order()[0];
            let told = |v: Victims| match v {
                Ok(c) => Ok((c.victims.iter().map(|v| v.name.to_string()).collect::<Vec<_>>(), c.violations)),
                Err(r) => Err(r.reasons),
            };
            let Ok(compiled) = compile(&p, Cycle { cache: &c, pod: &new }) else { panic!("refused everywhere") };
            prop_assert!(compiled.is_local());
            let copy = told(on_copy(&c, &compiled, &new, slot));
            drop(compiled);
            prop_assert_eq!(copy, told(in_cache(&mut c, &p, &new, slot)));
        }
    }
}
