//! `Retry-After` of refused requests: it doubles while many are refused and shrinks again when few are, so that
//! clients of an overloaded level spread out.

/// The longest that clients are told to wait, in seconds.
const MAX: i64 = 32;

/// Refusals of one level.
#[derive(Debug)]
pub struct Dropped {
    /// Refusals per second of the recent past.
    history: Vec<(i64, i64)>,
    second: i64,
    count: i64,
    retry_after: i64,
    doubled_at: i64,
}

impl Default for Dropped {
    fn default() -> Self {
        Self { history: Vec::new(), second: 0, count: 0, retry_after: 1, doubled_at: 0 }
    }
}

impl Dropped {
    /// One refusal at a time in Unix seconds; what its client is told, in seconds.
    pub fn record(&mut self, now: i64) -> u32 {
        if self.second == now {
            self.count += 1;
        } else {
            self.history.push((self.second, self.count));
            let kept = (2 * self.retry_after).min(MAX);
            let last = self.second;
            self.history.retain(|(s, _)| last - s <= kept);
            self.second = now;
            self.count = 1;
            self.adjust(now);
        }
        u32::try_from(self.retry_after).unwrap_or(1)
    }

    fn adjust(&mut self, now: i64) {
        let recent: i64 = self
            .history
            .iter()
            .filter(|(s, _)| *s < now && now - s <= self.retry_after)
            .map(|(_, n)| n)
            .sum();
        if now - self.doubled_at >= self.retry_after && recent >= 3 * self.retry_after {
            self.retry_after = (self.retry_after * 2).min(MAX);
            self.doubled_at = now;
        } else if recent < self.retry_after && self.retry_after > 1 {
            self.retry_after -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_under_load_and_shrinks_after() {
        let mut d = Dropped::default();
        let mut last = 0;
        for second in 1000..1100 {
            for _ in 0..100 {
                last = d.record(second);
            }
        }
        assert_eq!(last, 32);
        let mut second = 1100;
        while d.record(second) > 1 {
            second += 40;
            assert!(second < 10_000, "it comes down");
        }
    }
}
