//! Devices that several claims can have: what a request takes of their capacity (KEP-5075).

use proto::quantity::{Format, Quantity};

use super::model::{Amounts, Capacity, Device, Policy, Range};

/// What of a capacity a request takes: rounded up to what the policy allows; without a request the default, or all.
fn taken(requested: Option<&Quantity>, c: &Capacity) -> Quantity {
    let policy = c.policy.as_ref();
    let Some(requested) = requested else {
        return policy.and_then(|p| p.default).unwrap_or(c.value);
    };
    match policy {
        Some(Policy { range: Some(r), .. }) => round_up(*requested, r),
        Some(Policy { values, .. }) => *values.iter().find(|v| *v >= requested).unwrap_or(requested),
        None => *requested,
    }
}

fn round_up(requested: Quantity, r: &Range) -> Quantity {
    if requested < r.min {
        return r.min;
    }
    let Some(step) = r.step.as_ref().map(Quantity::value).filter(|s| *s > 0) else { return requested };
    let min = r.min.value();
    let steps = (requested.value().saturating_sub(min) as u64).div_ceil(step.unsigned_abs());
    let value = i64::try_from(steps).unwrap_or(i64::MAX).saturating_mul(step).saturating_add(min);
    Quantity::from_value(value, Format::BinarySi)
}

/// Whether the policy allows that much at all.
fn allowed(amount: &Quantity, policy: Option<&Policy>) -> bool {
    let Some(p) = policy else { return true };
    if p.default.as_ref() == Some(amount) {
        return true;
    }
    if let Some(r) = &p.range {
        let step = r.step.as_ref().map(Quantity::value).filter(|s| *s > 0);
        let on_step =
            step.is_none_or(|s| amount.value().saturating_sub(r.min.value()).checked_rem(s) == Some(0));
        return on_step && r.max.as_ref().is_none_or(|m| amount <= m);
    }
    p.values.is_empty() || p.values.contains(amount)
}

/// Whether a device has what a request asks for, beside what is given away (`used`) and about to be (`about`).
#[must_use]
pub fn suffices(
    device: &Device,
    requests: Option<&Amounts>,
    used: Option<&Amounts>,
    about: Option<&Amounts>,
) -> bool {
    if requests.is_some_and(|r| r.keys().any(|name| !device.capacity.contains_key(name))) {
        return false;
    }
    device.capacity.iter().all(|(name, c)| {
        let mut sum = taken(requests.and_then(|r| r.get(name)), c);
        if !allowed(&sum, c.policy.as_ref()) {
            return false;
        }
        for more in [used, about].into_iter().flatten().filter_map(|a| a.get(name)) {
            sum = sum + *more;
        }
        sum <= c.value
    })
}

/// What a request takes of a device, by capacity.
#[must_use]
pub fn consumed(device: &Device, requests: Option<&Amounts>) -> Amounts {
    let of = device.capacity.iter();
    of.map(|(name, c)| (name.clone(), taken(requests.and_then(|r| r.get(name)), c))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(s: &str) -> Quantity {
        s.parse().expect("quantity")
    }

    #[test]
    fn requests_are_rounded_up_to_what_the_policy_allows() {
        let range = |max: Option<&str>, step: Option<&str>| Capacity {
            value: q("10Gi"),
            policy: Some(Policy {
                default: Some(q("1Gi")),
                values: Box::default(),
                range: Some(Range { min: q("2Gi"), max: max.map(q), step: step.map(q) }),
            }),
        };
        let values = Capacity {
            value: q("10Gi"),
            policy: Some(Policy { default: None, values: [q("1Gi"), q("4Gi")].into(), range: None }),
        };
        let free = Capacity { value: q("10Gi"), policy: None };
        for (capacity, asked, wanted) in [
            (range(None, None), Some("1Gi"), "2Gi"),
            (range(None, None), Some("3Gi"), "3Gi"),
            (range(None, Some("3Gi")), Some("3Gi"), "5Gi"),
            (range(None, Some("3Gi")), Some("5Gi"), "5Gi"),
            (range(None, None), None, "1Gi"),
            (values.clone(), Some("2Gi"), "4Gi"),
            (values.clone(), Some("5Gi"), "5Gi"),
            (values, None, "10Gi"),
            (free.clone(), Some("5Gi"), "5Gi"),
            (free, None, "10Gi"),
        ] {
            assert_eq!(taken(asked.map(q).as_ref(), &capacity), q(wanted), "{asked:?} of {capacity:?}");
        }
        let policy = |c: Capacity| c.policy;
        assert!(!allowed(&q("5Gi"), policy(range(Some("4Gi"), None)).as_ref()));
        assert!(allowed(&q("1Gi"), policy(range(Some("4Gi"), None)).as_ref()), "the default always goes");
        assert!(!allowed(&q("4Gi"), policy(range(None, Some("3Gi"))).as_ref()));
    }
}
