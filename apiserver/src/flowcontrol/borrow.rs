//! How the server's seats are divided among the levels for the next while: each level gets in proportion to what it
//! asked for lately, between what it must keep and what it may borrow (KEP-1040, "Dispatching").

/// What one level may get.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Item {
    pub target: f64,
    pub lower: f64,
    pub upper: f64,
}

/// Targets below this count as this.
const MIN_TARGET: f64 = 0.001;

/// Allocations that sum to `sum`, each `fair * target` held between its bounds, and that fair proportion. None where
/// the bounds make it impossible.
pub fn allocate(sum: f64, items: &[Item]) -> Option<(Vec<f64>, f64)> {
    let bad = |i: &Item| !(i.lower >= 0.0 && i.upper >= i.lower && i.target.is_finite());
    if sum < 0.0 || items.iter().any(bad) {
        return None;
    }
    let target = |i: &Item| i.target.max(MIN_TARGET);
    let at = |p: f64| items.iter().map(|i| (p * target(i)).clamp(i.lower, i.upper)).collect::<Vec<f64>>();
    let total = |p: f64| at(p).iter().sum::<f64>();
    // Between neighbouring points the total grows linearly.
    let mut points: Vec<f64> = items
        .iter()
        .flat_map(|i| [i.lower / target(i), i.upper / target(i)])
        .filter(|p| p.is_finite())
        .collect();
    points.push(0.0);
    points.sort_by(f64::total_cmp);
    const SLACK: f64 = 1e-7;
    let low = total(points[0]);
    if low - sum > SLACK {
        return None;
    }
    let mut from = (points[0], low);
    for p in points {
        let t = total(p);
        if t >= sum - SLACK {
            let fair = if t - from.1 > 1e-12 {
                from.0 + (p - from.0) * ((sum - from.1) / (t - from.1)).clamp(0.0, 1.0)
            } else {
                from.0
            };
            return Some((at(fair), fair));
        }
        from = (p, t);
    }
    None
}

/// Half-life of about five minutes in ten-second steps.
const SMOOTHING: f64 = 0.977;

/// The seats a level asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Demand {
    pub high: f64,
    pub average: f64,
    pub deviation: f64,
    /// Rises at once, falls slowly.
    pub smoothed: f64,
}

impl Demand {
    pub fn update(&mut self, seen: super::timing::Seen) {
        self.high = seen.max.round();
        if seen.seconds <= 0.0 {
            return;
        }
        self.average = seen.average;
        self.deviation = seen.deviation;
        let envelope = seen.average + seen.deviation;
        self.smoothed = envelope.max(SMOOTHING * self.smoothed + (1.0 - SMOOTHING) * envelope);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn item(target: f64, lower: f64, upper: f64) -> Item {
        Item { target, lower, upper }
    }

    #[test]
    fn examples() {
        let (a, fair) = allocate(12.0, &[item(1.0, 0.0, 100.0), item(2.0, 0.0, 100.0)]).unwrap();
        assert!((a[0] - 4.0).abs() < 1e-6 && (a[1] - 8.0).abs() < 1e-6 && (fair - 4.0).abs() < 1e-6);
        // One bounded from above: the other takes the rest.
        let (a, _) = allocate(12.0, &[item(1.0, 0.0, 2.0), item(2.0, 0.0, 100.0)]).unwrap();
        assert!((a[0] - 2.0).abs() < 1e-6 && (a[1] - 10.0).abs() < 1e-6);
        // One bounded from below.
        let (a, _) = allocate(12.0, &[item(9.0, 9.0, 20.0), item(9.0, 0.0, 20.0)]).unwrap();
        assert!((a[0] - 9.0).abs() < 1e-6 && (a[1] - 3.0).abs() < 1e-6);
        assert!(allocate(5.0, &[item(9.0, 9.0, 20.0)]).is_none());
        assert!(allocate(25.0, &[item(9.0, 9.0, 20.0)]).is_none());
        assert_eq!(allocate(0.0, &[item(0.0, 0.0, 20.0)]).unwrap().0, [0.0]);
    }

    proptest! {
        #[test]
        fn sums_and_bounds(
            raw in proptest::collection::vec((0.0f64..50.0, 0.0f64..20.0, 0.0f64..50.0), 1..12),
            share in 0.0f64..1.0,
        ) {
            let items: Vec<Item> =
                raw.iter().map(|(t, l, more)| item(t.max(*l), *l, l + more)).collect();
            let low: f64 = items.iter().map(|i| i.lower).sum();
            let high: f64 = items.iter().map(|i| i.upper).sum();
            let sum = low + (high - low) * share;
            let (a, fair) = allocate(sum, &items).expect("possible");
            prop_assert!((a.iter().sum::<f64>() - sum).abs() < 1e-3, "{a:?} {sum} {fair}");
            for (x, i) in a.iter().zip(&items) {
                prop_assert!(*x >= i.lower - 1e-9 && *x <= i.upper + 1e-9);
            }
        }
    }
}
