//! Parts of times and durations.

use jiff::{Timestamp, Zoned};
use regex::Regex;

use super::super::time;
use super::super::value::{EvalError, EvalResult, Value};
use super::Builtin;

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "getFullYear" => |a, _| of_time(a, |z| i64::from(z.year())),
        "getMonth" => |a, _| of_time(a, |z| i64::from(z.month()) - 1),
        "getDayOfYear" => |a, _| of_time(a, |z| i64::from(z.day_of_year()) - 1),
        "getDate" => |a, _| of_time(a, |z| i64::from(z.day())),
        "getDayOfMonth" => |a, _| of_time(a, |z| i64::from(z.day()) - 1),
        "getDayOfWeek" => |a, _| of_time(a, |z| i64::from(z.weekday().to_sunday_zero_offset())),
        "getHours" => |a, r| of_both(a, r, |z| i64::from(z.hour()), 3_600_000_000_000),
        "getMinutes" => |a, r| of_both(a, r, |z| i64::from(z.minute()), 60_000_000_000),
        "getSeconds" => |a, r| of_both(a, r, |z| i64::from(z.second()), 1_000_000_000),
        "getMilliseconds" => |a, r| of_both(a, r, |z| i64::from(z.millisecond()), 1_000_000),
        _ => return None,
    })
}

fn zoned(t: Timestamp, zone: Option<&str>) -> Result<Zoned, EvalError> {
    time::at(t, zone)
}

fn of_time<'a>(a: &[Value<'a>], part: impl Fn(&Zoned) -> i64) -> EvalResult<'a> {
    match a {
        [Value::Timestamp(t)] => Ok(Value::Int(part(&zoned(*t, None)?))),
        [Value::Timestamp(t), Value::String(zone)] => Ok(Value::Int(part(&zoned(*t, Some(zone))?))),
        _ => Err(EvalError::NoOverload),
    }
}

/// A part of a time, or a duration in whole `unit`s of nanoseconds.
fn of_both<'a>(
    a: &[Value<'a>],
    _: Option<&Regex>,
    part: impl Fn(&Zoned) -> i64,
    unit: i64,
) -> EvalResult<'a> {
    match a {
        [Value::Duration(n)] => Ok(Value::Int(n / unit)),
        _ => of_time(a, part),
    }
}
