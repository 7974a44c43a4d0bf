//! `--client-allow-cidrs` and `--client-deny-cidrs`: from which networks clients may connect at all. Asked when a
//! connection is accepted, before anything is read from it.

use std::net::IpAddr;
use std::sync::Arc;

use component_base::serving::listener::Gate;

/// A network, as its first address in 128 bits and the length of its prefix there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Network {
    v4: bool,
    bits: u128,
    prefix: u32,
}

fn bits(address: IpAddr) -> (bool, u128) {
    match address {
        IpAddr::V4(a) => (true, u128::from(u32::from(a)) << 96),
        IpAddr::V6(a) => (false, u128::from(a)),
    }
}

fn mask(prefix: u32) -> u128 {
    u128::MAX.checked_shl(128 - prefix).unwrap_or(0)
}

impl Network {
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = match text.split_once('/') {
            Some((a, p)) => (a.parse::<IpAddr>().ok()?, Some(p.parse::<u32>().ok()?)),
            // A bare address is a network of one.
            None => (text.parse::<IpAddr>().ok()?, None),
        };
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return None;
        }
        let (v4, bits) = bits(address);
        Some(Self { v4, bits: bits & mask(prefix), prefix })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let (v4, bits) = bits(address);
        v4 == self.v4 && bits & mask(self.prefix) == self.bits
    }
}

/// What the listener asks of each address; none where both lists are empty.
pub fn gate(allow: &[String], deny: &[String]) -> Result<Option<Gate>, String> {
    let parse = |flag: &str, list: &[String]| -> Result<Vec<Network>, String> {
        list.iter()
            .filter(|c| !c.is_empty())
            .map(|c| {
                Network::parse(c).ok_or_else(|| format!("{flag}: {c:?} is no network such as 10.0.0.0/8"))
            })
            .collect()
    };
    let allow = parse("--client-allow-cidrs", allow)?;
    let deny = parse("--client-deny-cidrs", deny)?;
    if allow.is_empty() && deny.is_empty() {
        return Ok(None);
    }
    Ok(Some(Arc::new(move |address| {
        let within = |list: &[Network]| list.iter().any(|n| n.contains(address));
        !within(&deny) && (allow.is_empty() || within(&allow))
    })))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists() {
        let list = |l: &[&str]| l.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>();
        let ask = |allow: &[&str], deny: &[&str], address: &str| {
            gate(&list(allow), &list(deny)).unwrap().unwrap()(address.parse().unwrap())
        };
        assert!(gate(&[], &[]).unwrap().is_none());
        assert!(ask(&["10.0.0.0/8"], &[], "10.1.2.3"));
        assert!(!ask(&["10.0.0.0/8"], &[], "11.1.2.3"));
        assert!(!ask(&["10.0.0.0/8"], &[], "::1"));
        assert!(!ask(&["10.0.0.0/8"], &["10.1.0.0/16"], "10.1.2.3"));
        assert!(ask(&[], &["10.1.0.0/16"], "10.2.0.1"));
        assert!(ask(&["fd00::/8", "127.0.0.1"], &[], "fd12::1"));
        assert!(ask(&["fd00::/8", "127.0.0.1"], &[], "127.0.0.1"));
        assert!(ask(&["0.0.0.0/0"], &[], "8.8.8.8"));
        for bad in ["10.0.0.0/33", "x", "10.0.0.0/-1", "::/129"] {
            assert!(gate(&list(&[bad]), &[]).is_err(), "{bad}");
        }
    }
}
