//! Address ranges for cluster IPs, and which address of a range to try next.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rand::{Rng as _, RngCore};

/// Lower part of a range that dynamic allocation leaves to explicit requests: `min(max(16, size / 16), 256)`
/// addresses, none in ranges of 16 and fewer.
const BAND_MIN: u128 = 16;
const BAND_MAX: u128 = 256;
const BAND_STEP: u128 = 16;

/// A range in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    base: u128,
    bits: u32,
    v4: bool,
}

impl Cidr {
    pub fn parse(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not a CIDR such as 10.96.0.0/16");
        let (address, bits) = s.trim().split_once('/').ok_or_else(bad)?;
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let bits: u32 = bits.parse().map_err(|_| bad())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if bits > width {
            return Err(bad());
        }
        let host_bits = width - bits;
        let mask = if host_bits >= 128 { 0 } else { u128::MAX << host_bits };
        Ok(Self { base: number(address) & mask, bits: host_bits, v4: address.is_ipv4() })
    }

    pub fn family(&self) -> &'static str {
        if self.v4 { "IPv4" } else { "IPv6" }
    }

    /// Usable addresses: without the network address and, in IPv4, the broadcast address.
    fn usable(&self) -> u128 {
        // A range larger than 64 bits is as good as endless.
        let size = 1u128 << self.bits.min(64);
        size.saturating_sub(if self.v4 { 2 } else { 1 })
    }

    /// How many addresses may be given out.
    pub fn size(&self) -> u64 {
        u64::try_from(self.usable()).unwrap_or(u64::MAX)
    }

    fn band(&self) -> u128 {
        let size = 1u128 << self.bits.min(64);
        if size <= BAND_MIN { 0 } else { (size / BAND_STEP).clamp(BAND_MIN, BAND_MAX) }
    }

    /// The network address.
    pub fn network(&self) -> IpAddr {
        self.address(self.base)
    }

    /// The first usable address: that of the `kubernetes` service.
    pub fn first(&self) -> IpAddr {
        self.address(self.base + 1)
    }

    /// Whether the address may be given out.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let n = number(ip);
        ip.is_ipv4() == self.v4 && n > self.base && n <= self.base + self.usable()
    }

    fn address(&self, n: u128) -> IpAddr {
        if self.v4 {
            IpAddr::V4(Ipv4Addr::from(u32::try_from(n).unwrap_or(u32::MAX)))
        } else {
            IpAddr::V6(Ipv6Addr::from(n))
        }
    }

    /// All addresses in the order to try them: the upper band from a random point, then the lower one.
    pub fn candidates(&self, rng: &mut dyn RngCore) -> impl Iterator<Item = IpAddr> + use<> {
        let (usable, band) = (self.usable(), self.band());
        let cidr = *self;
        let ring = move |start: u128, len: u128, offset: u128| {
            (0..len).map(move |i| cidr.address(cidr.base + 1 + start + (offset + i) % len))
        };
        let upper = usable.saturating_sub(band);
        let lower = band.min(usable);
        let in_upper = if upper > 0 { rng.random_range(0..upper) } else { 0 };
        let in_lower = if lower > 0 { rng.random_range(0..lower) } else { 0 };
        ring(band, upper, in_upper).chain(ring(0, lower, in_lower))
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = if self.v4 { 32 } else { 128 };
        write!(f, "{}/{}", self.network(), width - self.bits)
    }
}

fn number(ip: IpAddr) -> u128 {
    match ip {
        IpAddr::V4(a) => u128::from(u32::from(a)),
        IpAddr::V6(a) => u128::from(a),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::HashSet;

    #[test]
    fn bounds() {
        let c = Cidr::parse("10.96.3.4/16").unwrap();
        assert_eq!(c.to_string(), "10.96.0.0/16");
        assert_eq!(c.first().to_string(), "10.96.0.1");
        for (ip, ok) in [
            ("10.96.0.0", false),
            ("10.96.0.1", true),
            ("10.96.255.254", true),
            ("10.96.255.255", false),
            ("10.97.0.1", false),
            ("fd00::1", false),
        ] {
            assert_eq!(c.contains(ip.parse().unwrap()), ok, "{ip}");
        }
        let six = Cidr::parse("fd00::/112").unwrap();
        assert!(six.contains("fd00::ffff".parse().unwrap()));
        assert_eq!((six.family(), six.to_string()), ("IPv6", "fd00::/112".to_owned()));
        assert!(Cidr::parse("10.0.0.0").is_err());
        assert!(Cidr::parse("10.0.0.0/33").is_err());
    }

    #[test]
    fn every_address_once_and_the_static_band_last() {
        let mut rng = rand::rngs::StdRng::seed_from_u64(7);
        let c = Cidr::parse("10.0.0.0/24").unwrap();
        let all: Vec<IpAddr> = c.candidates(&mut rng).collect();
        assert_eq!(all.len(), 254);
        assert_eq!(all.iter().collect::<HashSet<_>>().len(), 254);
        assert!(all.iter().all(|ip| c.contains(*ip)));
        let band: IpAddr = "10.0.0.16".parse().unwrap();
        assert!(all[..238].iter().all(|ip| *ip > band));
        assert!(all[238..].iter().all(|ip| *ip <= band));
        assert_eq!(Cidr::parse("10.0.0.0/28").unwrap().candidates(&mut rng).count(), 14);
        assert_eq!(Cidr::parse("10.0.0.0/32").unwrap().candidates(&mut rng).count(), 0);
        let huge = Cidr::parse("fd00::/48").unwrap();
        assert!(huge.candidates(&mut rng).take(9).all(|ip| huge.contains(ip)));
    }
}
