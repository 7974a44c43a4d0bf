//! Resource quantities (`100m`, `1536Mi`, `1e3`): exact decimal arithmetic and upstream's canonical form.
//!
//! A value is `mantissa × 10^scale` with at most nine decimals; finer ones are rounded away from zero.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;
use std::ops::{Add, Neg, Sub};
use std::str::FromStr;

/// Which family of suffixes a quantity is printed with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// `12e6`
    DecimalExponent,
    /// `12Mi`
    BinarySi,
    /// `12M`
    DecimalSi,
}

/// Why a text is no quantity, worded as upstream does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Not a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number part makes no sense.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is unknown.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

/// A quantity. Equality and order compare the amount alone.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    mantissa: i128,
    scale: i32,
    /// Suffix family it prints with.
    pub format: Format,
}

const NANO: i32 = -9;
/// Amounts are held below 10^36, so that sums cannot overflow.
const LIMIT: i128 = 10i128.pow(36);

struct Parts<'a> {
    negative: bool,
    num: &'a str,
    denom: &'a str,
    suffix: &'a str,
}

fn split(text: &str) -> Result<Parts<'_>, Error> {
    let b = text.as_bytes();
    let mut i = 0;
    let mut negative = false;
    match b.first() {
        Some(b'-') => {
            negative = true;
            i = 1;
        }
        Some(b'+') => i = 1,
        _ => {}
    }
    let digits = |from: usize| from + b[from..].iter().take_while(|c| c.is_ascii_digit()).count();
    while b.get(i) == Some(&b'0') {
        i += 1;
    }
    let end = digits(i);
    let mut num = &text[i..end];
    if num.is_empty() {
        num = "0";
    }
    i = end;
    let mut denom = "";
    if b.get(i) == Some(&b'.') {
        let end = digits(i + 1);
        denom = &text[i + 1..end];
        i = end;
    }
    let start = i;
    while b.get(i).is_some_and(|c| b"eEinumkKMGTP".contains(c)) {
        i += 1;
    }
    if matches!(b.get(i), Some(b'-' | b'+')) {
        i += 1;
    }
    i = digits(i);
    if i < b.len() {
        return Err(Error::Format);
    }
    Ok(Parts { negative, num, denom, suffix: &text[start..] })
}

fn suffix(s: &str) -> Option<(u32, i32, Format)> {
    use Format::{BinarySi, DecimalExponent, DecimalSi};
    Some(match s {
        "n" => (10, -9, DecimalSi),
        "u" => (10, -6, DecimalSi),
        "m" => (10, -3, DecimalSi),
        "" => (10, 0, DecimalSi),
        "k" => (10, 3, DecimalSi),
        "M" => (10, 6, DecimalSi),
        "G" => (10, 9, DecimalSi),
        "T" => (10, 12, DecimalSi),
        "P" => (10, 15, DecimalSi),
        "E" => (10, 18, DecimalSi),
        "Ki" => (2, 10, BinarySi),
        "Mi" => (2, 20, BinarySi),
        "Gi" => (2, 30, BinarySi),
        "Ti" => (2, 40, BinarySi),
        "Pi" => (2, 50, BinarySi),
        "Ei" => (2, 60, BinarySi),
        _ => {
            let n = s.strip_prefix(['e', 'E'])?;
            (10, n.parse().ok()?, DecimalExponent)
        }
    })
}

fn decimal_suffix(exponent: i32) -> Option<&'static str> {
    Some(match exponent {
        -9 => "n",
        -6 => "u",
        -3 => "m",
        0 => "",
        3 => "k",
        6 => "M",
        9 => "G",
        12 => "T",
        15 => "P",
        18 => "E",
        _ => return None,
    })
}

/// `text` in canonical form, or why it is no quantity. Text that is canonical already is not copied.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, Error> {
    if text == "0" {
        return Ok(Cow::Borrowed(text));
    }
    let q = Quantity::from_str(text)?;
    let p = split(text)?;
    let digits = p.num.len() + p.denom.len();
    // Upstream keeps short texts as they came when the suffix is already the right one.
    if let (Some((_, exponent, format)), true) = (suffix(p.suffix), digits < 18) {
        let keep = match format {
            Format::BinarySi => {
                p.denom.is_empty()
                    && digits as f32 + (exponent as f32 * 0.3).floor() <= 14.0
                    && p.num.parse::<i64>().is_ok_and(|v| v & 7 != 0)
            }
            _ => {
                let scale = exponent - p.denom.len() as i32;
                let ends = if p.denom.is_empty() {
                    p.num.ends_with("000")
                } else {
                    format!("{}{}", p.num, p.denom).ends_with("000")
                };
                scale >= NANO && scale % 3 == 0 && !ends && !p.num.starts_with('0')
            }
        };
        if keep {
            return Ok(Cow::Borrowed(text));
        }
    }
    Ok(Cow::Owned(q.to_string()))
}

impl FromStr for Quantity {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        if text.is_empty() {
            return Err(Error::Format);
        }
        let p = split(text)?;
        let (base, exponent, mut format) = suffix(p.suffix).ok_or(Error::Suffix)?;
        if p.num == "0" && p.denom.is_empty() && text.trim_start_matches(['+', '-']).is_empty() {
            // A lone sign reads as zero upstream.
            return Ok(Self { mantissa: 0, scale: 0, format: Format::DecimalSi });
        }
        let mut mantissa: i128 = 0;
        let mut scale = 0i32;
        let mut lost = false;
        for (place, c) in p.num.bytes().chain(p.denom.bytes()).enumerate() {
            let fraction = place >= p.num.len();
            if mantissa >= LIMIT {
                // Beyond what is representable: keep the magnitude, drop the digit.
                lost |= c != b'0';
                if !fraction {
                    scale = scale.saturating_add(1);
                }
                continue;
            }
            mantissa = mantissa * 10 + i128::from(c - b'0');
            if fraction {
                scale -= 1;
            }
        }
        if lost {
            mantissa += 1;
        }
        if base == 10 {
            scale = scale.saturating_add(exponent);
        } else {
            mantissa = mantissa.checked_mul(1i128 << exponent).unwrap_or(i128::MAX / 16);
        }
        let mut q = Self { mantissa, scale, format };
        q.settle();
        if format == Format::BinarySi {
            let max = Self { mantissa: i128::from(i64::MAX), scale: 0, format };
            if q > max {
                q = max;
            }
            let one = Self { mantissa: 1, scale: 0, format };
            if q.mantissa > 0 && q < one {
                format = Format::DecimalSi;
            }
        }
        q.format = format;
        if p.negative {
            q.mantissa = -q.mantissa;
        }
        Ok(q)
    }
}

impl Quantity {
    /// Zero, printed in decimal.
    pub const ZERO: Self = Self { mantissa: 0, scale: 0, format: Format::DecimalSi };

    /// A whole number.
    pub fn from_value(value: i64, format: Format) -> Self {
        Self { mantissa: i128::from(value), scale: 0, format }
    }

    /// Thousandths.
    pub fn from_millis(millis: i64, format: Format) -> Self {
        Self { mantissa: i128::from(millis), scale: -3, format }
    }

    /// Rounds away from zero to nano and bounds the magnitude (input is not negative).
    fn settle(&mut self) {
        if self.mantissa == 0 {
            self.scale = 0;
            return;
        }
        while self.scale < NANO {
            let up = self.mantissa % 10 != 0;
            self.mantissa /= 10;
            if up {
                self.mantissa += 1;
            }
            self.scale += 1;
            if self.mantissa == 1 && up {
                // Any further digit rounds to the same one nano.
                self.scale = NANO;
            }
        }
        while self.mantissa >= LIMIT {
            self.mantissa /= 10;
            self.scale = self.scale.saturating_add(1);
        }
        self.scale = self.scale.min(60);
    }

    /// Whether it is zero.
    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.mantissa.signum() as i32
    }

    /// The amount in units of 10^`scale`, rounded away from zero and capped to 64 bits.
    pub fn scaled(&self, scale: i32) -> i64 {
        let mut m = self.mantissa;
        let mut s = self.scale;
        while s > scale {
            match m.checked_mul(10) {
                Some(x) => m = x,
                None => return if m < 0 { i64::MIN } else { i64::MAX },
            }
            s -= 1;
        }
        let mut up = false;
        while s < scale && m != 0 {
            up |= m % 10 != 0;
            m /= 10;
            s += 1;
        }
        if up {
            m += i128::from(self.sign());
        }
        m.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
    }

    /// The amount in whole units, rounded up.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// The amount in thousandths, rounded up.
    pub fn millis(&self) -> i64 {
        self.scaled(-3)
    }

    /// Both mantissas at the smaller scale; saturates.
    fn aligned(&self, other: &Self) -> (i128, i128, i32) {
        let scale = self.scale.min(other.scale);
        let up = |q: &Self| {
            let mut m = q.mantissa;
            for _ in scale..q.scale {
                m = m.saturating_mul(10);
            }
            m
        };
        (up(self), up(other), scale)
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        let (a, b, _) = self.aligned(other);
        a.cmp(&b)
    }
}

impl Neg for Quantity {
    type Output = Self;
    fn neg(self) -> Self {
        Self { mantissa: -self.mantissa, ..self }
    }
}

impl Add for Quantity {
    type Output = Self;
    /// The sum; a zero takes the other's format, as upstream does.
    fn add(self, other: Self) -> Self {
        let (a, b, scale) = self.aligned(&other);
        let format = if self.is_zero() { other.format } else { self.format };
        Self { mantissa: a.saturating_add(b), scale, format }
    }
}

impl Sub for Quantity {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        self + -other
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mantissa == 0 {
            return f.write_str("0");
        }
        let kibi = Self { mantissa: 1024, scale: 0, format: self.format };
        let small = *self < kibi && *self > -kibi;
        if self.format == Format::BinarySi && !small {
            let mut m = self.mantissa;
            let mut up = false;
            for _ in 0..self.scale.max(0) {
                m = m.saturating_mul(10);
            }
            for _ in self.scale.min(0)..0 {
                up |= m % 10 != 0;
                m /= 10;
            }
            if up {
                m += i128::from(self.sign());
            }
            let mut power = 0;
            while m % 1024 == 0 && power < 6 {
                m /= 1024;
                power += 1;
            }
            return write!(f, "{m}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power]);
        }
        let (mut m, mut e) = (self.mantissa, self.scale);
        while m % 10 == 0 {
            m /= 10;
            e += 1;
        }
        while e % 3 != 0 {
            m *= 10;
            e -= 1;
        }
        match (self.format, decimal_suffix(e)) {
            (Format::DecimalExponent, _) if e == 0 => write!(f, "{m}"),
            (Format::DecimalExponent, _) | (_, None) => write!(f, "{m}e{e}"),
            (_, Some(s)) => write!(f, "{m}{s}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_forms() {
        for (text, want) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0Mi", "0"),
            ("1", "1"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("123000k", "123M"),
            ("1e3", "1e3"),
            ("1E3", "1E3"),
            ("1000e0", "1e3"),
            ("12e6", "12e6"),
            ("0.1m", "100u"),
            ("0.0000000001", "1n"),
            ("1.1n", "2n"),
            ("512Ki", "512Ki"),
            ("0.5Ki", "512"),
            ("0.0001Ki", "102400u"),
            ("-1.5Gi", "-1536Mi"),
            ("10Ei", "9223372036854775807"),
            ("64Mi", "64Mi"),
            ("1.", "1."),
            (".5", "500m"),
            ("100k", "100k"),
        ] {
            assert_eq!(canonical(text).as_deref(), Ok(want), "{text}");
        }
    }

    #[test]
    fn refuses() {
        for (text, e) in [
            ("", Error::Format),
            ("1x", Error::Format),
            ("abc", Error::Format),
            ("1 Gi", Error::Format),
            ("1ki", Error::Suffix),
            ("1iM", Error::Suffix),
            ("é", Error::Format),
        ] {
            assert_eq!(canonical(text), Err(e), "{text}");
        }
    }

    #[test]
    fn arithmetic() {
        let q = |s: &str| s.parse::<Quantity>().unwrap();
        assert_eq!((q("1") + q("500m")).to_string(), "1500m");
        assert_eq!((q("1Gi") - q("512Mi")).to_string(), "512Mi");
        assert_eq!((q("0") + q("1Gi")).to_string(), "1Gi");
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1"), q("1000m"));
        assert_eq!(q("1100m").value(), 2);
        assert_eq!(q("-1100m").value(), -2);
        assert_eq!(q("1").millis(), 1000);
        assert_eq!(q("1e30").value(), i64::MAX);
        assert_eq!(q("1e999999999").value(), i64::MAX);
        assert_eq!(q("1e-999999999").to_string(), "1e-9");
    }
}
