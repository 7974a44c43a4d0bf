//! Taints and tolerations.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, Taint, Toleration};

use super::meta;

/// Effect that evicts running pods.
pub const NO_EXECUTE: &str = "NoExecute";

/// Whether a toleration covers a taint.
pub fn tolerates(t: &Toleration, taint: &Taint) -> bool {
    let empty = |s: &Option<String>| s.as_deref().unwrap_or_default().is_empty();
    if !empty(&t.effect) && t.effect.as_deref() != Some(taint.effect.as_str()) {
        return false;
    }
    if !empty(&t.key) && t.key.as_deref() != Some(taint.key.as_str()) {
        return false;
    }
    match t.operator.as_deref().unwrap_or("Equal") {
        "Exists" => true,
        "" | "Equal" => {
            !empty(&t.key)
                && t.value.as_deref().unwrap_or_default() == taint.value.as_deref().unwrap_or_default()
        }
        _ => false,
    }
}

/// When a pod must leave a node with these taints; `None`: it may stay.
pub fn must_leave_at(pod: &Pod, taints: &[Taint], now: Timestamp) -> Option<Timestamp> {
    let none = Vec::new();
    let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.as_ref()).unwrap_or(&none);
    let mut earliest: Option<Timestamp> = None;
    for taint in taints.iter().filter(|t| t.effect == NO_EXECUTE) {
        let mut covering = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if covering.peek().is_none() {
            return Some(now);
        }
        // Every covering toleration counts, the shortest decides; one without seconds lasts for ever.
        let seconds = covering.filter_map(|t| t.toleration_seconds).min();
        if let Some(seconds) = seconds {
            let begun = taint.time_added.as_ref().map_or(now, |t| t.0).max(meta::created(&pod.metadata));
            let end =
                begun.saturating_add(SignedDuration::from_secs(seconds.max(0))).unwrap_or(Timestamp::MAX);
            earliest = Some(earliest.map_or(end, |e| e.min(end)));
        }
    }
    earliest
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodSpec;

    fn taint(key: &str, added: i64) -> Taint {
        Taint {
            key: key.into(),
            effect: NO_EXECUTE.into(),
            time_added: Some(meta::api_time(at(added))),
            value: None,
        }
    }

    fn at(s: i64) -> Timestamp {
        Timestamp::from_second(1_000 + s).unwrap_or_default()
    }

    fn toleration(key: &str, seconds: Option<i64>) -> Toleration {
        Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            toleration_seconds: seconds,
            ..Toleration::default()
        }
    }

    fn pod(tolerations: Vec<Toleration>) -> Pod {
        Pod { spec: Some(PodSpec { tolerations: Some(tolerations), ..PodSpec::default() }), ..Pod::default() }
    }

    #[test]
    fn eviction_times() {
        let gone = |tolerations, taints: &[Taint]| must_leave_at(&pod(tolerations), taints, at(50));
        assert_eq!(gone(vec![], &[]), None);
        assert_eq!(gone(vec![], &[taint("a", 0)]), Some(at(50)));
        assert_eq!(gone(vec![toleration("a", None)], &[taint("a", 0)]), None);
        assert_eq!(gone(vec![toleration("a", Some(300))], &[taint("a", 10)]), Some(at(310)));
        assert_eq!(gone(vec![toleration("a", Some(300))], &[taint("a", 10), taint("b", 0)]), Some(at(50)));
        let two = vec![toleration("a", Some(300)), toleration("b", Some(20))];
        assert_eq!(gone(two, &[taint("a", 10), taint("b", 40)]), Some(at(60)));
    }

    #[test]
    fn matching() {
        let t = |key: &str, op: &str, value: &str, effect: &str| Toleration {
            key: Some(key.into()),
            operator: Some(op.into()),
            value: Some(value.into()),
            effect: Some(effect.into()),
            toleration_seconds: None,
        };
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: NO_EXECUTE.into(), time_added: None };
        assert!(tolerates(&t("", "Exists", "", ""), &taint));
        assert!(tolerates(&t("k", "Equal", "v", NO_EXECUTE), &taint));
        assert!(!tolerates(&t("k", "Equal", "w", ""), &taint));
        assert!(!tolerates(&t("k", "Exists", "", "NoSchedule"), &taint));
    }
}
