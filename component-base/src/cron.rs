//! Cron schedules as Kubernetes reads them: five fields, or one of the words that stand for them.
//!
//! Not one of the crates that exist: upstream's dialect is that of its Go library (steps from a single number, no day 7,
//! `@every`, days that are alternatives only if neither field begins with a star, hours that a change of clocks skips or
//! repeats), and no crate agrees on all of it. The API server checks schedules with this, in that library's words; the
//! cron job controller runs by it.

use jiff::civil::Time;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, Timestamp, Zoned};

use crate::duration::GoDuration;

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
/// How far ahead a time is looked for: a schedule such as 31 February has none.
const YEARS: i16 = 5;

/// What one field may hold.
struct Bounds {
    min: u64,
    max: u64,
    /// Names from `min` on.
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: &MONTHS },
    Bounds { min: 0, max: 6, names: &DAYS },
];

/// The values of a field as bits, and whether it is a bare star.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Field {
    bits: u64,
    star: bool,
}

impl Field {
    fn has(self, value: i8) -> bool {
        u32::try_from(value).is_ok_and(|v| self.bits & (1 << v) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    /// Minute, hour, day of the month, month, day of the week.
    Fields([Field; 5]),
    /// So long after the last time.
    Every(SignedDuration),
}

/// A schedule that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    when: When,
    zone: Option<String>,
}

impl Schedule {
    /// Reads a schedule.
    ///
    /// # Errors
    /// What is wrong with it, in the words of upstream's parser.
    pub fn parse(schedule: &str) -> Result<Self, String> {
        let (mut spec, mut zone) = (schedule, None);
        if let Some(rest) = spec.strip_prefix("TZ=").or_else(|| spec.strip_prefix("CRON_TZ=")) {
            let (name, rest) = rest.split_once(' ').unwrap_or((rest, ""));
            (spec, zone) = (rest.trim(), Some(name.to_owned()));
        }
        if spec.starts_with('@') {
            return Ok(Self { when: descriptor(spec)?, zone });
        }
        let fields: Vec<&str> = spec.split_whitespace().collect();
        if fields.len() != FIELDS.len() {
            return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
        }
        let mut parsed = [Field::default(); 5];
        for ((field, bounds), to) in fields.iter().zip(&FIELDS).zip(&mut parsed) {
            for part in field.split(',').filter(|p| !p.is_empty()) {
                let read = range(part, bounds)?;
                to.bits |= read.bits;
                to.star |= read.star;
            }
        }
        Ok(Self { when: When::Fields(parsed), zone })
    }

    /// The time zone that the schedule itself names.
    pub fn zone(&self) -> Option<&str> {
        self.zone.as_deref()
    }

    /// The first time after `after`, by the clocks of `zone`. `None` if there is none within five years.
    ///
    /// An hour that the clocks skip has no times; in one that they repeat each time comes twice.
    pub fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let second = Timestamp::from_second(after.as_second()).ok()?;
        match self.when {
            When::Every(delay) => second.checked_add(delay).ok(),
            When::Fields(fields) => first(&fields, second, zone),
        }
    }
}

fn first(fields: &[Field; 5], after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
    let [minute, hour, day, month, weekday] = *fields;
    let past = after.as_second().rem_euclid(60);
    let mut t = after.checked_add(SignedDuration::from_secs(60 - past)).ok()?.to_zoned(zone.clone());
    let last = t.year().saturating_add(YEARS);
    while t.year() <= last {
        let by_day = day.has(t.day());
        let by_week = weekday.has(t.weekday().to_sunday_zero_offset());
        let day_fits = if day.star || weekday.star { by_day && by_week } else { by_day || by_week };
        if !month.has(t.month()) {
            t = start_of(&t, |d| d.first_of_month().checked_add(Span::new().months(1)))?;
        } else if !day_fits {
            t = start_of(&t, |d| d.checked_add(Span::new().days(1)))?;
        } else if !hour.has(t.hour()) {
            // In real time, so that a change of clocks is followed.
            t = t.checked_add(SignedDuration::from_mins(60 - i64::from(t.minute()))).ok()?;
        } else if !minute.has(t.minute()) {
            t = t.checked_add(SignedDuration::from_mins(1)).ok()?;
        } else {
            return Some(t.timestamp());
        }
    }
    None
}

/// The first moment of another day.
fn start_of(
    t: &Zoned,
    day: impl FnOnce(jiff::civil::Date) -> Result<jiff::civil::Date, jiff::Error>,
) -> Option<Zoned> {
    let midnight = day(t.date()).ok()?.to_datetime(Time::midnight());
    let next = midnight.to_zoned(t.time_zone().clone()).ok()?.start_of_day().ok()?;
    (next > *t).then_some(next)
}

fn descriptor(spec: &str) -> Result<When, String> {
    let fields = match spec {
        "@yearly" | "@annually" => "0 0 1 1 *",
        "@monthly" => "0 0 1 * *",
        "@weekly" => "0 0 * * 0",
        "@daily" | "@midnight" => "0 0 * * *",
        "@hourly" => "0 * * * *",
        _ => {
            let Some(text) = spec.strip_prefix("@every ") else {
                return Err(format!("unrecognized descriptor: {spec}"));
            };
            let Some(delay) = delay(text) else {
                return Err(format!("failed to parse duration {spec}: time: invalid duration {text:?}"));
            };
            return Ok(When::Every(delay));
        }
    };
    Schedule::parse(fields).map(|s| s.when)
}

/// Whole seconds, at least one.
fn delay(text: &str) -> Option<SignedDuration> {
    let least = SignedDuration::from_secs(1);
    if let Some(positive) = text.strip_prefix('-') {
        return positive.parse::<GoDuration>().ok().map(|_| least);
    }
    let seconds = text.parse::<GoDuration>().ok()?.0.as_secs();
    Some(SignedDuration::from_secs(i64::try_from(seconds).ok()?).max(least))
}

fn number(s: &str) -> Result<u64, String> {
    match s.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {s}")),
        Ok(n) => Ok(n.unsigned_abs()),
        Err(_) => Err(format!("failed to parse int from {s}: strconv.Atoi: parsing {s:?}: invalid syntax")),
    }
}

fn value(s: &str, b: &Bounds) -> Result<u64, String> {
    let lower = s.to_lowercase();
    match b.names.iter().position(|n| *n == lower) {
        Some(i) => Ok(b.min + i as u64),
        None => number(s),
    }
}

fn range(part: &str, b: &Bounds) -> Result<Field, String> {
    let steps: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = steps[0].split('-').collect();
    let any = matches!(ends[0], "*" | "?");
    let (start, mut end) = if any {
        (b.min, b.max)
    } else {
        let start = value(ends[0], b)?;
        match ends.len() {
            1 => (start, start),
            2 => (start, value(ends[1], b)?),
            _ => return Err(format!("too many hyphens: {part}")),
        }
    };
    let step = match steps.len() {
        1 => 1,
        2 => {
            let n = number(steps[1])?;
            if ends.len() == 1 {
                end = b.max;
            }
            n
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < b.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {part}", b.min));
    }
    if end > b.max {
        return Err(format!("end of range ({end}) above maximum ({}): {part}", b.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    let Some(by) = usize::try_from(step).ok().filter(|s| *s > 0) else {
        return Err(format!("step of range should be a positive number: {part}"));
    };
    let bits = (start..=end).step_by(by).fold(0, |bits, v| bits | 1 << v);
    Ok(Field { bits, star: any && step == 1 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules() {
        for good in ["*/5 * * * *", "0 0 1 JAN mon-fri", "@hourly", "@every 1h30m", "1,2,3-5/2 ? * * *"] {
            assert!(Schedule::parse(good).is_ok(), "{good}");
        }
        for (bad, why) in [
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("* * * * 7", "end of range (7) above maximum (6): 7"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
            ("@every x", "failed to parse duration @every x: time: invalid duration \"x\""),
        ] {
            assert_eq!(Schedule::parse(bad), Err(why.to_owned()), "{bad}");
        }
    }

    fn next(schedule: &str, after: &str, zone: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap_or_else(|e| panic!("{e}"));
        let zone = TimeZone::get(zone).unwrap_or_else(|e| panic!("{e}"));
        let after: Timestamp = after.parse().unwrap_or_else(|e| panic!("{e}"));
        schedule.next(after, &zone).map_or("never".into(), |t| t.to_string())
    }

    #[test]
    fn times() {
        for (schedule, after, expected) in [
            ("* * * * *", "2026-01-01T00:00:00Z", "2026-01-01T00:01:00Z"),
            ("* * * * *", "2026-01-01T00:00:59.9Z", "2026-01-01T00:01:00Z"),
            ("*/15 * * * *", "2026-01-01T00:46:00Z", "2026-01-01T01:00:00Z"),
            ("5/20 * * * *", "2026-01-01T00:26:00Z", "2026-01-01T00:45:00Z"),
            ("0 0 29 2 *", "2026-01-01T00:00:00Z", "2028-02-29T00:00:00Z"),
            ("59 23 31 2 *", "2026-01-01T00:00:00Z", "never"),
            ("0 0 13 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 */2 * fri", "2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z"),
            ("0 0 13 * *", "2026-01-01T00:00:00Z", "2026-01-13T00:00:00Z"),
            ("0 0 ? * sat", "2026-01-01T00:00:00Z", "2026-01-03T00:00:00Z"),
            ("0 12 1 1 *", "2026-01-01T12:00:00Z", "2027-01-01T12:00:00Z"),
            ("@weekly", "2026-01-01T00:00:00Z", "2026-01-04T00:00:00Z"),
            ("@every 90m", "2026-01-01T00:10:07.5Z", "2026-01-01T01:40:07Z"),
            ("@every 1ms", "2026-01-01T00:10:07Z", "2026-01-01T00:10:08Z"),
        ] {
            assert_eq!(next(schedule, after, "UTC"), expected, "{schedule} after {after}");
        }
    }

    #[test]
    fn clocks_that_change() {
        // In Berlin 2 o'clock is missing on 29 March 2026, and there twice on 25 October.
        let berlin = |after: &str| next("30 2 * * *", after, "Europe/Berlin");
        assert_eq!(berlin("2026-03-28T12:00:00Z"), "2026-03-30T00:30:00Z", "skipped");
        assert_eq!(berlin("2026-10-24T12:00:00Z"), "2026-10-25T00:30:00Z");
        assert_eq!(berlin("2026-10-25T00:30:00Z"), "2026-10-25T01:30:00Z", "repeated");
        assert_eq!(next("0 12 * * *", "2026-07-01T00:00:00Z", "Europe/Berlin"), "2026-07-01T10:00:00Z");
        assert_eq!(next("0 0 * * *", "2018-11-03T12:00:00Z", "America/Sao_Paulo"), "2018-11-05T02:00:00Z");
        assert_eq!(Schedule::parse("TZ=Asia/Tokyo 0 1 * * *").map(|s| s.zone), Ok(Some("Asia/Tokyo".into())));
    }
}
