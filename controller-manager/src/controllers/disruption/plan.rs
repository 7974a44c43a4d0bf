//! Pure part: what a budget's status says.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::anyhow;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::util::{meta, pods, values};

/// How long an evicted pod may take to show that it is being deleted.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const ALLOWED: &str = "DisruptionAllowed";

/// How the number of pods that is expected is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// As many as there are.
    Counted,
    /// As many as their owners are scaled to.
    Scaled,
    /// Nothing is asked for.
    Nothing,
}

/// What a budget needs to know of its pods.
pub fn expected(pdb: &PodDisruptionBudget) -> Expected {
    match pdb.spec.as_ref().map(|s| (&s.max_unavailable, &s.min_available)) {
        Some((Some(_), _)) | Some((None, Some(IntOrString::String(_)))) => Expected::Scaled,
        Some((None, Some(IntOrString::Int(_)))) => Expected::Counted,
        Some((None, None)) | None => Expected::Nothing,
    }
}

/// How many of `expected` pods must be healthy.
///
/// # Errors
/// The budget's number is none.
pub fn desired(pdb: &PodDisruptionBudget, expected: i32) -> anyhow::Result<i32> {
    let Some(spec) = pdb.spec.as_ref() else { return Ok(0) };
    let scaled = |v: &IntOrString| {
        values::scaled(v, expected, true).ok_or_else(|| anyhow!("invalid value for IntOrString: {v:?}"))
    };
    if let Some(most) = &spec.max_unavailable {
        return Ok((expected - scaled(most)?).max(0));
    }
    spec.min_available.as_ref().map_or(Ok(0), scaled)
}

/// Evicted pods whose deletion has yet to show.
#[derive(Debug, Default)]
pub struct Disrupted {
    pub pods: BTreeMap<String, Time>,
    /// Those that were to be deleted and are not.
    pub overdue: Vec<Arc<Pod>>,
    /// When the next one is overdue.
    pub again: Option<SignedDuration>,
}

/// Looks through the evicted pods of the status.
pub fn disrupted(pdb: &PodDisruptionBudget, all: &[Arc<Pod>], now: Timestamp) -> Disrupted {
    let mut result = Disrupted::default();
    let Some(known) = pdb.status.as_ref().and_then(|s| s.disrupted_pods.as_ref()) else { return result };
    for pod in all.iter().filter(|p| p.metadata.deletion_timestamp.is_none()) {
        let name = meta::name(&pod.metadata);
        let Some(since) = known.get(name) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(since.0);
        if left.is_negative() {
            result.overdue.push(pod.clone());
            continue;
        }
        result.pods.insert(name.to_owned(), since.clone());
        result.again = Some(result.again.map_or(left, |a| a.min(left)));
    }
    result
}

/// The status; `None` if it is so already.
pub fn status(
    pdb: &PodDisruptionBudget,
    all: &[Arc<Pod>],
    expected: i32,
    desired: i32,
    disrupted: &BTreeMap<String, Time>,
    now: Timestamp,
) -> Option<PodDisruptionBudgetStatus> {
    let healthy = all.iter().filter(|p| {
        p.metadata.deletion_timestamp.is_none()
            && !disrupted.contains_key(meta::name(&p.metadata))
            && pods::is_ready(p)
    });
    let healthy = i32::try_from(healthy.count()).unwrap_or(i32::MAX);
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let old = pdb.status.clone().unwrap_or_default();
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut new = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(desired),
        expected_pods: Some(expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: Some(disrupted.clone()).filter(|d| !d.is_empty()),
        observed_generation: pdb.metadata.generation,
        conditions: old.conditions.clone(),
    };
    set_condition(&mut new, status, reason, String::new(), now);
    (pdb.status.as_ref() != Some(&new)).then_some(new)
}

/// The status of a budget whose pods could not be counted: nothing may be disrupted. `None` if it is so already.
pub fn failed(pdb: &PodDisruptionBudget, why: String, now: Timestamp) -> Option<PodDisruptionBudgetStatus> {
    let mut new = pdb.status.clone().unwrap_or_default();
    new.disruptions_allowed = Some(0);
    set_condition(&mut new, "False", "SyncFailed", why, now);
    (pdb.status.as_ref() != Some(&new)).then_some(new)
}

fn set_condition(
    s: &mut PodDisruptionBudgetStatus,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) {
    let observed_generation = s.observed_generation;
    let all = s.conditions.get_or_insert_default();
    let old = all.iter().find(|c| c.type_ == ALLOWED && c.status == status);
    let new = Condition {
        type_: ALLOWED.into(),
        status: status.into(),
        reason: reason.into(),
        message,
        observed_generation,
        last_transition_time: old.map_or_else(|| meta::api_time(now), |c| c.last_transition_time.clone()),
    };
    match all.iter_mut().find(|c| c.type_ == ALLOWED) {
        Some(there) => *there = new,
        None => all.push(new),
    }
}

/// How long until the `DisruptionTarget` condition of a pod that was not deleted after all is stale; `None` if it has
/// none, or one that may stay.
pub fn stale_in(pod: &Pod, now: Timestamp) -> Option<SignedDuration> {
    let condition = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    let stays = pod.metadata.deletion_timestamp.is_some()
        || pods::is_terminal(pod)
        || condition.reason.as_deref() == Some("TerminationByKubelet");
    let since = condition.last_transition_time.as_ref().map_or(Timestamp::MIN, |t| t.0);
    (!stays).then(|| (DELETION_TIMEOUT - now.duration_since(since)).max(SignedDuration::ZERO))
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus};
    use k8s_openapi::api::policy::v1::PodDisruptionBudgetSpec;

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + s).unwrap_or_default()
    }

    fn number(text: &str) -> IntOrString {
        text.parse().map_or_else(|_| IntOrString::String(text.into()), IntOrString::Int)
    }

    fn budget(min: Option<&str>, max: Option<&str>) -> PodDisruptionBudget {
        let spec = PodDisruptionBudgetSpec {
            min_available: min.map(number),
            max_unavailable: max.map(number),
            ..PodDisruptionBudgetSpec::default()
        };
        let mut pdb = PodDisruptionBudget { spec: Some(spec), ..PodDisruptionBudget::default() };
        pdb.metadata.generation = Some(3);
        pdb
    }

    fn pod(name: &str, ready: bool) -> Arc<Pod> {
        let condition = PodCondition {
            type_: "Ready".into(),
            status: if ready { "True".into() } else { "False".into() },
            ..PodCondition::default()
        };
        let status = PodStatus { conditions: Some(vec![condition]), ..PodStatus::default() };
        let mut pod = Pod { status: Some(status), ..Pod::default() };
        pod.metadata.name = Some(name.into());
        Arc::new(pod)
    }

    #[test]
    fn numbers_and_percentages() {
        let wanted = |min, max, pods| desired(&budget(min, max), pods).unwrap_or(-1);
        assert_eq!(wanted(Some("2"), None, 5), 2);
        assert_eq!(wanted(Some("30%"), None, 5), 2);
        assert_eq!(wanted(None, Some("1"), 5), 4);
        assert_eq!(wanted(None, Some("30%"), 5), 3);
        assert_eq!(wanted(None, Some("9"), 5), 0);
        assert_eq!(wanted(None, Some("many"), 5), -1);
        assert_eq!(expected(&budget(Some("2"), None)), Expected::Counted);
        assert_eq!(expected(&budget(Some("2%"), None)), Expected::Scaled);
        assert_eq!(expected(&budget(None, Some("2"))), Expected::Scaled);
    }

    #[test]
    fn only_healthy_pods_can_be_spared() {
        let pdb = budget(Some("2"), None);
        let all = [pod("a", true), pod("b", true), pod("c", true), pod("d", false)];
        let none = BTreeMap::new();
        let s = status(&pdb, &all, 4, 2, &none, at(0)).unwrap_or_default();
        assert_eq!((s.current_healthy, s.disruptions_allowed, s.expected_pods), (Some(3), Some(1), Some(4)));
        assert_eq!(s.observed_generation, Some(3));
        let reason = |s: &PodDisruptionBudgetStatus| s.conditions.as_ref().map(|c| c[0].reason.clone());
        assert_eq!(reason(&s).as_deref(), Some("SufficientPods"));
        let known = PodDisruptionBudget { status: Some(s), ..pdb };
        assert_eq!(status(&known, &all, 4, 2, &none, at(9)), None);
        let evicted = [("a".to_owned(), meta::api_time(at(9)))].into();
        let s = status(&known, &all, 4, 2, &evicted, at(9)).unwrap_or_default();
        assert_eq!((s.current_healthy, s.disruptions_allowed), (Some(2), Some(0)));
        assert_eq!(reason(&s).as_deref(), Some("InsufficientPods"));
        let empty = status(&known, &[], 0, 0, &none, at(9)).unwrap_or_default();
        assert_eq!(empty.disruptions_allowed, Some(0), "nothing is expected, nothing may go");
        let f = failed(&known, "why".into(), at(10)).unwrap_or_default();
        assert_eq!((f.disruptions_allowed, reason(&f).as_deref()), (Some(0), Some("SyncFailed")));
    }

    #[test]
    fn evicted_pods_are_remembered_for_two_minutes() {
        let mut pdb = budget(Some("1"), None);
        let times = [("a", 0), ("b", 100), ("gone", 100)].map(|(n, t)| (n.to_owned(), meta::api_time(at(t))));
        pdb.status.get_or_insert_default().disrupted_pods = Some(times.into());
        let d = disrupted(&pdb, &[pod("a", true), pod("b", true)], at(130));
        assert_eq!(d.pods.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(d.overdue.len(), 1);
        assert_eq!(d.again, Some(SignedDuration::from_secs(90)));
    }

    #[test]
    fn conditions_of_pods_that_live_on_go_stale() {
        let with = |reason: &str| {
            let mut p = pod("a", true).as_ref().clone();
            let c = pods::disruption_target(reason, "", at(0));
            p.status.get_or_insert_default().conditions.get_or_insert_default().push(c);
            p
        };
        assert_eq!(stale_in(&pod("a", true), at(0)), None);
        assert_eq!(stale_in(&with("EvictionByEvictionAPI"), at(20)), Some(SignedDuration::from_secs(100)));
        assert_eq!(stale_in(&with("EvictionByEvictionAPI"), at(500)), Some(SignedDuration::ZERO));
        assert_eq!(stale_in(&with("TerminationByKubelet"), at(500)), None);
    }
}
