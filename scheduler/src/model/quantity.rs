//! Resource quantities (`100m`, `1.5Gi`, `2e3`) as integers, rounded up as the API server's clients do.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The quantity in whole units, rounded away from zero; saturates. Unparsable text counts as 0:
/// the API server has already validated it.
#[must_use]
pub fn value(q: &Quantity) -> i64 {
    scaled(&q.0, 0)
}

/// The quantity in thousandths, rounded away from zero; saturates.
#[must_use]
pub fn milli(q: &Quantity) -> i64 {
    scaled(&q.0, 3)
}

fn scaled(s: &str, extra: i32) -> i64 {
    parse(s, extra).unwrap_or(0)
}

fn parse(s: &str, extra: i32) -> Option<i64> {
    let s = s.trim();
    let (neg, s) = match s.strip_prefix('-') {
        Some(r) => (true, r),
        None => (false, s.strip_prefix('+').unwrap_or(s)),
    };
    let end = s.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(s.len());
    let (number, suffix) = s.split_at(end);
    let (whole, frac) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && frac.is_empty() {
        return None;
    }
    let mut mantissa: i128 = 0;
    for c in whole.bytes().chain(frac.bytes()) {
        mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(c - b'0'))?;
    }
    let (binary, exp10): (u32, i32) = match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        e => (0, e.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    let exp = exp10 + extra - i32::try_from(frac.len()).ok()?;
    let shifted = mantissa.checked_mul(1_i128 << binary);
    let magnitude = match (shifted, exp) {
        (None, _) => i128::MAX,
        (Some(m), 0..) => 10_i128
            .checked_pow(exp.unsigned_abs())
            .and_then(|p| m.checked_mul(p))
            .unwrap_or(if m == 0 { 0 } else { i128::MAX }),
        (Some(m), _) => match 10_i128.checked_pow(exp.unsigned_abs()) {
            Some(p) => m.div_euclid(p) + i128::from(m.rem_euclid(p) != 0),
            None => i128::from(m != 0),
        },
    };
    let out = i64::try_from(magnitude).unwrap_or(i64::MAX);
    Some(if neg { -out } else { out })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_and_rounding() {
        let v = |s: &str| value(&Quantity(s.into()));
        let m = |s: &str| milli(&Quantity(s.into()));
        assert_eq!(m("100m"), 100);
        assert_eq!(m("2"), 2000);
        assert_eq!(m("0.0001"), 1);
        assert_eq!(v("1.5Gi"), 1_610_612_736);
        assert_eq!(v("100m"), 1);
        assert_eq!(v("2e3"), 2000);
        assert_eq!(v("12E"), i64::MAX);
        assert_eq!(v("1k"), 1000);
        assert_eq!(v("-3"), -3);
        assert_eq!(v("junk"), 0);
        assert_eq!(v("128974848000m"), 128_974_848);
    }
}
