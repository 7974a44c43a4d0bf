//! Node ports: one bit per port of the range.

use std::fmt;

use rand::Rng;

const BAND_MIN: u16 = 16;
const BAND_MAX: u16 = 128;
const BAND_STEP: u16 = 32;

/// `--service-node-port-range`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortRange {
    pub base: u16,
    pub size: u16,
}

impl Default for PortRange {
    fn default() -> Self {
        Self { base: 30000, size: 2768 }
    }
}

impl PortRange {
    /// `30000-32767` or `30000+2767`.
    pub fn parse(s: &str) -> Result<Self, String> {
        let bad = || format!("--service-node-port-range: {s:?} is not a range such as 30000-32767");
        let number = |s: &str| s.trim().parse::<u16>().map_err(|_| bad());
        let (first, last) = if let Some((a, b)) = s.split_once('-') {
            (number(a)?, number(b)?)
        } else if let Some((a, b)) = s.split_once('+') {
            let first = number(a)?;
            (first, first.checked_add(number(b)?).ok_or_else(bad)?)
        } else {
            (number(s)?, number(s)?)
        };
        if first > last || first == 0 {
            return Err(bad());
        }
        Ok(Self { base: first, size: last - first + 1 })
    }

    fn band(self) -> u16 {
        if self.size <= BAND_MIN { 0 } else { (self.size / BAND_STEP).clamp(BAND_MIN, BAND_MAX) }
    }

    fn offset(self, port: u16) -> Option<u16> {
        port.checked_sub(self.base).filter(|o| *o < self.size)
    }
}

impl fmt::Display for PortRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.base, self.base + (self.size - 1))
    }
}

/// Which ports are taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    range: PortRange,
    bits: Vec<u64>,
}

impl Ports {
    pub fn new(range: PortRange) -> Self {
        Self { range, bits: vec![0; usize::from(range.size).div_ceil(64)] }
    }

    fn bit(&mut self, offset: u16) -> (&mut u64, u64) {
        (&mut self.bits[usize::from(offset / 64)], 1 << (offset % 64))
    }

    /// Whether the port is in the range and taken.
    pub fn taken(&self, port: u16) -> bool {
        self.range.offset(port).is_some_and(|o| self.bits[usize::from(o / 64)] & (1 << (o % 64)) != 0)
    }

    /// Takes the port.
    pub fn take(&mut self, port: u16) -> Result<(), String> {
        let range = self.range;
        let Some(offset) = range.offset(port) else {
            return Err(format!(
                "provided port is not in the valid range. The range of valid ports is {range}"
            ));
        };
        let (word, mask) = self.bit(offset);
        if *word & mask != 0 {
            return Err("provided port is already allocated".to_owned());
        }
        *word |= mask;
        Ok(())
    }

    /// Takes any free port: of the upper band from a random point, then of the lower one.
    pub fn take_any(&mut self, rng: &mut impl Rng) -> Result<u16, String> {
        let (size, band) = (self.range.size, self.range.band());
        for (start, len) in [(band, size - band), (0, band)] {
            if len == 0 {
                continue;
            }
            let from = rng.random_range(0..len);
            for i in 0..len {
                let offset = start + (from + i) % len;
                let (word, mask) = self.bit(offset);
                if *word & mask == 0 {
                    *word |= mask;
                    return Ok(self.range.base + offset);
                }
            }
        }
        Err("range is full".to_owned())
    }

    /// Gives the port back; one outside the range was never taken.
    pub fn release(&mut self, port: u16) {
        if let Some(offset) = self.range.offset(port) {
            let (word, mask) = self.bit(offset);
            *word &= !mask;
        }
    }

    /// Ports taken and free.
    pub fn usage(&self) -> (u64, u64) {
        let taken: u64 = self.bits.iter().map(|w| u64::from(w.count_ones())).sum();
        (taken, u64::from(self.range.size).saturating_sub(taken))
    }

    /// The same range with nothing taken.
    pub fn emptied(&self) -> Self {
        Self::new(self.range)
    }

    pub fn is_empty(&self) -> bool {
        self.bits.iter().all(|w| *w == 0)
    }

    /// The ports that are taken.
    pub fn iter(&self) -> impl Iterator<Item = u16> {
        let range = self.range;
        (0..range.size).map(move |o| range.base + o).filter(|p| self.taken(*p))
    }

    /// The bits as one number, highest byte first, without leading zeros: what a `RangeAllocation` holds.
    pub fn to_bytes(&self) -> Vec<u8> {
        let bytes = self.bits.iter().rev().flat_map(|w| w.to_be_bytes());
        bytes.skip_while(|b| *b == 0).collect()
    }

    /// Takes what such a number says. Bits beyond the range are left out.
    pub fn set_bytes(&mut self, data: &[u8]) {
        self.bits.fill(0);
        for (i, byte) in data.iter().rev().enumerate() {
            for bit in (0..8).filter(|b| byte & (1 << b) != 0) {
                let Ok(offset) = u16::try_from(i * 8 + bit) else { return };
                if offset < self.range.size {
                    let (word, mask) = self.bit(offset);
                    *word |= mask;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;

    #[test]
    fn ranges() {
        assert_eq!(PortRange::parse("30000-32767").unwrap(), PortRange::default());
        assert_eq!(PortRange::parse("30000+9").unwrap().size, 10);
        assert_eq!(PortRange::parse("80").unwrap().to_string(), "80-80");
        for bad in ["", "a-b", "9-1", "70000", "0-5"] {
            assert!(PortRange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn taking_and_releasing() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(1);
        let mut p = Ports::new(PortRange { base: 30000, size: 100 });
        p.take(30005).unwrap();
        assert_eq!(p.take(30005).unwrap_err(), "provided port is already allocated");
        assert_eq!(
            p.take(80).unwrap_err(),
            "provided port is not in the valid range. The range of valid ports is 30000-30099"
        );
        let first: Vec<u16> = (0..84).map(|_| p.take_any(&mut rng).unwrap()).collect();
        assert!(first.iter().all(|p| *p >= 30016));
        for _ in 0..15 {
            assert!(p.take_any(&mut rng).unwrap() < 30016);
        }
        assert_eq!(p.take_any(&mut rng).unwrap_err(), "range is full");
        let mut same = p.emptied();
        same.set_bytes(&p.to_bytes());
        assert_eq!(same, p);
        p.release(30005);
        p.release(1);
        assert_eq!(p.take_any(&mut rng).unwrap(), 30005);
    }
}
