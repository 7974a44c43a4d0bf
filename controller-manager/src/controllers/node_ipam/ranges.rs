//! Address ranges and the pool they are taken from. Pure.

use anyhow::bail;

pub use crate::util::cidr::Cidr;

/// A range cut into equal pieces.
#[derive(Debug)]
pub struct Pool {
    whole: Cidr,
    piece_bits: u8,
    used: Vec<bool>,
    /// Pieces are given out in turn, so that a range that was freed rests before it is used again.
    next: usize,
}

impl Pool {
    /// # Errors
    /// The pieces do not fit, or there would be more than 65536.
    pub fn new(whole: Cidr, piece_bits: u8) -> anyhow::Result<Self> {
        if piece_bits < whole.bits || piece_bits > whole.width() {
            bail!("--node-cidr-mask-size: /{piece_bits} ranges can't be cut from {whole}");
        }
        let parts = u32::from(piece_bits - whole.bits);
        if parts > 16 {
            bail!(
                "--node-cidr-mask-size: {whole} would be cut into too many /{piece_bits} ranges; at most 65536"
            );
        }
        Ok(Self { whole, piece_bits, used: vec![false; 1 << parts], next: 0 })
    }

    fn piece(&self, i: usize) -> Cidr {
        let free = u32::from(self.whole.width() - self.piece_bits);
        let offset = (i as u128).checked_shl(free).unwrap_or(0);
        Cidr { base: self.whole.base | offset, bits: self.piece_bits, v4: self.whole.v4 }
    }

    /// Pieces that share addresses with a range.
    fn overlap(&self, cidr: &Cidr) -> std::ops::Range<usize> {
        let (from, to) = (cidr.base.max(self.whole.base), cidr.last().min(self.whole.last()));
        if cidr.v4 != self.whole.v4 || from > to {
            return 0..0;
        }
        let free = u32::from(self.whole.width() - self.piece_bits);
        let index =
            |a: u128| usize::try_from((a - self.whole.base).checked_shr(free).unwrap_or(0)).unwrap_or(0);
        index(from)..index(to) + 1
    }

    /// Marks a range as taken.
    pub fn occupy(&mut self, cidr: &Cidr) {
        let range = self.overlap(cidr);
        self.used[range].fill(true);
    }

    /// Gives a range back.
    pub fn release(&mut self, cidr: &Cidr) {
        let range = self.overlap(cidr);
        self.used[range].fill(false);
    }

    /// Takes a free piece.
    pub fn take(&mut self) -> Option<Cidr> {
        let n = self.used.len();
        let free = (0..n).map(|i| (self.next + i) % n).find(|i| !self.used[*i])?;
        self.used[free] = true;
        self.next = (free + 1) % n;
        Some(self.piece(free))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(s: &str) -> Cidr {
        s.parse().unwrap_or_else(|e| panic!("{e}"))
    }

    fn pool(s: &str, bits: u8) -> Pool {
        Pool::new(cidr(s), bits).unwrap_or_else(|e| panic!("{e}"))
    }

    fn take(p: &mut Pool) -> Option<String> {
        p.take().map(|c| c.to_string())
    }

    #[test]
    fn pieces_in_turn_and_never_twice() {
        let mut p = pool("10.244.0.0/22", 24);
        p.occupy(&cidr("10.244.1.0/24"));
        assert_eq!(take(&mut p).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(take(&mut p).as_deref(), Some("10.244.2.0/24"));
        p.release(&cidr("10.244.0.0/24"));
        assert_eq!(take(&mut p).as_deref(), Some("10.244.3.0/24"));
        assert_eq!(take(&mut p).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(take(&mut p), None);
    }

    #[test]
    fn overlapping_ranges_and_other_families() {
        let mut p = pool("10.96.0.0/14", 16);
        p.occupy(&cidr("10.96.0.0/16"));
        p.occupy(&cidr("fd00::/64"));
        p.occupy(&cidr("10.0.0.0/13"));
        assert_eq!(take(&mut p).as_deref(), Some("10.97.0.0/16"));
        p.occupy(&cidr("10.0.0.0/8"));
        assert_eq!(take(&mut p), None);
        assert_eq!(take(&mut pool("fd00:1::/56", 64)).as_deref(), Some("fd00:1::/64"));
    }

    #[test]
    fn bad_ranges() {
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
        assert!(Pool::new(cidr("10.0.0.0/24"), 16).is_err());
        assert!(Pool::new(cidr("fd00::/40"), 64).is_err());
        assert_eq!(cidr("10.1.2.3/16").to_string(), "10.1.0.0/16");
    }
}
