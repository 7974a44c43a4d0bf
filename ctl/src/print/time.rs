//! Ages and times as kubectl shows them.

use jiff::Timestamp;

/// A span in its two largest units at most: `45s`, `3m20s`, `5h`, `2d3h`, `40d`.
pub fn age(seconds: i64) -> String {
    let s = seconds.max(0);
    let (m, h, d) = (s / 60, s / 3600, s / 86_400);
    let two = |a: i64, ua: &str, b: i64, ub: &str| {
        if b == 0 { format!("{a}{ua}") } else { format!("{a}{ua}{b}{ub}") }
    };
    match s {
        0..120 => format!("{s}s"),
        120..600 => two(m, "m", s % 60, "s"),
        600..10_800 => format!("{m}m"),
        10_800..28_800 => two(h, "h", m % 60, "m"),
        28_800..172_800 => format!("{h}h"),
        172_800..691_200 => two(d, "d", h % 24, "h"),
        691_200..63_072_000 => format!("{d}d"),
        63_072_000..252_288_000 => two(d / 365, "y", d % 365, "d"),
        _ => format!("{}y", d / 365),
    }
}

/// The age of a timestamp in an object; `<unknown>` without one.
pub fn since(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(t) => age(Timestamp::now().as_second() - t.as_second()),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// A timestamp as `describe` prints it: `Mon, 02 Jan 2006 15:04:05 +0000`.
pub fn long(timestamp: &str) -> String {
    match timestamp.parse::<Timestamp>() {
        Ok(t) => t.to_zoned(jiff::tz::TimeZone::UTC).strftime("%a, %d %b %Y %H:%M:%S %z").to_string(),
        Err(_) => timestamp.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_use_the_units_that_kubectl_uses() {
        for (s, text) in [
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (599, "9m59s"),
            (600, "10m"),
            (10_800, "3h"),
            (11_100, "3h5m"),
            (30_000, "8h"),
            (176_400, "2d1h"),
            (700_000, "8d"),
        ] {
            assert_eq!(age(s), text, "{s}");
        }
    }
}
