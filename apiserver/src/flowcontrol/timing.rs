//! Statistics of a value over time: upstream's "observations at the end of every nanosecond".

use super::Time;

/// A histogram of a ratio in which each nanosecond counts once.
#[derive(Debug)]
pub struct Timing {
    bounds: &'static [f64],
    /// Nanoseconds per bucket; the last is for what is above all bounds.
    counts: Box<[u64]>,
    sum: f64,
    last: Time,
    value: f64,
    denominator: f64,
}

impl Timing {
    pub fn new(bounds: &'static [f64], now: Time) -> Self {
        let counts = vec![0; bounds.len() + 1].into_boxed_slice();
        Self { bounds, counts, sum: 0.0, last: now, value: 0.0, denominator: 1.0 }
    }

    fn advance(&mut self, now: Time) {
        let spent = now.saturating_sub(self.last);
        self.last = self.last.max(now);
        if spent == 0 {
            return;
        }
        let ratio = self.value / self.denominator;
        let at = self.bounds.partition_point(|b| *b < ratio);
        self.counts[at] += spent;
        self.sum += ratio * spent as f64;
    }

    /// The value from `now` on.
    pub fn set(&mut self, now: Time, value: f64) {
        if value != self.value {
            self.advance(now);
            self.value = value;
        }
    }

    /// What the value is divided by from `now` on; at least the smallest positive number that makes sense.
    pub fn set_denominator(&mut self, now: Time, denominator: f64) {
        self.advance(now);
        self.denominator = if denominator > 0.0 { denominator } else { 1.0 };
    }

    /// Sum, count and counts per upper bound, up to `now`.
    pub fn read(&mut self, now: Time) -> (f64, u64, Vec<(f64, u64)>) {
        self.advance(now);
        let bounds = self.bounds.iter().copied().chain([f64::MAX]);
        (self.sum, self.counts.iter().sum(), bounds.zip(self.counts.iter().copied()).collect())
    }
}

/// Average, deviation and maximum of a value since the last reset.
#[derive(Debug)]
pub struct Integrator {
    start: Time,
    last: Time,
    value: f64,
    max: f64,
    integral: f64,
    squares: f64,
}

/// What an [`Integrator`] saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Seen {
    /// Seconds observed.
    pub seconds: f64,
    pub average: f64,
    pub deviation: f64,
    pub max: f64,
}

impl Integrator {
    pub fn new(now: Time) -> Self {
        Self { start: now, last: now, value: 0.0, max: 0.0, integral: 0.0, squares: 0.0 }
    }

    fn advance(&mut self, now: Time) {
        let spent = now.saturating_sub(self.last) as f64 / 1e9;
        self.last = self.last.max(now);
        self.integral += self.value * spent;
        self.squares += self.value * self.value * spent;
    }

    pub fn set(&mut self, now: Time, value: f64) {
        if value != self.value {
            self.advance(now);
            self.value = value;
            self.max = self.max.max(value);
        }
    }

    /// What was seen, starting anew.
    pub fn reset(&mut self, now: Time) -> Seen {
        self.advance(now);
        let seconds = self.last.saturating_sub(self.start) as f64 / 1e9;
        let mut seen = Seen { seconds, max: self.max, ..Seen::default() };
        if seconds > 0.0 {
            seen.average = self.integral / seconds;
            seen.deviation = (self.squares / seconds - seen.average * seen.average).max(0.0).sqrt();
        }
        *self = Self { value: self.value, max: self.value, ..Self::new(self.last) };
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timing_counts_nanoseconds() {
        let mut t = Timing::new(&[0.0, 0.5, 1.0], 0);
        t.set_denominator(0, 4.0);
        t.set(10, 2.0);
        t.set(30, 8.0);
        let (sum, count, buckets) = t.read(40);
        assert_eq!(count, 40);
        assert_eq!(buckets.iter().map(|b| b.1).collect::<Vec<_>>(), [10, 20, 0, 10]);
        assert!((sum - (0.5 * 20.0 + 2.0 * 10.0)).abs() < 1e-9);
    }

    #[test]
    fn integrator() {
        let mut i = Integrator::new(0);
        i.set(1_000_000_000, 4.0);
        let seen = i.reset(2_000_000_000);
        assert_eq!(seen, Seen { seconds: 2.0, average: 2.0, deviation: 2.0, max: 4.0 });
        let seen = i.reset(3_000_000_000);
        assert_eq!((seen.average, seen.deviation, seen.max), (4.0, 0.0, 4.0));
    }
}
