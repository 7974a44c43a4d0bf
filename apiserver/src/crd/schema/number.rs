//! JSON numbers as upstream holds them, a 64-bit integer where one fits and else floating point, and how it
//! prints and compares them.

use serde_json::{Number, Value};

/// A JSON number after decoding.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Num {
    Int(i64),
    Float(f64),
}

/// Largest whole number that JSON readers agree on.
const MAX_SAFE: f64 = 9_007_199_254_740_991.0;
const EPSILON: f64 = 1e-9;

impl Num {
    pub fn of(n: &Number) -> Self {
        match n.as_i64() {
            Some(i) => Self::Int(i),
            None => Self::Float(n.as_f64().unwrap_or(f64::MAX)),
        }
    }

    pub fn float(self) -> f64 {
        match self {
            Self::Int(i) => i as f64,
            Self::Float(f) => f,
        }
    }

    /// Printed as Go prints a number by default.
    pub fn text(self) -> String {
        match self {
            Self::Int(i) => i.to_string(),
            Self::Float(f) => float_text(f),
        }
    }
}

/// A floating point number in the shortest form, with an exponent where it is below -4 or above 20.
pub fn float_text(f: f64) -> String {
    if f == 0.0 {
        return if f.is_sign_negative() { "-0".into() } else { "0".into() };
    }
    let exp = format!("{f:e}");
    let (mantissa, power) = exp.split_once('e').unwrap_or((&exp, "0"));
    let power: i32 = power.parse().unwrap_or(0);
    if !(-4..21).contains(&power) {
        let sign = if power < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", power.abs());
    }
    format!("{f}")
}

/// A value as a field error shows it.
pub fn shown(v: &Value) -> String {
    match v {
        Value::Number(n) => Num::of(n).text(),
        Value::String(s) => quote(s),
        other => other.to_string(),
    }
}

/// A string in double quotes as Go's `%q` writes it.
pub fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len() + 2);
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || c as u32 == 0x7f => out.push_str(&format!("\\x{:02x}", c as u32)),
            c if c.is_control() || (c.is_whitespace() && c != ' ') => {
                out.push_str(&format!("\\u{:04x}", c as u32));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// True for floating point numbers that stand for whole ones, with some tolerance for rounding.
pub fn is_whole(f: f64) -> bool {
    if !f.is_finite() || f.abs() > MAX_SAFE {
        return false;
    }
    let g = f.trunc();
    f == g || (f - g).abs() / (f.abs() + g.abs()).min(f64::MAX) < EPSILON
}

/// True if `n` is a number of that type and format (`int32`, `int64`, `float`, …).
pub fn in_range(n: Num, integer: bool, format: &str) -> bool {
    match (integer, n) {
        (true, Num::Int(i)) => format != "int32" || i32::try_from(i).is_ok(),
        (true, Num::Float(f)) => {
            let (low, high) = if format == "int32" {
                (f64::from(i32::MIN), f64::from(i32::MAX))
            } else {
                // The largest floating point number below 2^63.
                (-9_223_372_036_854_775_808.0, 9_223_372_036_854_774_784.0)
            };
            f.fract() == 0.0 && (low..=high).contains(&f)
        }
        (false, _) if format == "float" => (n.float() as f32).is_finite(),
        (false, _) => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_go_does() {
        for (f, text) in [
            (1.0, "1"),
            (1.5, "1.5"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1e-5, "1e-05"),
            (0.0001, "0.0001"),
            (-2.5e-7, "-2.5e-07"),
        ] {
            assert_eq!(float_text(f), text);
        }
        assert_eq!(quote("a\"b\n\u{1}é"), r#""a\"b\n\x01é""#);
    }

    #[test]
    fn whole_numbers() {
        assert!(is_whole(3.0) && is_whole(-7.0) && is_whole(0.0));
        assert!(!is_whole(0.5) && !is_whole(1e300) && !is_whole(f64::NAN));
        assert!(is_whole(1.0 / 0.1 * 0.3));
        assert!(!in_range(Num::Int(1 << 40), true, "int32") && in_range(Num::Int(1 << 40), true, ""));
        assert!(!in_range(Num::Float(1e39), false, "float") && in_range(Num::Float(1e39), false, "double"));
    }
}
