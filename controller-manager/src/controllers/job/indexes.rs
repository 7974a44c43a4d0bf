//! Sets of completion indexes, as the API writes them: `1,3-5,7`.

use std::fmt;

/// A set of indexes, kept as sorted intervals that do not touch: a job of a million indexes that end in order is one
/// pair of numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Indexes(Vec<(i32, i32)>);

impl Indexes {
    /// Reads the API's form; what is no number is left out, and so is every index from `limit` on.
    pub fn parse(text: &str, limit: i32) -> Self {
        let interval = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some((first.parse::<i32>().ok()?, last.parse::<i32>().ok()?))
        };
        Self::of(text.split(',').filter_map(interval).map(|(a, b)| (a, b.min(limit.saturating_sub(1)))))
    }

    /// The union of intervals in any order; backward ones are empty.
    fn of(intervals: impl IntoIterator<Item = (i32, i32)>) -> Self {
        let mut sorted: Vec<_> = intervals.into_iter().filter(|(a, b)| a <= b && *a >= 0).collect();
        sorted.sort_unstable();
        let mut merged: Vec<(i32, i32)> = Vec::with_capacity(sorted.len());
        for (first, last) in sorted {
            match merged.last_mut() {
                Some(open) if first <= open.1.saturating_add(1) => open.1 = open.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        Self(merged)
    }

    /// Both sets together.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        Self::of(self.0.iter().chain(&other.0).copied())
    }

    /// How many indexes there are.
    pub fn len(&self) -> i32 {
        self.0.iter().fold(0i32, |n, (a, b)| n.saturating_add(b - a).saturating_add(1))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the index is in the set.
    pub fn contains(&self, index: i32) -> bool {
        let after = self.0.partition_point(|(first, _)| *first <= index);
        after > 0 && self.0[after - 1].1 >= index
    }

    /// How many indexes both sets have.
    pub fn common(&self, other: &Self) -> i32 {
        let (mut i, mut j, mut n) = (0, 0, 0i32);
        while let (Some(a), Some(b)) = (self.0.get(i), other.0.get(j)) {
            n += (a.1.min(b.1) - a.0.max(b.0) + 1).max(0);
            if a.1 <= b.1 { i += 1 } else { j += 1 }
        }
        n
    }

    /// The first `count` indexes below `limit` that are not in the set.
    pub fn missing(&self, count: usize, limit: i32) -> Vec<i32> {
        let mut found = Vec::new();
        let mut next = 0;
        for (first, last) in self.0.iter().copied().chain([(limit, limit)]) {
            let gap = next..first.min(limit);
            found.extend(gap.take(count - found.len()));
            next = last.saturating_add(1);
        }
        found
    }
}

impl FromIterator<i32> for Indexes {
    fn from_iter<I: IntoIterator<Item = i32>>(indexes: I) -> Self {
        Self::of(indexes.into_iter().map(|i| (i, i)))
    }
}

impl fmt::Display for Indexes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (first, last)) in self.0.iter().enumerate() {
            let comma = if n == 0 { "" } else { "," };
            match last - first {
                0 => write!(f, "{comma}{first}")?,
                1 => write!(f, "{comma}{first},{last}")?,
                _ => write!(f, "{comma}{first}-{last}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::collections::BTreeSet;

    #[test]
    fn text_and_back() {
        for text in ["", "0", "0,1", "1-3", "0,2-4,6,7,9-12"] {
            assert_eq!(Indexes::parse(text, 100).to_string(), text);
        }
        assert_eq!(Indexes::parse("0,1,2,5-9", 7).to_string(), "0-2,5,6");
        assert_eq!(Indexes::parse("x,3,-,5-y,9-7,-4", 10).to_string(), "3");
        assert_eq!(Indexes::parse("3-2147483647", i32::MAX).len(), i32::MAX - 3);
        assert_eq!(Indexes::parse("0-5", 0), Indexes::default());
    }

    #[test]
    fn agrees_with_a_plain_set() {
        let mut rng = StdRng::seed_from_u64(1);
        for _ in 0..500 {
            let mut pick =
                || (0..rng.random_range(0..20)).map(|_| rng.random_range(0..30)).collect::<BTreeSet<i32>>();
            let (a, b) = (pick(), pick());
            let (x, y): (Indexes, Indexes) = (a.iter().copied().collect(), b.iter().copied().collect());
            let both: BTreeSet<i32> = a.union(&b).copied().collect();
            let union = x.union(&y);
            assert_eq!(Indexes::parse(&union.to_string(), 1000), union);
            assert_eq!(usize::try_from(union.len()), Ok(both.len()));
            assert_eq!(usize::try_from(x.common(&y)), Ok(a.intersection(&b).count()));
            assert!((0..30).all(|i| union.contains(i) == both.contains(&i)));
            let gaps: Vec<i32> = (0..25).filter(|i| !both.contains(i)).take(4).collect();
            assert_eq!(union.missing(4, 25), gaps);
        }
        assert_eq!(Indexes::default().missing(2, 5), [0, 1]);
    }
}
