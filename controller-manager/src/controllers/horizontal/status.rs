//! Conditions and the words of upstream.

use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    HorizontalPodAutoscaler, HorizontalPodAutoscalerCondition, HorizontalPodAutoscalerStatus,
};

use crate::util::meta;

/// Sets a condition; its time changes with its status alone.
pub fn set(
    hpa: &mut HorizontalPodAutoscaler,
    type_: &str,
    holds: bool,
    reason: &str,
    message: impl Into<String>,
    now: Timestamp,
) {
    let status = hpa.status.get_or_insert_with(empty);
    let conditions = status.conditions.get_or_insert_default();
    let at = match conditions.iter().position(|c| c.type_ == type_) {
        Some(at) => at,
        None => {
            conditions.push(HorizontalPodAutoscalerCondition {
                type_: type_.into(),
                ..HorizontalPodAutoscalerCondition::default()
            });
            conditions.len() - 1
        }
    };
    let condition = &mut conditions[at];
    let word = if holds { "True" } else { "False" };
    if condition.status != word {
        condition.last_transition_time = Some(meta::api_time(now));
    }
    condition.status = word.into();
    condition.reason = Some(reason.into());
    condition.message = Some(message.into());
}

/// Takes a condition away.
pub fn remove(hpa: &mut HorizontalPodAutoscaler, type_: &str) {
    if let Some(conditions) = hpa.status.as_mut().and_then(|s| s.conditions.as_mut()) {
        conditions.retain(|c| c.type_ != type_);
    }
}

/// A status that says nothing.
pub fn empty() -> HorizontalPodAutoscalerStatus {
    HorizontalPodAutoscalerStatus::default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_change_with_the_status() {
        let mut hpa = HorizontalPodAutoscaler::default();
        let at = |s| Timestamp::from_second(s).unwrap();
        set(&mut hpa, "AbleToScale", true, "a", "m", at(1));
        set(&mut hpa, "AbleToScale", true, "b", "n", at(2));
        let condition = |hpa: &HorizontalPodAutoscaler| {
            let c = hpa.status.as_ref().unwrap().conditions.as_ref().unwrap()[0].clone();
            (c.reason.unwrap(), c.last_transition_time.unwrap().0.as_second())
        };
        assert_eq!(condition(&hpa), ("b".into(), 1));
        set(&mut hpa, "AbleToScale", false, "c", "o", at(3));
        assert_eq!(condition(&hpa), ("c".into(), 3));
        remove(&mut hpa, "AbleToScale");
        assert!(hpa.status.unwrap().conditions.unwrap().is_empty());
    }
}
