//! Textual addresses and networks as fields hold them: what is refused, and what is taken but warned of.
//!
//! Old fields take what Go's forgiving parser took, less what two readers may understand differently (leading zeros,
//! IPv4 addresses in IPv6 form, bits beyond the prefix); new ones take the canonical form alone.

use std::net::{IpAddr, Ipv4Addr};

use crate::field::{Error, ErrorList, Path};

/// An address as the forgiving parser sees it: leading zeros are decimal, and IPv4 in IPv6 form is IPv4.
pub fn sloppy_ip(s: &str) -> Option<IpAddr> {
    if s.contains(':') {
        let (head, tail) = s.rsplit_once(':')?;
        let v6 = if tail.contains('.') { format!("{head}:{}", sloppy_v4(tail)?) } else { s.to_owned() };
        return match v6.parse().ok()? {
            IpAddr::V6(v) => Some(v.to_ipv4_mapped().map_or(IpAddr::V6(v), IpAddr::V4)),
            v4 => Some(v4),
        };
    }
    sloppy_v4(s).map(IpAddr::V4)
}

fn sloppy_v4(s: &str) -> Option<Ipv4Addr> {
    let mut out = [0u8; 4];
    let mut parts = s.split('.');
    for o in &mut out {
        let p = parts.next()?;
        if p.is_empty() || p.len() > 10 || !p.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = p.trim_start_matches('0');
        *o = if digits.is_empty() { 0 } else { digits.parse().ok()? };
    }
    parts.next().is_none().then(|| out.into())
}

/// A network as the forgiving parser sees it: the address as written, and its prefix length.
pub fn sloppy_cidr(s: &str) -> Option<(IpAddr, u8)> {
    let (addr, bits) = s.split_once('/')?;
    let ip = sloppy_ip(addr)?;
    if bits.is_empty() || !bits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let bits: u32 = bits.parse().ok()?;
    // The length of an IPv4 network in IPv6 form counts the bits of both.
    let bits = match ip {
        IpAddr::V4(_) if addr.contains(':') => bits.checked_sub(96)?,
        _ => bits,
    };
    let max = if ip.is_ipv4() { 32 } else { 128 };
    (bits <= max).then(|| u8::try_from(bits).ok().map(|b| (ip, b))).flatten()
}

fn masked(ip: IpAddr, bits: u8) -> IpAddr {
    match ip {
        IpAddr::V4(v) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v) & mask).into())
        }
        IpAddr::V6(v) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v) & mask).into())
        }
    }
}

fn is_mapped(s: &str) -> bool {
    matches!(s.parse(), Ok(IpAddr::V6(v)) if v.to_ipv4_mapped().is_some())
}

/// An address in a field that predates strict checks.
pub fn legacy_ip(s: &str, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if sloppy_ip(s).is_none() {
        errors.push(Error::invalid(path, s, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
    } else if s.parse::<IpAddr>().is_err() {
        errors.push(Error::invalid(path, s, "must not have leading 0s"));
    } else if is_mapped(s) {
        errors.push(Error::invalid(path, s, "must not be an IPv4-mapped IPv6 address"));
    }
    errors
}

/// An address in canonical form.
pub fn ip(s: &str, path: &Path) -> ErrorList {
    let mut errors = legacy_ip(s, path);
    if let (true, Some(ip)) = (errors.is_empty(), sloppy_ip(s))
        && ip.to_string() != s
    {
        errors.push(Error::invalid(path, s, format!("must be in canonical form (\"{ip}\")")));
    }
    errors
}

/// A network in a field that predates strict checks; what the stored object has (`kept`) may stay.
pub fn legacy_cidr(s: &str, kept: &[&str], path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    if kept.contains(&s) {
        return errors;
    }
    let Some((ip, bits)) = sloppy_cidr(s) else {
        let why = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
        errors.push(Error::invalid(path, s, why));
        return errors;
    };
    let (addr, length) = s.split_once('/').unwrap_or((s, ""));
    if addr.parse::<IpAddr>().is_err() || (length.len() > 1 && length.starts_with('0')) {
        errors.push(Error::invalid(path, s, "must not have leading 0s in IP or prefix length"));
    } else if is_mapped(addr) {
        errors.push(Error::invalid(path, s, "must not have an IPv4-mapped IPv6 address"));
    } else if masked(ip, bits) != ip {
        errors.push(Error::invalid(path, s, "must not have bits set beyond the prefix length"));
    }
    errors
}

/// A network in canonical form.
pub fn cidr(s: &str, path: &Path) -> ErrorList {
    let mut errors = legacy_cidr(s, &[], path);
    if let (true, Some((ip, bits))) = (errors.is_empty(), sloppy_cidr(s)) {
        let canonical = format!("{ip}/{bits}");
        if canonical != s {
            errors.push(Error::invalid(path, s, format!("must be in canonical form (\"{canonical}\")")));
        }
    }
    errors
}

/// What is said of an address that is taken, but not in the form it should have.
pub fn ip_warning(s: &str, path: &Path) -> Option<String> {
    let sloppy = sloppy_ip(s)?;
    match s.parse::<IpAddr>() {
        Err(_) => Some(format!("{path}: non-standard IP address {s:?} is invalid: use \"{sloppy}\"")),
        Ok(_) if is_mapped(s) => {
            Some(format!("{path}: non-standard IP address {s:?} is invalid: use \"{sloppy}\""))
        }
        Ok(ip @ IpAddr::V6(_)) if ip.to_string() != s => {
            Some(format!("{path}: IPv6 address {s:?} should be in RFC 5952 canonical format (\"{ip}\")"))
        }
        Ok(_) => None,
    }
}

/// What is said of a network that is taken, but not in the form it should have.
pub fn cidr_warnings(s: &str, path: &Path) -> Vec<String> {
    let mut out = Vec::new();
    let Some((ip, bits)) = sloppy_cidr(s) else { return out };
    let network = masked(ip, bits);
    if network != ip {
        let whole = if ip.is_ipv4() { 32 } else { 128 };
        out.push(format!(
            "{path}: CIDR value {s:?} is ambiguous in this context (should be \"{network}/{bits}\" or \"{ip}/{whole}\"?)"
        ));
    }
    let (addr, length) = s.split_once('/').unwrap_or((s, ""));
    let strict = addr.parse::<IpAddr>().is_ok() && !(length.len() > 1 && length.starts_with('0'));
    if !strict || is_mapped(addr) {
        out.push(format!("{path}: non-standard CIDR value {s:?} is invalid: use \"{network}/{bits}\""));
    }
    let canonical = format!("{ip}/{bits}");
    if out.is_empty() && ip.is_ipv6() && canonical != s {
        out.push(format!(
            "{path}: IPv6 CIDR value {s:?} should be in RFC 5952 canonical format (\"{canonical}\")"
        ));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(e: ErrorList) -> String {
        e.iter().map(|e| e.detail.clone()).collect::<Vec<_>>().join("; ")
    }

    #[test]
    fn addresses_that_two_readers_understand_differently_are_refused() {
        let p = Path::new("ip");
        assert_eq!(why(legacy_ip("10.0.0.1", &p)), "");
        assert_eq!(why(legacy_ip("010.0.0.1", &p)), "must not have leading 0s");
        assert_eq!(why(legacy_ip("::ffff:1.2.3.4", &p)), "must not be an IPv4-mapped IPv6 address");
        assert!(why(legacy_ip("1.2.3", &p)).starts_with("must be a valid IP address"));
        assert_eq!(why(legacy_ip("2001:DB8::1", &p)), "");
        assert_eq!(why(ip("2001:DB8::1", &p)), "must be in canonical form (\"2001:db8::1\")");
        assert!(ip_warning("2001:DB8::1", &p).is_some_and(|w| w.contains("RFC 5952")));
        assert_eq!(ip_warning("1.2.3.4", &p), None);
        assert!(sloppy_ip("1.2.3.256").is_none() && sloppy_ip("1.2.3.4.5").is_none());
    }

    #[test]
    fn networks_end_where_their_prefix_does() {
        let p = Path::new("cidr");
        assert_eq!(why(legacy_cidr("10.0.0.0/8", &[], &p)), "");
        assert_eq!(
            why(legacy_cidr("10.0.0.1/8", &[], &p)),
            "must not have bits set beyond the prefix length"
        );
        assert_eq!(why(legacy_cidr("10.0.0.1/8", &["10.0.0.1/8"], &p)), "");
        assert_eq!(
            why(legacy_cidr("10.0.0.0/08", &[], &p)),
            "must not have leading 0s in IP or prefix length"
        );
        assert_eq!(why(cidr("FD00::/112", &p)), "must be in canonical form (\"fd00::/112\")");
        assert_eq!(cidr_warnings("10.0.0.1/8", &p).len(), 1);
        assert!(cidr_warnings("10.0.0.0/8", &p).is_empty());
        assert!(legacy_cidr("0.0.0.0/0", &[], &p).is_empty());
    }
}
