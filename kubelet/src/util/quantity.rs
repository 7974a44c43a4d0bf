//! Resource quantities (`500m`, `64Mi`, `1e3`) as exact integers.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in thousandths, rounded up; saturates at the ends of `i128`. Errors name the text.
pub fn parse_milli(text: &str) -> Result<i128, String> {
    parse_scaled(text, 3)
}

/// `10^places` times the quantity, rounded away from zero.
fn parse_scaled(text: &str, places: i32) -> Result<i128, String> {
    let bad = || format!("invalid quantity {text:?}");
    let (negative, body) = match text.as_bytes().first() {
        Some(b'-') => (true, &text[1..]),
        Some(b'+') => (false, &text[1..]),
        _ => (false, text),
    };
    let end = body.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(body.len());
    let (number, suffix) = body.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') || number.len() > 30 {
        return Err(bad());
    }
    let mut mantissa: i128 = format!("0{whole}{fraction}").parse().map_err(|_| bad())?;
    let mut exponent = -(fraction.len() as i32) + places;
    let binary = match suffix {
        "Ki" => 1,
        "Mi" => 2,
        "Gi" => 3,
        "Ti" => 4,
        "Pi" => 5,
        "Ei" => 6,
        _ => 0,
    };
    if binary > 0 {
        mantissa = mantissa.checked_mul(1024i128.pow(binary)).ok_or_else(bad)?;
    } else {
        exponent += match suffix {
            "n" => -9,
            "u" => -6,
            "m" => -3,
            "" => 0,
            "k" => 3,
            "M" => 6,
            "G" => 9,
            "T" => 12,
            "P" => 15,
            "E" => 18,
            _ => suffix.strip_prefix(['e', 'E']).and_then(|e| e.parse::<i32>().ok()).ok_or_else(bad)?,
        };
    }
    if !(-30..=36).contains(&exponent) {
        return Err(bad());
    }
    let value = if exponent >= 0 {
        mantissa.checked_mul(10i128.pow(exponent as u32)).ok_or_else(bad)?
    } else {
        let div = 10i128.pow((-exponent) as u32);
        mantissa / div + i128::from(mantissa % div != 0)
    };
    Ok(if negative { -value } else { value })
}

fn clamp(v: i128) -> i64 {
    v.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

/// Whole units, rounded up (bytes, pods). The API server validated the text; a bad one counts as zero.
pub fn value(q: &Quantity) -> i64 {
    parse_scaled(&q.0, 0).map(clamp).unwrap_or(0)
}

/// Thousandths, rounded up (CPU).
pub fn milli(q: &Quantity) -> i64 {
    parse_milli(&q.0).map(clamp).unwrap_or(0)
}

/// A CPU amount as a quantity: `2`, `1500m`.
pub fn from_milli(milli: i64) -> Quantity {
    if milli % 1000 == 0 { Quantity((milli / 1000).to_string()) } else { Quantity(format!("{milli}m")) }
}

/// Bytes as upstream prints memory: in Ki when it divides evenly.
pub fn from_bytes(bytes: i64) -> Quantity {
    if bytes != 0 && bytes % 1024 == 0 {
        Quantity(format!("{}Ki", bytes / 1024))
    } else {
        Quantity(bytes.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exact_values() {
        let q = |s: &str| Quantity(s.into());
        assert_eq!(milli(&q("500m")), 500);
        assert_eq!(milli(&q("1.5")), 1500);
        assert_eq!(milli(&q("1u")), 1);
        assert_eq!(value(&q("64Mi")), 64 << 20);
        assert_eq!(value(&q("1e3")), 1000);
        assert_eq!(value(&q("100m")), 1);
        assert_eq!(value(&q("1.5Gi")), 3 << 29);
        assert_eq!(value(&q("-1")), -1);
        assert!(parse_milli("1x").is_err());
        assert!(parse_milli("").is_err());
        assert_eq!(from_milli(1500).0, "1500m");
        assert_eq!(from_bytes(2048).0, "2Ki");
    }
}
