//! RFC 3339 times as the API writes them: read with upstream's errors, kept as seconds and nanoseconds.

/// A point in time, as protobuf's `Timestamp` has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Timestamp {
    /// Seconds since 1970-01-01T00:00:00Z.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanos: u32,
}

const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
const LAYOUT_MICRO: &str = "2006-01-02T15:04:05.000000Z07:00";

/// `0001-01-01T00:00:00Z`: upstream's zero time, which is written as nothing.
pub const ZERO_SECONDS: i64 = -62_135_596_800;
const MAX_SECONDS: i64 = 253_402_300_799;

fn days_from_civil(y: i64, m: i64, d: i64) -> i64 {
    let y = if m <= 2 { y - 1 } else { y };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (if m > 2 { m - 3 } else { m + 9 }) + 2) / 5 + d - 1;
    era * 146_097 + yoe * 365 + yoe / 4 - yoe / 100 + doy - 719_468
}

fn civil_from_days(z: i64) -> (i64, u32, u32) {
    let z = z + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(m <= 2), m as u32, d as u32)
}

fn days_in(month: i64, year: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

struct Scan<'a> {
    all: &'a str,
    layout: &'static str,
    rest: &'a str,
}

impl<'a> Scan<'a> {
    fn fail(&self, element: &str) -> String {
        format!(
            "parsing time {:?} as {:?}: cannot parse {:?} as {element:?}",
            self.all, self.layout, self.rest
        )
    }

    fn range(&self, what: &str) -> String {
        format!("parsing time {:?}: {what} out of range", self.all)
    }

    fn number(&mut self, len: usize, element: &str) -> Result<i64, String> {
        let digits = self.rest.as_bytes().get(..len).filter(|d| d.iter().all(u8::is_ascii_digit));
        let Some(d) = digits else { return Err(self.fail(element)) };
        let n = d.iter().fold(0, |a, c| a * 10 + i64::from(c - b'0'));
        self.rest = &self.rest[len..];
        Ok(n)
    }

    fn literal(&mut self, c: &str) -> Result<(), String> {
        match self.rest.strip_prefix(c) {
            Some(r) => {
                self.rest = r;
                Ok(())
            }
            None => Err(self.fail(c)),
        }
    }
}

/// Reads `2026-01-02T03:04:05Z`; `micro` wants exactly six decimals.
pub fn parse(text: &str, micro: bool) -> Result<Timestamp, String> {
    let mut s = Scan { all: text, layout: if micro { LAYOUT_MICRO } else { LAYOUT }, rest: text };
    let year = s.number(4, "2006")?;
    s.literal("-")?;
    let month = s.number(2, "01")?;
    if !(1..=12).contains(&month) {
        return Err(s.range("month"));
    }
    s.literal("-")?;
    let day = s.number(2, "02")?;
    s.literal("T")?;
    let hour = s.number(2, "15")?;
    if hour > 23 {
        return Err(s.range("hour"));
    }
    s.literal(":")?;
    let minute = s.number(2, "04")?;
    if minute > 59 {
        return Err(s.range("minute"));
    }
    s.literal(":")?;
    let second = s.number(2, "05")?;
    if second > 59 {
        return Err(s.range("second"));
    }
    let mut nanos = 0;
    let fraction = s.rest.strip_prefix(['.', ',']).map(|r| r.bytes().take_while(u8::is_ascii_digit).count());
    match fraction {
        Some(n) if micro && n < 6 => return Err(s.fail(".000000")),
        None if micro => return Err(s.fail(".000000")),
        Some(n) if n > 0 => {
            let digits = if micro { 6 } else { n };
            for i in 0..9 {
                let c = if i < digits { s.rest.as_bytes()[1 + i] - b'0' } else { 0 };
                nanos = nanos * 10 + u32::from(c);
            }
            s.rest = &s.rest[1 + digits..];
        }
        _ => {}
    }
    let offset = if let Some(r) = s.rest.strip_prefix('Z') {
        s.rest = r;
        0
    } else {
        let zone = s.rest.as_bytes();
        let ok = zone.len() >= 6
            && matches!(zone[0], b'+' | b'-')
            && zone[3] == b':'
            && [1, 2, 4, 5].iter().all(|i| zone[*i].is_ascii_digit());
        if !ok {
            return Err(s.fail("Z07:00"));
        }
        let n = |i: usize| i64::from(zone[i] - b'0') * 10 + i64::from(zone[i + 1] - b'0');
        let (h, m) = (n(1), n(4));
        if h > 24 || m > 60 {
            return Err(s.range(if h > 24 { "time zone offset hour" } else { "time zone offset minute" }));
        }
        let o = h * 3600 + m * 60;
        let negative = zone[0] == b'-';
        s.rest = &s.rest[6..];
        if negative { -o } else { o }
    };
    if !s.rest.is_empty() {
        return Err(format!("parsing time {text:?}: extra text: {:?}", s.rest));
    }
    if day < 1 || day > days_in(month, year) {
        return Err(s.range("day"));
    }
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Ok(Timestamp { seconds, nanos })
}

/// Appends the time as JSON carries it, without quotes: in UTC, `micro` with six decimals. Years outside
/// 0001 to 9999 are clamped, since no reader takes them.
pub fn write(t: Timestamp, micro: bool, out: &mut Vec<u8>) {
    let seconds = t.seconds.clamp(ZERO_SECONDS, MAX_SECONDS);
    let (y, m, d) = civil_from_days(seconds.div_euclid(86_400));
    let s = seconds.rem_euclid(86_400);
    let mut put = |n: i64, width: usize| {
        let mut buf = [b'0'; 6];
        let mut n = n;
        for i in (0..width).rev() {
            buf[i] = b'0' + (n % 10) as u8;
            n /= 10;
        }
        out.extend_from_slice(&buf[..width]);
    };
    put(y, 4);
    for (sep, n) in
        [(b'-', i64::from(m)), (b'-', i64::from(d)), (b'T', s / 3600), (b':', s / 60 % 60), (b':', s % 60)]
    {
        out.push(sep);
        let two = [b'0' + (n / 10) as u8, b'0' + (n % 10) as u8];
        out.extend_from_slice(&two);
    }
    if micro {
        out.push(b'.');
        let mut n = t.nanos.min(999_999_999) / 1000;
        let mut buf = [b'0'; 6];
        for i in (0..6).rev() {
            buf[i] = b'0' + (n % 10) as u8;
            n /= 10;
        }
        out.extend_from_slice(&buf);
    }
    out.push(b'Z');
}

/// The time as a string.
pub fn format(t: Timestamp, micro: bool) -> String {
    let mut b = Vec::with_capacity(27);
    write(t, micro, &mut b);
    String::from_utf8_lossy(&b).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_and_writes() {
        for (text, out) in [
            ("2026-06-01T12:34:56Z", "2026-06-01T12:34:56Z"),
            ("2026-06-01T12:34:56.789Z", "2026-06-01T12:34:56Z"),
            ("2026-06-01T12:34:56+02:00", "2026-06-01T10:34:56Z"),
            ("0001-01-01T00:00:00Z", "0001-01-01T00:00:00Z"),
            ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59Z"),
            ("2024-02-29T00:00:00-01:30", "2024-02-29T01:30:00Z"),
        ] {
            assert_eq!(format(parse(text, false).unwrap(), false), out);
        }
        assert_eq!(parse("0001-01-01T00:00:00Z", false).unwrap().seconds, ZERO_SECONDS);
        assert_eq!(
            format(parse("2026-06-01T12:34:56.123456Z", true).unwrap(), true),
            "2026-06-01T12:34:56.123456Z"
        );
    }

    #[test]
    fn refuses_as_upstream_words_it() {
        for (text, error) in [
            ("nope", r#"parsing time "nope" as "2006-01-02T15:04:05Z07:00": cannot parse "nope" as "2006""#),
            ("2026-13-01T00:00:00Z", r#"parsing time "2026-13-01T00:00:00Z": month out of range"#),
            ("2026-02-30T00:00:00Z", r#"parsing time "2026-02-30T00:00:00Z": day out of range"#),
            (
                "2026-02-03",
                r#"parsing time "2026-02-03" as "2006-01-02T15:04:05Z07:00": cannot parse "" as "T""#,
            ),
        ] {
            assert_eq!(parse(text, false).unwrap_err(), error);
        }
        assert!(
            parse("2026-06-01T12:34:56Z", true).unwrap_err().ends_with(r#"cannot parse "Z" as ".000000""#)
        );
        assert!(parse("é026-06-01T12:34:56Z", false).is_err());
        assert!(parse("2026-06-01T12:34:56Zé", false).is_err());
    }
}
