//! How long a request may take: `?timeout=`, at most `--request-timeout`.

use std::time::Duration;

use super::query::Query;
use crate::status::{ApiError, ApiResult};

/// The time for a request; zero and negative values are no wish.
pub fn of(query: &Query, max: Duration) -> ApiResult<Duration> {
    let Some(wish) = query.get("timeout") else { return Ok(max) };
    let wish = parse(wish)
        .map_err(|e| ApiError::bad_request(format!("invalid timeout specified in the request URL - {e}")))?;
    Ok(match wish {
        Some(w) if !w.is_zero() => w.min(max),
        _ => max,
    })
}

/// Reads Go's notation, with its words on errors; none for a negative duration.
fn parse(text: &str) -> Result<Option<Duration>, String> {
    let invalid = || format!("time: invalid duration {text:?}");
    let negative = text.starts_with('-');
    let mut rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if rest == "0" {
        return Ok(Some(Duration::ZERO));
    }
    if rest.is_empty() {
        return Err(invalid());
    }
    let mut seconds = 0f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..end].parse().map_err(|_| invalid())?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "" => return Err(format!("time: missing unit in duration {text:?}")),
            "ns" => 1e-9,
            "us" | "µs" | "μs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            other => return Err(format!("time: unknown unit {other:?} in duration {text:?}")),
        };
        rest = &rest[end..];
        seconds += number * unit;
    }
    // Go counts nanoseconds in 63 bits.
    if seconds > i64::MAX as f64 / 1e9 {
        return Err(invalid());
    }
    Ok((!negative).then(|| Duration::from_secs_f64(seconds)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes() {
        let max = Duration::from_secs(60);
        let of = |q: &str| of(&Query::parse(Some(q)), max).map_err(|e| e.message);
        assert_eq!(of(""), Ok(max));
        assert_eq!(of("timeout=1m"), Ok(max));
        assert_eq!(of("timeout=2h"), Ok(max));
        assert_eq!(of("timeout=1.5s500ms"), Ok(Duration::from_secs(2)));
        assert_eq!(of("timeout=0s"), Ok(max));
        assert_eq!(of("timeout=-3s"), Ok(max));
        let bad = |why: &str| Err(format!("invalid timeout specified in the request URL - time: {why}"));
        assert_eq!(of("timeout=30"), bad("missing unit in duration \"30\""));
        assert_eq!(of("timeout=foo"), bad("invalid duration \"foo\""));
        assert_eq!(of("timeout=3x"), bad("unknown unit \"x\" in duration \"3x\""));
        assert_eq!(of("timeout=99999999999h"), bad("invalid duration \"99999999999h\""));
    }
}
