//! The `format`s that string fields of custom resources are checked against; others are ignored.
//!
//! Source: `JSONSchemaProps` in the API reference, field `format`. Names are compared without dashes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use regex::Regex;

use super::regexp;

/// A format that is checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    BsonObjectId,
    Uri,
    Email,
    Hostname,
    Ipv4,
    Ipv6,
    Cidr,
    Mac,
    /// With the version that it must have, 0 for any.
    Uuid(u8),
    Isbn,
    Isbn10,
    Isbn13,
    CreditCard,
    Ssn,
    HexColor,
    RgbColor,
    Byte,
    Password,
    Date,
    Duration,
    DateTime,
    ShortName,
    LongName,
}

impl Format {
    /// The format of that name, if it is one that v1.36 checks.
    pub fn named(name: &str) -> Option<Self> {
        let plain = name.replace('-', "");
        Some(match plain.as_str() {
            "bsonobjectid" => Self::BsonObjectId,
            "uri" => Self::Uri,
            "email" => Self::Email,
            "hostname" => Self::Hostname,
            "ipv4" => Self::Ipv4,
            "ipv6" => Self::Ipv6,
            "cidr" => Self::Cidr,
            "mac" => Self::Mac,
            "uuid" => Self::Uuid(0),
            "uuid3" => Self::Uuid(3),
            "uuid4" => Self::Uuid(4),
            "uuid5" => Self::Uuid(5),
            "isbn" => Self::Isbn,
            "isbn10" => Self::Isbn10,
            "isbn13" => Self::Isbn13,
            "creditcard" => Self::CreditCard,
            "ssn" => Self::Ssn,
            "hexcolor" => Self::HexColor,
            "rgbcolor" => Self::RgbColor,
            "byte" => Self::Byte,
            "password" => Self::Password,
            "date" => Self::Date,
            "duration" => Self::Duration,
            "datetime" => Self::DateTime,
            "k8sshortname" => Self::ShortName,
            "k8slongname" => Self::LongName,
            _ => return None,
        })
    }

    /// True if `s` is of this format.
    pub fn accepts(self, s: &str) -> bool {
        match self {
            Self::BsonObjectId => s.len() == 24 && s.bytes().all(|b| b.is_ascii_hexdigit()),
            Self::Uri => uri(s),
            Self::Email => email(s),
            Self::Hostname => hostname(s),
            Self::Ipv4 => s.contains('.') && sloppy_ip(s).is_some(),
            Self::Ipv6 => s.contains(':') && s.parse::<Ipv6Addr>().is_ok(),
            Self::Cidr => cidr(s),
            Self::Mac => mac(s),
            Self::Uuid(version) => uuid(s, version),
            Self::Isbn => isbn10(s) || isbn13(s),
            Self::Isbn10 => isbn10(s),
            Self::Isbn13 => isbn13(s),
            Self::CreditCard => credit_card(s),
            Self::Ssn => {
                s.len() == 11 && {
                    let b = s.as_bytes();
                    let dash = |i: usize| matches!(b[i], b'-' | b' ');
                    let digits = |r: std::ops::Range<usize>| b[r].iter().all(u8::is_ascii_digit);
                    digits(0..3) && dash(3) && digits(4..6) && dash(6) && digits(7..11)
                }
            }
            Self::HexColor => {
                let h = s.strip_prefix('#').unwrap_or(s);
                matches!(h.len(), 3 | 6) && h.bytes().all(|b| b.is_ascii_hexdigit())
            }
            Self::RgbColor => rgb(s),
            Self::Byte => base64(s),
            Self::Password => true,
            Self::Date => date(s),
            Self::Duration => duration(s),
            Self::DateTime => date_time(s),
            Self::ShortName => s.len() <= 63 && label(s),
            Self::LongName => s.len() <= 253 && s.split('.').all(label),
        }
    }
}

fn label(s: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let b = s.as_bytes();
    edge(b.first())
        && edge(b.last())
        && b.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || *c == b'-')
}

/// An absolute URI or an absolute path.
fn uri(s: &str) -> bool {
    if s.is_empty() || s.bytes().any(|b| b < 0x20 || b == 0x7f) {
        return false;
    }
    if s == "*" {
        return true;
    }
    let (scheme, rest) = match s.find(|c: char| !(c.is_ascii_alphanumeric() || "+-.".contains(c))) {
        Some(0) if s.starts_with(':') => return false,
        Some(i) if s[i..].starts_with(':') && s.starts_with(|c: char| c.is_ascii_alphabetic()) => {
            (&s[..i], &s[i + 1..])
        }
        _ => ("", s),
    };
    let rest = rest.split_once('?').map_or(rest, |(path, _)| path);
    if !rest.starts_with('/') {
        // Opaque: `mailto:x`.
        return !scheme.is_empty();
    }
    let path = if (!scheme.is_empty() || !rest.starts_with("///")) && rest.starts_with("//") {
        let after = &rest[2..];
        let (authority, path) = after.split_at(after.find('/').unwrap_or(after.len()));
        let host = match authority.rsplit_once('@') {
            Some((user, host)) => {
                let plain = |c: char| c.is_ascii_alphanumeric() || "-._:~!$&'()*+,;=%@".contains(c);
                if !user.chars().all(plain) || !escapes(user) {
                    return false;
                }
                host
            }
            None => authority,
        };
        if !uri_host(host) {
            return false;
        }
        path
    } else {
        rest
    };
    escapes(path)
}

/// Each `%` is followed by two hexadecimal digits.
fn escapes(s: &str) -> bool {
    let b = s.as_bytes();
    (0..b.len())
        .all(|i| b[i] != b'%' || b.get(i + 1..i + 3).is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit)))
}

fn uri_host(host: &str) -> bool {
    let port =
        |p: &str| p.is_empty() || p.strip_prefix(':').is_some_and(|d| d.bytes().all(|b| b.is_ascii_digit()));
    if host.starts_with('[') {
        let Some(end) = host.rfind(']') else { return false };
        return port(&host[end + 1..]);
    }
    if let Some(i) = host.rfind(':')
        && !port(&host[i..])
    {
        return false;
    }
    let b = host.as_bytes();
    (0..b.len()).all(|i| match b[i] {
        // Only what is not ASCII may be escaped in a host.
        b'%' => b
            .get(i + 1..i + 3)
            .is_some_and(|h| h.iter().all(u8::is_ascii_hexdigit) && (h[0] >= b'8' || h == b"25")),
        c => c >= 0x80 || c.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:[]<>\"".contains(&c),
    })
}

/// An address as mail headers have it: `a@b.c` or `Name <a@b.c>`.
fn email(s: &str) -> bool {
    let s = s.trim_matches([' ', '\t']);
    let address = match s.strip_suffix('>') {
        None => return bare_email(s),
        Some(open) => match open.rsplit_once('<') {
            Some((name, address)) => {
                let name = name.trim();
                let quoted = name.len() >= 2 && name.starts_with('"') && name.ends_with('"');
                let words = name.chars().all(|c| atext(c) || matches!(c, ' ' | '\t' | '.'));
                if !(quoted || words) {
                    return false;
                }
                address
            }
            None => return false,
        },
    };
    bare_email(address.trim())
}

fn atext(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || !c.is_ascii()
}

fn dot_atom(s: &str) -> bool {
    s.split('.').all(|part| !part.is_empty() && part.chars().all(atext))
}

fn bare_email(s: &str) -> bool {
    let Some((local, domain)) = s.rsplit_once('@') else { return false };
    let quoted = local.len() > 2 && local.starts_with('"') && local.ends_with('"') && {
        let inner = &local[1..local.len() - 1];
        let mut escaped = false;
        inner.chars().all(|c| {
            let fine = escaped || !matches!(c, '"' | '\n' | '\r');
            escaped = !escaped && c == '\\';
            fine
        }) && !escaped
    };
    let literal = domain.strip_prefix('[').and_then(|d| d.strip_suffix(']')).is_some_and(|d| {
        d.parse::<IpAddr>().is_ok() || d.strip_prefix("IPv6:").is_some_and(|d| d.parse::<Ipv6Addr>().is_ok())
    });
    (quoted || dot_atom(local)) && (literal || dot_atom(domain))
}

fn hostname(s: &str) -> bool {
    // Letters and symbols of any script may be part of a label.
    static LETTER: LazyLock<Option<Regex>> = LazyLock::new(|| regexp::compile(r"^\p{L}$").ok());
    static SYMBOL: LazyLock<Option<Regex>> = LazyLock::new(|| regexp::compile(r"^[\p{S}\p{L}]$").ok());
    let of =
        |re: &Option<Regex>, c: char| re.as_ref().is_some_and(|re| re.is_match(c.encode_utf8(&mut [0; 4])));
    let letter = |c: char| c.is_ascii_alphabetic() || (!c.is_ascii() && of(&LETTER, c));
    let part = |c: char| c.is_ascii_alphanumeric() || of(&SYMBOL, c);
    if s.len() > 255 || s.split('.').any(|p| p.len() > 63) {
        return false;
    }
    let single = || {
        let mut chars = s.chars();
        if !chars.next().is_some_and(part) {
            return false;
        }
        let rest = chars.as_str();
        let rest = rest.strip_prefix('-').unwrap_or(rest);
        rest.chars().count() <= 62 && rest.chars().all(part)
    };
    let qualified = || {
        let Some((labels, top)) = s.rsplit_once('.') else { return false };
        let fine = |l: &str| {
            let edges = l.chars().next().is_some_and(part) && l.chars().next_back().is_some_and(part);
            edges && l.chars().count() <= 63 && l.chars().all(|c| c == '-' || part(c))
        };
        (2..=63).contains(&top.chars().count()) && top.chars().all(letter) && labels.split('.').all(fine)
    };
    single() || qualified()
}

/// An IP address whose IPv4 parts may have leading zeros.
fn sloppy_ip(s: &str) -> Option<IpAddr> {
    if s.contains(':') {
        return s.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    }
    let mut parts = [0u8; 4];
    let mut n = 0;
    for p in s.split('.') {
        if n == 4 || p.is_empty() || p.len() > 255 || !p.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let digits = p.trim_start_matches('0');
        parts[n] = if digits.is_empty() { 0 } else { digits.parse().ok()? };
        n += 1;
    }
    (n == 4).then(|| IpAddr::V4(Ipv4Addr::from(parts)))
}

fn cidr(s: &str) -> bool {
    let Some((ip, len)) = s.split_once('/') else { return false };
    let max = match sloppy_ip(ip) {
        Some(IpAddr::V4(_)) => 32,
        Some(IpAddr::V6(_)) => 128,
        None => return false,
    };
    !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit()) && len.parse::<u32>().is_ok_and(|n| n <= max)
}

/// 48, 64 or 160 bits in pairs with colons or dashes, or in fours with dots.
fn mac(s: &str) -> bool {
    let groups = |separator: char, width: usize| {
        let mut n = 0;
        s.split(separator).all(|g| {
            n += 1;
            g.len() == width && g.bytes().all(|b| b.is_ascii_hexdigit())
        }) && matches!(n * width / 2, 6 | 8 | 20)
    };
    groups(':', 2) || groups('-', 2) || groups('.', 4)
}

fn uuid(s: &str, version: u8) -> bool {
    let mut hex = Vec::with_capacity(32);
    let mut b = s.bytes().peekable();
    for (i, width) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if i > 0 {
            b.next_if_eq(&b'-');
        }
        for _ in 0..width {
            match b.next() {
                Some(c) if c.is_ascii_hexdigit() => hex.push(c.to_ascii_lowercase()),
                _ => return false,
            }
        }
    }
    let variant = || matches!(hex[16], b'8' | b'9' | b'a' | b'b');
    b.next().is_none()
        && match version {
            0 => true,
            3 => hex[12] == b'3',
            v => hex[12] == b'0' + v && variant(),
        }
}

fn isbn_digits(s: &str) -> String {
    s.chars().filter(|c| !matches!(c, '-' | ' ' | '\t' | '\n' | '\x0c' | '\r')).collect()
}

fn isbn10(s: &str) -> bool {
    let d = isbn_digits(s);
    let b = d.as_bytes();
    if b.len() != 10 || !b[..9].iter().all(u8::is_ascii_digit) || !(b[9].is_ascii_digit() || b[9] == b'X') {
        return false;
    }
    let digit = |c: u8| if c == b'X' { 10 } else { u32::from(c - b'0') };
    b.iter().zip(1..).map(|(c, i)| i * digit(*c)).sum::<u32>() % 11 == 0
}

fn isbn13(s: &str) -> bool {
    let d = isbn_digits(s);
    let b = d.as_bytes();
    b.len() == 13
        && b.iter().all(u8::is_ascii_digit)
        && b.iter()
            .enumerate()
            .map(|(i, c)| u32::from(c - b'0') * if i % 2 == 0 { 1 } else { 3 })
            .sum::<u32>()
            % 10
            == 0
}

fn credit_card(s: &str) -> bool {
    static KNOWN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        regexp::compile(
            "^(?:4[0-9]{12}(?:[0-9]{3})?|5[1-5][0-9]{14}|6(?:011|5[0-9][0-9])[0-9]{12}|3[47][0-9]{13}\
             |3(?:0[0-5]|[68][0-9])[0-9]{11}|(?:2131|1800|35[0-9]{3})[0-9]{11})$",
        )
        .ok()
    });
    let digits: String = s.chars().filter(char::is_ascii_digit).collect();
    if !KNOWN.as_ref().is_some_and(|re| re.is_match(&digits)) {
        return false;
    }
    let luhn = |(i, c): (usize, u8)| {
        let d = u32::from(c - b'0');
        match i % 2 {
            0 => d,
            _ if d >= 5 => d * 2 - 9,
            _ => d * 2,
        }
    };
    digits.bytes().rev().enumerate().map(luhn).sum::<u32>() % 10 == 0
}

fn rgb(s: &str) -> bool {
    let Some(inner) = s.strip_prefix("rgb(").and_then(|r| r.strip_suffix(')')) else { return false };
    let parts: Vec<&str> =
        inner.split(',').map(|p| p.trim_matches([' ', '\t', '\n', '\x0c', '\r'])).collect();
    parts.len() == 3
        && parts.iter().all(|p| {
            let canonical = *p == "0" || (!p.is_empty() && !p.starts_with('0'));
            canonical && p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u8>().is_ok()
        })
}

fn base64(s: &str) -> bool {
    let body = s.trim_end_matches('=');
    !s.is_empty()
        && s.len().is_multiple_of(4)
        && s.len() - body.len() <= 2
        && body.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
}

fn date(s: &str) -> bool {
    let b = s.as_bytes();
    let digits = |r: std::ops::Range<usize>| b[r].iter().all(u8::is_ascii_digit);
    if b.len() != 10 || b[4] != b'-' || b[7] != b'-' || !(digits(0..4) && digits(5..7) && digits(8..10)) {
        return false;
    }
    let n = |r: std::ops::Range<usize>| b[r].iter().fold(0i16, |n, c| n * 10 + i16::from(c - b'0'));
    jiff::civil::Date::new(n(0..4), n(5..7) as i8, n(8..10) as i8).is_ok()
}

fn date_time(s: &str) -> bool {
    static CLOCK: LazyLock<Option<Regex>> = LazyLock::new(|| {
        regexp::compile(r"^([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|([+-][0-9]{2}:[0-9]{2}))$").ok()
    });
    let lower = s.to_lowercase();
    let mut parts = lower.split('t');
    let (Some(day), Some(clock)) = (parts.next(), parts.next()) else { return false };
    let fits = |from: usize, max: &str| clock.get(from..from + 2).is_some_and(|t| t <= max);
    date(day)
        && CLOCK.as_ref().is_some_and(|re| re.is_match(clock))
        && fits(0, "23")
        && fits(3, "59")
        && fits(6, "59")
}

/// A duration as Go writes it, or numbers with the names of units, from nanoseconds to weeks.
fn duration(s: &str) -> bool {
    static PAIR: LazyLock<Option<Regex>> = LazyLock::new(|| regexp::compile(r"(\d+)\s*([A-Za-zµ]+)").ok());
    const UNITS: [&[&str]; 8] = [
        &["ns", "nano"],
        &["us", "µs", "micro"],
        &["ms", "milli"],
        &["s", "sec"],
        &["m", "min"],
        &["h", "hr", "hour"],
        &["d", "day"],
        &["w", "wk", "week"],
    ];
    if crate::cel::parse_duration(s).is_some() {
        return true;
    }
    let mut found = false;
    for pair in PAIR.iter().flat_map(|re| re.captures_iter(s)) {
        if pair[1].parse::<i64>().is_err() {
            return false;
        }
        let unit = pair[2].to_lowercase();
        found |= UNITS.iter().any(|names| {
            names.iter().any(|n| *n == unit) || names.last().is_some_and(|last| unit.starts_with(last))
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_and_rejects() {
        let table: &[(&str, &[&str], &[&str])] = &[
            ("bsonobjectid", &["60fd43d0f3a3c9b5a4e5e9c1"], &["60fd"]),
            (
                "uri",
                &["http://a.b/c?d", "/x", "mailto:a", "http://[::1]:80/"],
                &["", "a/b", "http://a b/", ":x", "/%zz", "http://h:x/"],
            ),
            ("email", &["a@b.c", "N N <a@b>", "\"a b\"@c"], &["a", "a@", "a@b c", "<a@b"]),
            ("hostname", &["a", "a-b", "my.host.example", "1a.de"], &["", "-a", "a..bc", "a.b", "a_b"]),
            ("ipv4", &["1.2.3.4", "010.0.0.1"], &["1.2.3", "::1", "256.0.0.1"]),
            ("ipv6", &["::1", "fe80::1"], &["1.2.3.4", "::g"]),
            ("cidr", &["10.0.0.0/8", "fd00::/8"], &["10.0.0.0", "10.0.0.0/33"]),
            (
                "mac",
                &["01:02:03:04:05:06", "01-02-03-04-05-06", "0102.0304.0506"],
                &["01:02", "zz:02:03:04:05:06"],
            ),
            (
                "uuid",
                &["a8098c1a-f86e-11da-bd1a-00112444be1e", "A8098C1AF86E11DABD1A00112444BE1E"],
                &["a8098c1a"],
            ),
            ("uuid4", &["025b0d74-00a2-4048-bf57-227c5111bb34"], &["a8098c1a-f86e-11da-bd1a-00112444be1e"]),
            ("isbn", &["978-0321751041", "0321751043"], &["0321751044"]),
            ("creditcard", &["4111 1111 1111 1111"], &["4111 1111 1111 1112", "1234"]),
            ("ssn", &["111-11-1111"], &["111-1-11111"]),
            ("hexcolor", &["#FFF", "aabbcc"], &["#GGG", "#ffff"]),
            ("rgbcolor", &["rgb(0, 255,1)"], &["rgb(256,0,0)", "rgb(01,0,0)"]),
            ("byte", &["aGk=", "aGVsbG8h"], &["", "aGk", "a==="]),
            ("date", &["2024-02-29"], &["2023-02-29", "2024-1-01"]),
            ("duration", &["1h30m", "22 ns", "3 weeks", "0", "1.5s"], &["", "x", "5 parsecs"]),
            (
                "date-time",
                &["2014-12-15T19:30:20.000Z", "2014-12-15t19:30:20+01:00"],
                &["2014-12-15", "2014-12-15T24:00:00Z"],
            ),
            ("k8s-short-name", &["a-b"], &["A", "a.b", "-a"]),
            ("k8s-long-name", &["a.b-c"], &["a..b"]),
            ("password", &["x"], &[]),
        ];
        for (name, good, bad) in table {
            let f = Format::named(name).unwrap();
            good.iter().for_each(|s| assert!(f.accepts(s), "{name} {s:?}"));
            bad.iter().for_each(|s| assert!(!f.accepts(s), "{name} {s:?}"));
        }
        assert!(Format::named("int32").is_none() && Format::named("phone").is_none());
    }

    proptest::proptest! {
        #[test]
        fn never_panics(s in "\\PC{0,32}") {
            for name in ["uri", "email", "hostname", "cidr", "mac", "uuid", "isbn", "creditcard", "ssn", "rgbcolor",
                "byte", "date", "duration", "date-time", "bsonobjectid"] {
                Format::named(name).unwrap().accepts(&s);
            }
        }
    }
}
