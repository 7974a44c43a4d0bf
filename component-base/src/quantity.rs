//! Resource quantities: `500m`, `1Gi`, `1e3`. Exact fixed-point arithmetic in billionths, and upstream's
//! canonical form, in which quantities are stored, compared and shown in messages.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// What upstream answers to text that is no quantity.
pub const FORMAT_ERROR: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

const NANO: i128 = 1_000_000_000;
/// Upstream caps what it reads at 2^63 - 1.
const CAP: i128 = (i64::MAX as i128) * NANO;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `k`, `M`, `m`: powers of a thousand.
    Decimal,
    /// `Ki`, `Mi`: powers of 1024.
    Binary,
    /// `e3`: scientific.
    Exponent,
}

/// A parsed quantity.
#[derive(Debug, Clone, Copy)]
pub struct Amount {
    nano: i128,
    form: Form,
}

impl PartialEq for Amount {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}
impl Eq for Amount {}
impl PartialOrd for Amount {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Amount {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl Amount {
    /// Nothing, in decimal form.
    pub const ZERO: Self = Self { nano: 0, form: Form::Decimal };

    /// Reads `s`; none if it is no quantity.
    pub fn parse(s: &str) -> Option<Self> {
        let b = s.as_bytes();
        let mut i = usize::from(matches!(b.first(), Some(b'+' | b'-')));
        let start = i;
        while i < b.len() && b[i].is_ascii_digit() {
            i += 1;
        }
        let whole = &s[start..i];
        let mut fraction = "";
        if i < b.len() && b[i] == b'.' {
            let f = i + 1;
            i = f;
            while i < b.len() && b[i].is_ascii_digit() {
                i += 1;
            }
            fraction = &s[f..i];
        }
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (form, unit) = suffix(&s[i..])?;
        let nano = scale(whole, fraction, unit);
        let nano = if b[0] == b'-' { -nano } else { nano };
        Some(Self { nano, form })
    }

    /// Below zero.
    pub fn is_negative(self) -> bool {
        self.nano < 0
    }

    /// Nothing.
    pub fn is_zero(self) -> bool {
        self.nano == 0
    }

    /// True if it has no fraction.
    pub fn is_whole(self) -> bool {
        self.nano % NANO == 0
    }

    /// True if it can be told in thousandths.
    pub fn is_milli(self) -> bool {
        self.nano % 1_000_000 == 0
    }

    /// The value, fractions rounded up.
    pub fn value(self) -> i64 {
        clamp(ceil_div(self.nano, NANO))
    }

    /// The value in thousandths, rounded up.
    pub fn milli(self) -> i64 {
        clamp(ceil_div(self.nano, 1_000_000))
    }

    /// So many, in decimal form.
    pub const fn whole(n: i64) -> Self {
        Self { nano: n as i128 * NANO, form: Form::Decimal }
    }

    /// So many thousandths, in decimal form.
    pub const fn from_milli(n: i64) -> Self {
        Self { nano: n as i128 * 1_000_000, form: Form::Decimal }
    }

    /// The same, shown in powers of 1024.
    #[must_use]
    pub const fn in_binary(self) -> Self {
        Self { nano: self.nano, form: Form::Binary }
    }

    /// Rounded up to a whole number.
    #[must_use]
    pub fn round_up(self) -> Self {
        Self { nano: ceil_div(self.nano, NANO) * NANO, form: self.form }
    }

    /// Rounded up to thousandths.
    #[must_use]
    pub fn round_up_milli(self) -> Self {
        Self { nano: ceil_div(self.nano, 1_000_000) * 1_000_000, form: self.form }
    }

    /// The difference, in the form of `self`.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nano: self.nano.saturating_sub(other.nano), form: self.form }
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let form = if self.nano == 0 { other.form } else { self.form };
        Self { nano: self.nano.saturating_add(other.nano), form }
    }
}

fn clamp(v: i128) -> i64 {
    i64::try_from(v).unwrap_or(if v < 0 { i64::MIN } else { i64::MAX })
}

fn ceil_div(v: i128, by: i128) -> i128 {
    // Away from zero, as upstream rounds.
    if v % by == 0 { v / by } else { v / by + v.signum() }
}

/// Numerator and denominator that a suffix multiplies by.
fn suffix(s: &str) -> Option<(Form, (i128, i128))> {
    let decimal = |n, d| Some((Form::Decimal, (n, d)));
    let binary = |p: u32| Some((Form::Binary, (1_i128 << (10 * p), 1)));
    match s {
        "" => decimal(1, 1),
        "n" => decimal(1, NANO),
        "u" => decimal(1, 1_000_000),
        "m" => decimal(1, 1000),
        "k" => decimal(1000, 1),
        "M" => decimal(1_000_000, 1),
        "G" => decimal(NANO, 1),
        "T" => decimal(NANO * 1000, 1),
        "P" => decimal(NANO * 1_000_000, 1),
        "E" => decimal(NANO * NANO, 1),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let digits = s.strip_prefix(['e', 'E'])?;
            let exp: i32 = digits.strip_prefix('+').unwrap_or(digits).parse().ok()?;
            let power = |n: i32| 10_i128.checked_pow(n.unsigned_abs().min(36)).unwrap_or(i128::MAX);
            Some((Form::Exponent, if exp >= 0 { (power(exp), 1) } else { (1, power(exp)) }))
        }
    }
}

/// `whole.fraction` times the unit, in billionths, rounded up, capped.
fn scale(whole: &str, fraction: &str, (num, den): (i128, i128)) -> i128 {
    // Eighteen fractional digits are more than survive the rounding to billionths for any suffix below exa.
    let fraction = &fraction[..fraction.len().min(18)];
    let places = u32::try_from(fraction.len()).unwrap_or(18);
    let digits: i128 = match format!("{whole}{fraction}").trim_start_matches('0') {
        "" => return 0,
        d => match d.parse() {
            Ok(v) => v,
            Err(_) => return CAP,
        },
    };
    let den = den.saturating_mul(10_i128.pow(places));
    // Split so that large numerators do not overflow: integer part first, remainder after.
    let Some(scaled) = digits.checked_mul(num) else { return CAP };
    let int = scaled / den;
    if int >= i128::from(i64::MAX) {
        return CAP;
    }
    let rest = scaled % den;
    let nano_rest = match rest.checked_mul(NANO) {
        Some(r) => ceil_div(r, den),
        None => ceil_div(rest, den / NANO),
    };
    (int * NANO + nano_rest).min(CAP)
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        match self.form {
            Form::Binary if !small => {
                let mut v = ceil_div(self.nano, NANO);
                let mut power = 0;
                while v % 1024 == 0 && power < 6 {
                    v /= 1024;
                    power += 1;
                }
                write!(f, "{v}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power])
            }
            form => {
                let mut v = self.nano;
                let mut power = 0_usize;
                while v % 1000 == 0 && power < 9 {
                    v /= 1000;
                    power += 1;
                }
                if form == Form::Exponent {
                    let exp = power as i32 * 3 - 9;
                    return if exp == 0 { write!(f, "{v}") } else { write!(f, "{v}e{exp}") };
                }
                write!(f, "{v}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][power])
            }
        }
    }
}

/// The amount of `q`; text that is no quantity was refused when the object was read, and counts as nothing here.
pub fn amount(q: &Quantity) -> Amount {
    Amount::parse(&q.0).unwrap_or(Amount::ZERO)
}

/// Brings `q` to its canonical form.
pub fn canonical(q: &mut Quantity) {
    if let Some(a) = Amount::parse(&q.0) {
        q.0 = a.to_string();
    } else if q.0.is_empty() {
        q.0 = "0".to_owned();
    }
}

/// A list of resources as upstream defaults it: canonical, rounded up to thousandths.
pub fn canonical_list(list: &mut Option<BTreeMap<String, Quantity>>) {
    for q in list.iter_mut().flat_map(BTreeMap::values_mut) {
        if let Some(a) = Amount::parse(&q.0) {
            q.0 = a.round_up_milli().to_string();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn canon(s: &str) -> String {
        Amount::parse(s).map_or("bad".into(), |a| a.to_string())
    }

    #[test]
    fn canonical_forms() {
        for (given, want) in [
            ("1", "1"),
            ("0.5", "500m"),
            ("1000m", "1"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("0.1Gi", "107374183"),
            ("100Ki", "100Ki"),
            ("1023", "1023"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("12e6", "12e6"),
            ("-1", "-1"),
            ("+2", "2"),
            (".5", "500m"),
            ("5.", "5"),
            ("1n", "1n"),
            ("0.1n", "1n"),
            ("9223372036854775807", "9223372036854775807"),
            ("100E", "9223372036854775807"),
            ("0", "0"),
            ("0Gi", "0"),
            ("", "bad"),
            ("1gi", "bad"),
            ("abc", "bad"),
            ("1 ", "bad"),
            ("--1", "bad"),
        ] {
            assert_eq!(canon(given), want, "{given}");
        }
    }

    #[test]
    fn compares_by_value() {
        let p = |s| Amount::parse(s).unwrap();
        assert!(p("1Gi") > p("1G"));
        assert_eq!(p("1000m"), p("1"));
        assert_eq!(p("1500m").value(), 2);
        assert_eq!(p("0.1").milli(), 100);
    }
}
