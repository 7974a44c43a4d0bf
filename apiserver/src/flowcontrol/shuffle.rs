//! Shuffle sharding: a flow always gets the same few queues, and two flows rarely get all the same ones, so that one
//! heavy flow spoils only a few queues of the others.

/// More cards than any valid hand has: hands are limited to 60 bits of entropy, and 20 of 20 has more.
pub const MAX_HAND: usize = 20;

/// The queues of one flow, in the order dealt.
#[derive(Debug, Clone, Copy)]
pub struct Hand {
    cards: [u32; MAX_HAND],
    len: usize,
}

impl Hand {
    pub fn cards(&self) -> &[u32] {
        &self.cards[..self.len]
    }
}

/// Deals `size` distinct queues out of `deck` by the digits of `hash` in a mixed base.
pub fn deal(mut hash: u64, deck: usize, size: usize) -> Hand {
    let size = size.min(deck).min(MAX_HAND);
    let mut hand = Hand { cards: [0; MAX_HAND], len: 0 };
    // The cards dealt so far, ascending.
    let mut taken = [0u32; MAX_HAND];
    for i in 0..size {
        let left = (deck - i) as u64;
        let mut card = (hash % left) as u32;
        hash /= left;
        let mut at = 0;
        while at < i && taken[at] <= card {
            card += 1;
            at += 1;
        }
        taken.copy_within(at..i, at + 1);
        taken[at] = card;
        hand.cards[i] = card;
        hand.len = i + 1;
    }
    hand
}

/// Whether a deck and a hand fit the 60 bits that are taken from a hash.
pub fn fits(deck: usize, size: usize) -> bool {
    if size == 0 || size > deck || size > MAX_HAND {
        return false;
    }
    (0..size).map(|i| ((deck - i) as f64).log2()).sum::<f64>() <= 60.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hands_are_distinct_and_even() {
        let mut seen = [0u32; 16];
        let mut hash = 1u64;
        for _ in 0..4000 {
            hash = hash.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let hand = deal(hash >> 3, 16, 4);
            let mut cards = hand.cards().to_vec();
            cards.sort_unstable();
            cards.dedup();
            assert_eq!(cards.len(), 4);
            for c in cards {
                seen[c as usize] += 1;
            }
        }
        assert!(seen.iter().all(|n| (800..1200).contains(n)), "{seen:?}");
    }

    #[test]
    fn limits() {
        assert_eq!(deal(77, 1, 1).cards(), [0]);
        assert_eq!(deal(u64::MAX, 3, 9).cards().len(), 3);
        assert!(fits(128, 6) && fits(64, 8) && !fits(128, 10) && !fits(4, 5) && !fits(4, 0));
    }
}
