//! From the number that metrics ask for to the number that is set: stabilization over time, limits of the rate, minimum
//! and maximum. Remembers past recommendations and changes, in memory as upstream does.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::autoscaling::v2::{HPAScalingRules, HorizontalPodAutoscalerBehavior};

/// A recommendation, or a change, at a time.
type Entry = (Timestamp, i32);

/// What was recommended and done before for one autoscaler.
#[derive(Debug, Default)]
pub struct History {
    recommendations: Vec<Entry>,
    ups: Vec<Entry>,
    downs: Vec<Entry>,
}

/// Reason and message of a condition, and whether it is that which upstream calls `True`.
#[derive(Debug, PartialEq, Eq, Clone)]
pub struct Verdict {
    pub status: bool,
    pub reason: &'static str,
    pub message: &'static str,
}

/// The number to set, with the conditions `AbleToScale` and `ScalingLimited`.
#[derive(Debug, PartialEq, Eq)]
pub struct Decision {
    pub replicas: i32,
    pub able: Verdict,
    pub limited: Verdict,
}

/// The bounds in force.
#[derive(Debug, Clone, Copy)]
pub struct Bounds<'a> {
    pub min: i32,
    pub max: i32,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    /// `--horizontal-pod-autoscaler-downscale-stabilization`
    pub stabilization: SignedDuration,
}

const READY: Verdict =
    Verdict { status: true, reason: "ReadyForNewScale", message: "recommended size matches current size" };
const DOWN_STABILIZED: (&str, &str) = (
    "ScaleDownStabilized",
    "recent recommendations were higher than current one, applying the highest recent recommendation",
);
const UP_STABILIZED: (&str, &str) = (
    "ScaleUpStabilized",
    "recent recommendations were lower than current one, applying the lowest recent recommendation",
);
const IN_RANGE: (&str, &str) = ("DesiredWithinRange", "the desired count is within the acceptable range");
const TOO_FEW: (&str, &str) =
    ("TooFewReplicas", "the desired replica count is less than the minimum replica count");
const TOO_MANY: (&str, &str) =
    ("TooManyReplicas", "the desired replica count is more than the maximum replica count");
const UP_LIMIT: (&str, &str) =
    ("ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate");
const DOWN_LIMIT: (&str, &str) =
    ("ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate");

fn verdict(status: bool, (reason, message): (&'static str, &'static str)) -> Verdict {
    Verdict { status, reason, message }
}

fn ago(now: Timestamp, window: SignedDuration) -> Timestamp {
    now.checked_sub(window).unwrap_or(Timestamp::MIN)
}

impl History {
    /// Remembers the number of replicas that was found first, so that nothing is scaled down before a whole window was
    /// seen.
    pub fn begin(&mut self, current: i32, now: Timestamp) {
        if self.recommendations.is_empty() {
            self.recommendations.push((now, current));
        }
    }

    /// The number to set, for `wanted` of the metrics.
    pub fn decide(&mut self, current: i32, wanted: i32, bounds: &Bounds<'_>, now: Timestamp) -> Decision {
        let (stable, reason) = self.stabilize(current, wanted, bounds, now);
        let able = if stable == wanted { READY } else { verdict(true, reason) };
        let (replicas, reason) = match bounds.behavior {
            None => plain_limits(current, stable, bounds),
            Some(behavior) => self.limit(current, stable, bounds, behavior, now),
        };
        Decision { replicas, able, limited: verdict(replicas != stable, reason) }
    }

    fn stabilize(
        &mut self,
        current: i32,
        wanted: i32,
        bounds: &Bounds<'_>,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        let seconds = |rules: Option<&HPAScalingRules>| {
            rules.and_then(|r| r.stabilization_window_seconds).map(|s| SignedDuration::from_secs(s.into()))
        };
        let (up, down) = match bounds.behavior {
            None => (None, bounds.stabilization),
            Some(b) => (
                Some(seconds(b.scale_up.as_ref()).unwrap_or_default()),
                seconds(b.scale_down.as_ref()).unwrap_or(bounds.stabilization),
            ),
        };
        let (up_since, down_since) = (up.map(|u| ago(now, u)), ago(now, down));
        let (mut lowest, mut highest) = (wanted, wanted);
        for (at, recommended) in &self.recommendations {
            if up_since.is_some_and(|since| *at > since) {
                lowest = lowest.min(*recommended);
            }
            if *at >= down_since {
                highest = highest.max(*recommended);
            }
        }
        self.recommendations.retain(|(at, _)| *at >= down_since || up_since.is_some_and(|since| *at > since));
        self.recommendations.push((now, wanted));
        match up {
            None => (highest, DOWN_STABILIZED),
            Some(_) => {
                let reason = if wanted >= current { UP_STABILIZED } else { DOWN_STABILIZED };
                (current.max(lowest).min(highest), reason)
            }
        }
    }

    fn limit(
        &self,
        current: i32,
        wanted: i32,
        bounds: &Bounds<'_>,
        behavior: &HorizontalPodAutoscalerBehavior,
        now: Timestamp,
    ) -> (i32, (&'static str, &'static str)) {
        if wanted > current {
            let limit = self.rate_limit(current, behavior.scale_up.as_ref(), true, now).max(current);
            let (allowed, reason) =
                if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
            if wanted > allowed {
                return (allowed, reason);
            }
        } else if wanted < current {
            let limit = self.rate_limit(current, behavior.scale_down.as_ref(), false, now).min(current);
            let (allowed, reason) =
                if bounds.min < limit { (limit, DOWN_LIMIT) } else { (bounds.min, TOO_FEW) };
            if wanted < allowed {
                return (allowed, reason);
            }
        }
        (wanted, IN_RANGE)
    }

    /// How far the policies let the number go up or down.
    fn rate_limit(&self, current: i32, rules: Option<&HPAScalingRules>, up: bool, now: Timestamp) -> i32 {
        let Some(rules) = rules else { return if up { i32::MAX } else { i32::MIN } };
        let select = rules.select_policy.as_deref().unwrap_or("Max");
        if select == "Disabled" {
            return current;
        }
        let limits = rules.policies.iter().flatten().map(|policy| {
            let since = ago(now, SignedDuration::from_secs(policy.period_seconds.into()));
            let sum = |events: &[Entry]| -> i64 {
                events.iter().filter(|(at, _)| *at > since).map(|(_, n)| i64::from(*n)).sum()
            };
            // What it was when the period began.
            let start = i64::from(current) - sum(&self.ups) + sum(&self.downs);
            let sign = if up { 1 } else { -1 };
            let limit = match policy.type_.as_str() {
                "Percent" => {
                    let exact = start as f64 * (1.0 + f64::from(sign) * f64::from(policy.value) / 100.0);
                    if up { exact.ceil() as i64 } else { exact.trunc() as i64 }
                }
                _ => start + i64::from(sign) * i64::from(policy.value),
            };
            i32::try_from(limit).unwrap_or(if limit < 0 { i32::MIN } else { i32::MAX })
        });
        // The largest change is the highest number upwards, and the lowest downwards.
        let highest = (select == "Min") != up;
        if highest { limits.max().unwrap_or(i32::MIN) } else { limits.min().unwrap_or(i32::MAX) }
    }

    /// Remembers a change that was made.
    pub fn changed(
        &mut self,
        behavior: Option<&HorizontalPodAutoscalerBehavior>,
        before: i32,
        after: i32,
        now: Timestamp,
    ) {
        let Some(behavior) = behavior else { return };
        let (rules, events) = if after > before {
            (behavior.scale_up.as_ref(), &mut self.ups)
        } else {
            (behavior.scale_down.as_ref(), &mut self.downs)
        };
        let longest = rules.iter().flat_map(|r| r.policies.iter().flatten()).map(|p| p.period_seconds).max();
        let since = ago(now, SignedDuration::from_secs(longest.unwrap_or(0).into()));
        events.retain(|(at, _)| *at >= since);
        events.push((now, (after - before).abs()));
    }
}

/// Without behavior: at most twice as many, or four.
fn plain_limits(current: i32, wanted: i32, bounds: &Bounds<'_>) -> (i32, (&'static str, &'static str)) {
    let limit = current.saturating_mul(2).max(4);
    let (allowed, reason) = if bounds.max > limit { (limit, UP_LIMIT) } else { (bounds.max, TOO_MANY) };
    if wanted < bounds.min {
        (bounds.min, TOO_FEW)
    } else if wanted > allowed {
        (allowed, reason)
    } else {
        (wanted, IN_RANGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn plain() -> Bounds<'static> {
        Bounds { min: 1, max: 100, behavior: None, stabilization: SignedDuration::from_secs(300) }
    }

    fn behavior(up: serde_json::Value, down: serde_json::Value) -> HorizontalPodAutoscalerBehavior {
        serde_json::from_value(json!({"scaleUp": up, "scaleDown": down})).unwrap()
    }

    #[test]
    fn without_behavior_the_highest_of_five_minutes_holds_and_growth_is_limited() {
        let mut h = History::default();
        h.begin(10, at(0));
        let d = h.decide(10, 2, &plain(), at(15));
        assert_eq!((d.replicas, d.able.reason), (10, "ScaleDownStabilized"));
        assert_eq!((d.limited.status, d.limited.reason), (false, "DesiredWithinRange"));
        let d = h.decide(10, 2, &plain(), at(301));
        assert_eq!((d.replicas, d.able), (2, READY));
        let d = h.decide(3, 50, &plain(), at(320));
        assert_eq!((d.replicas, d.limited.reason, d.limited.status), (6, "ScaleUpLimit", true));
        let d = h.decide(80, 200, &plain(), at(340));
        assert_eq!((d.replicas, d.limited.reason), (100, "TooManyReplicas"));
        let mut h = History::default();
        let d = h.decide(1, 0, &plain(), at(0));
        assert_eq!((d.replicas, d.limited.reason), (1, "TooFewReplicas"));
    }

    #[test]
    fn policies_bound_the_change_of_a_period() {
        let b = behavior(
            json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [
                {"type": "Pods", "value": 4, "periodSeconds": 60}, {"type": "Percent", "value": 100, "periodSeconds": 60}]}),
            json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Min", "policies": [
                {"type": "Pods", "value": 1, "periodSeconds": 60}, {"type": "Percent", "value": 50, "periodSeconds": 60}]}),
        );
        let bounds = Bounds { behavior: Some(&b), ..plain() };
        let mut h = History::default();
        let d = h.decide(10, 90, &bounds, at(0));
        assert_eq!((d.replicas, d.limited.reason), (20, "ScaleUpLimit"));
        h.changed(Some(&b), 10, 20, at(0));
        assert_eq!(h.decide(20, 90, &bounds, at(30)).replicas, 20, "the period's change is used up");
        assert_eq!(h.decide(20, 90, &bounds, at(61)).replicas, 40);
        let d = h.decide(20, 5, &bounds, at(200));
        assert_eq!((d.replicas, d.limited.reason), (19, "ScaleDownLimit"));
        h.changed(Some(&b), 20, 19, at(200));
        assert_eq!(h.decide(19, 5, &bounds, at(220)).replicas, 19);
    }

    #[test]
    fn windows_hold_in_both_directions() {
        let rules = |window: i32| {
            json!({"stabilizationWindowSeconds": window, "selectPolicy": "Max",
                "policies": [{"type": "Percent", "value": 900, "periodSeconds": 60}]})
        };
        let b = behavior(rules(120), rules(60));
        let bounds = Bounds { behavior: Some(&b), ..plain() };
        let mut h = History::default();
        h.begin(5, at(0));
        let d = h.decide(5, 8, &bounds, at(100));
        assert_eq!((d.replicas, d.able.reason), (5, "ScaleUpStabilized"));
        assert_eq!(h.decide(5, 8, &bounds, at(121)).replicas, 8);
        let d = h.decide(8, 2, &bounds, at(130));
        assert_eq!((d.replicas, d.able.reason), (8, "ScaleDownStabilized"));
        let mut down = rules(60);
        down["policies"][0]["value"] = 100.into();
        let b = behavior(rules(0), down);
        let bounds = Bounds { behavior: Some(&b), ..plain() };
        assert_eq!(h.decide(8, 2, &bounds, at(200)).replicas, 2);
    }

    #[test]
    fn a_direction_can_be_switched_off() {
        let off = json!({"stabilizationWindowSeconds": 0, "selectPolicy": "Disabled", "policies": []});
        let b = behavior(off.clone(), off);
        let bounds = Bounds { behavior: Some(&b), ..plain() };
        let mut h = History::default();
        assert_eq!(h.decide(5, 50, &bounds, at(0)).replicas, 5);
        assert_eq!(h.decide(5, 1, &bounds, at(0)).replicas, 5);
    }

    #[test]
    fn what_is_remembered_stays_small() {
        let mut h = History::default();
        for i in 0..10_000 {
            h.decide(5, 5, &plain(), at(i));
        }
        assert!(h.recommendations.len() <= 302, "{}", h.recommendations.len());
    }
}
