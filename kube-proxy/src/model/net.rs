//! Address families and CIDRs.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    V4,
    V6,
}

impl Family {
    /// The family of an address.
    #[must_use]
    pub fn of(ip: IpAddr) -> Self {
        if ip.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// As metrics and the API name it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        }
    }
}

/// An address range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    pub ip: IpAddr,
    pub bits: u8,
}

impl Cidr {
    /// Whether the range has the address.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        fn same(a: u128, b: u128, bits: u8, width: u8) -> bool {
            bits == 0 || (a >> (width - bits)) == (b >> (width - bits))
        }
        match (self.ip, ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                same(u128::from(a.to_bits()), u128::from(b.to_bits()), self.bits, 32)
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), self.bits, 128),
            _ => false,
        }
    }

    /// The range's family.
    #[must_use]
    pub fn family(&self) -> Family {
        Family::of(self.ip)
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("{s:?} is not a CIDR such as 10.0.0.0/8");
        let (ip, bits) = s.trim().split_once('/').ok_or_else(bad)?;
        let ip: IpAddr = ip.parse().map_err(|_| bad())?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        let width = if ip.is_ipv4() { 32 } else { 128 };
        if bits > width {
            return Err(bad());
        }
        // The network address, whatever host bits were written.
        let ip = match ip {
            IpAddr::V4(a) => {
                let mask = if bits == 0 { 0 } else { u32::MAX << (32 - bits) };
                IpAddr::V4((a.to_bits() & mask).into())
            }
            IpAddr::V6(a) => {
                let mask = if bits == 0 { 0 } else { u128::MAX << (128 - bits) };
                IpAddr::V6((a.to_bits() & mask).into())
            }
        };
        Ok(Self { ip, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cidrs_normalise_and_contain() {
        let c: Cidr = "10.1.2.3/16".parse().expect("cidr");
        assert_eq!(c.to_string(), "10.1.0.0/16");
        assert!(c.contains("10.1.255.1".parse().expect("ip")));
        assert!(!c.contains("10.2.0.1".parse().expect("ip")));
        assert!(!c.contains("::1".parse().expect("ip")));
        let all: Cidr = "0.0.0.0/0".parse().expect("cidr");
        assert!(all.contains("1.2.3.4".parse().expect("ip")));
        let six: Cidr = "fd00::1/64".parse().expect("cidr");
        assert!(six.contains("fd00::ffff".parse().expect("ip")));
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "fd00::/129"] {
            assert!(bad.parse::<Cidr>().is_err(), "{bad}");
        }
    }
}
