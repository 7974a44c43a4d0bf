//! Ranges of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// The address as a number, and whether it is of IPv4.
fn number(address: IpAddr) -> (u128, bool) {
    match address {
        IpAddr::V4(a) => (u128::from(u32::from(a)), true),
        IpAddr::V6(a) => (u128::from(a), false),
    }
}

/// A range of addresses, as `10.0.0.0/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cidr {
    /// First address, as a number of the family's width.
    pub(crate) base: u128,
    pub(crate) bits: u8,
    pub(crate) v4: bool,
}

impl Cidr {
    /// Whether it is of IPv4.
    pub fn is_v4(&self) -> bool {
        self.v4
    }

    pub(crate) fn width(&self) -> u8 {
        if self.v4 { 32 } else { 128 }
    }

    /// Number of address bits below the prefix.
    pub(crate) fn free(&self) -> u32 {
        u32::from(self.width() - self.bits)
    }

    /// Last address.
    pub(crate) fn last(&self) -> u128 {
        self.base | 1u128.checked_shl(self.free()).map_or(u128::MAX, |s| s - 1)
    }

    /// Whether it has no network and broadcast address.
    pub fn is_tiny(&self) -> bool {
        self.free() < 2
    }

    /// Whether the address is in it.
    pub fn has(&self, address: IpAddr) -> bool {
        let (number, v4) = number(address);
        v4 == self.v4 && (self.base..=self.last()).contains(&number)
    }

    /// Whether all of `other` is in it.
    pub fn covers(&self, other: &Self) -> bool {
        self.v4 == other.v4 && self.base <= other.base && other.last() <= self.last()
    }

    /// Whether services can get the address from it: neither the network's own, nor IPv4's broadcast address.
    pub fn gives(&self, address: IpAddr) -> bool {
        let (number, v4) = number(address);
        self.has(address) && number != self.base && !(v4 && number == self.last())
    }

    /// The addresses in order.
    pub fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        let v4 = self.v4;
        (self.base..=self.last())
            .map(move |n| if v4 { Ipv4Addr::from(n as u32).into() } else { Ipv6Addr::from(n).into() })
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("\"{s}\" is not an address range such as 10.244.0.0/16");
        let (address, bits) = s.split_once('/').ok_or_else(bad)?;
        let bits: u8 = bits.parse().map_err(|_| bad())?;
        let (base, v4) = number(address.parse::<IpAddr>().map_err(|_| bad())?);
        let mut cidr = Self { base, bits, v4 };
        if bits > cidr.width() {
            return Err(bad());
        }
        let mask = 1u128.checked_shl(cidr.free()).map_or(u128::MAX, |s| s - 1);
        cidr.base &= !mask;
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.v4 {
            write!(f, "{}/{}", Ipv4Addr::from(self.base as u32), self.bits)
        } else {
            write!(f, "{}/{}", Ipv6Addr::from(self.base), self.bits)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(text: &str) -> Cidr {
        text.parse().unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_and_broadcasts_are_given_to_nobody() {
        let c = cidr("10.0.0.0/24");
        assert!(c.gives(ip("10.0.0.1")) && c.gives(ip("10.0.0.254")));
        assert!(!c.gives(ip("10.0.0.0")) && !c.gives(ip("10.0.0.255")) && !c.gives(ip("10.0.1.1")));
        let six = cidr("fd00::/112");
        assert!(six.gives(ip("fd00::ffff")) && !six.gives(ip("fd00::")) && !six.gives(ip("10.0.0.1")));
        assert!("10.0.0.0/33".parse::<Cidr>().is_err());
    }

    #[test]
    fn ranges_cover_ranges() {
        assert!(cidr("10.0.0.0/16").covers(&cidr("10.0.3.0/24")));
        assert!(!cidr("10.0.3.0/24").covers(&cidr("10.0.0.0/16")));
        assert!(!cidr("::/0").covers(&cidr("10.0.0.0/24")) && cidr("::/0").has(ip("ffff::1")));
        assert_eq!(
            cidr("10.0.0.254/31").addresses().collect::<Vec<_>>(),
            [ip("10.0.0.254"), ip("10.0.0.255")]
        );
    }
}
