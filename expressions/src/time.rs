//! Durations as Go writes them, and times as RFC 3339 has them.

use jiff::tz::{Offset, TimeZone};
use jiff::{Timestamp, Zoned};

use super::value::EvalError;

/// Nanoseconds of a Go duration: `1h15m30.918s`, `-1.5h`, `0`.
pub fn parse_duration(s: &str) -> Option<i64> {
    let (negative, mut rest) = match s.as_bytes().first()? {
        b'-' => (true, &s[1..]),
        b'+' => (false, &s[1..]),
        _ => (false, s),
    };
    if rest == "0" {
        return Some(0);
    }
    if rest.is_empty() {
        return None;
    }
    let mut total: i128 = 0;
    while !rest.is_empty() {
        let digits = |s: &str| s.bytes().take_while(u8::is_ascii_digit).count();
        let n = digits(rest);
        let whole = &rest[..n];
        rest = &rest[n..];
        let mut fraction = "";
        if let Some(after) = rest.strip_prefix('.') {
            let n = digits(after);
            fraction = &after[..n];
            rest = &after[n..];
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let unit_len = rest.find(|c: char| c == '.' || c.is_ascii_digit()).unwrap_or(rest.len());
        let unit: i128 = match &rest[..unit_len] {
            "ns" => 1,
            "us" | "µs" | "μs" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60_000_000_000,
            "h" => 3_600_000_000_000,
            _ => return None,
        };
        rest = &rest[unit_len..];
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        total = total.checked_add(whole.checked_mul(unit)?)?;
        let (mut scale, mut part) = (1_i128, 0_i128);
        for d in fraction.bytes().take(18) {
            scale *= 10;
            part = part * 10 + i128::from(d - b'0');
        }
        total = total.checked_add(part * unit / scale)?;
        if total > i128::from(i64::MAX) + 1 {
            return None;
        }
    }
    i64::try_from(if negative { -total } else { total }).ok()
}

/// The moment that an RFC 3339 text tells.
pub fn parse_timestamp(s: &str) -> Option<Timestamp> {
    let b = s.as_bytes();
    // Exactly the profile: jiff alone would read more.
    let shape = b.len() >= 20
        && b[4] == b'-'
        && b[7] == b'-'
        && matches!(b[10], b'T')
        && b[13] == b':'
        && b[16] == b':'
        && (b[b.len() - 1] == b'Z' || (b[b.len() - 3] == b':' && matches!(b[b.len() - 6], b'+' | b'-')));
    if !shape {
        return None;
    }
    s.parse().ok().filter(|t| in_range(*t))
}

/// Midnight, UTC, of an RFC 3339 date.
pub fn parse_date(s: &str) -> Option<Timestamp> {
    if s.len() != 10 {
        return None;
    }
    parse_timestamp(&format!("{s}T00:00:00Z"))
}

/// Whether CEL can hold the time: years 1 to 9999.
pub fn in_range(t: Timestamp) -> bool {
    (-62_135_596_800..=253_402_300_799).contains(&t.as_second())
}

/// A time as RFC 3339, with as many digits of the fraction as it needs.
pub fn timestamp_text(t: Timestamp) -> String {
    t.to_string()
}

/// A duration in seconds: `90s`, `1.5s`.
pub fn duration_seconds(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let n = nanos.unsigned_abs();
    let (whole, part) = (n / 1_000_000_000, n % 1_000_000_000);
    if part == 0 {
        return format!("{sign}{whole}s");
    }
    let digits = format!("{part:09}");
    format!("{sign}{whole}.{}s", digits.trim_end_matches('0'))
}

/// The time at a place: the name of a zone, or an offset from UTC (`-08:00`).
pub fn at(t: Timestamp, zone: Option<&str>) -> Result<Zoned, EvalError> {
    let Some(name) = zone else { return Ok(t.to_zoned(TimeZone::UTC)) };
    let unknown = || EvalError::new(format!("unknown time zone {name}"));
    let Some((hours, minutes)) = name.split_once(':') else {
        if matches!(name, "" | "UTC") {
            return Ok(t.to_zoned(TimeZone::UTC));
        }
        return Ok(t.to_zoned(TimeZone::get(name).map_err(|_| unknown())?));
    };
    let number = |s: &str| {
        s.parse::<i32>().map_err(|_| EvalError::new(format!("strconv.Atoi: parsing {s:?}: invalid syntax")))
    };
    let (h, m) = (number(hours)?, number(minutes)?);
    let minutes = h.saturating_mul(60).saturating_add(if name.starts_with('-') { -m } else { m });
    let offset = Offset::from_seconds(minutes.saturating_mul(60)).map_err(|_| unknown())?;
    Ok(t.to_zoned(TimeZone::fixed(offset)))
}
