//! Durations as Go and `meta/v1` `Duration` write them (`1h30m`, `4s`, `250ms`): in flags and configuration files.

use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A non-negative span of time, read and written in Go's notation.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct GoDuration(pub Duration);

impl GoDuration {
    /// So many whole seconds.
    pub const fn from_secs(s: u64) -> Self {
        Self(Duration::from_secs(s))
    }
}

impl From<GoDuration> for Duration {
    fn from(d: GoDuration) -> Self {
        d.0
    }
}

impl std::str::FromStr for GoDuration {
    type Err = String;

    /// Accepts a sequence of decimal numbers with units `ns`, `us`, `µs`, `ms`, `s`, `m`, `h`, or a bare `0`.
    fn from_str(s: &str) -> Result<Self, String> {
        let bad =
            || format!("invalid duration \"{s}\": want a number with a unit, such as 300ms, 10s or 1h30m");
        if s == "0" {
            return Ok(Self::default());
        }
        let mut rest = s.strip_prefix('+').unwrap_or(s);
        if rest.is_empty() {
            return Err(bad());
        }
        let mut nanos = 0f64;
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(bad)?;
            let number: f64 = rest[..digits].parse().map_err(|_| bad())?;
            rest = &rest[digits..];
            let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
            let scale = match &rest[..unit_len] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return Err(bad()),
            };
            nanos += number * scale;
            rest = &rest[unit_len..];
        }
        if nanos > u64::MAX as f64 {
            return Err(bad());
        }
        Ok(Self(Duration::from_nanos(nanos.round() as u64)))
    }
}

impl std::fmt::Display for GoDuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let n = self.0.as_nanos();
        if n == 0 {
            return f.write_str("0s");
        }
        if n < 1_000_000_000 {
            let (unit, scale) = match n {
                1_000_000.. => ("ms", 1e6),
                1_000.. => ("µs", 1e3),
                _ => ("ns", 1.0),
            };
            return write!(f, "{}{unit}", n as f64 / scale);
        }
        let secs = self.0.as_secs();
        let (h, m) = (secs / 3600, secs / 60 % 60);
        let s = (secs % 60) as f64 + f64::from(self.0.subsec_nanos()) / 1e9;
        match (h, m) {
            (0, 0) => write!(f, "{s}s"),
            (0, m) => write!(f, "{m}m{s}s"),
            (h, m) => write!(f, "{h}h{m}m{s}s"),
        }
    }
}

impl Serialize for GoDuration {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for GoDuration {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes_go_notation() {
        for (text, ms, shown) in [
            ("1h30m", 5_400_000, "1h30m0s"),
            ("10s", 10_000, "10s"),
            ("1.5s", 1_500, "1.5s"),
            ("250ms", 250, "250ms"),
            ("2m3s", 123_000, "2m3s"),
            ("0", 0, "0s"),
        ] {
            let d: GoDuration = text.parse().unwrap();
            assert_eq!(d.0.as_millis(), ms, "{text}");
            assert_eq!(d.to_string(), shown);
        }
        for bad in ["", "5", "x", "1d", "-1s", "s", "1.2.3s"] {
            assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
        }
    }
}
