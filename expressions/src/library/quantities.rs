//! Quantities and semantic versions.

use proto::quantity::{Format, Quantity};

use super::super::native::{self, Native};
use super::super::semver::Version;
use super::super::value::{EvalError, EvalResult, Value};
use super::Builtin;

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "quantity" => |a, _| match a {
            [Value::String(s)] => native::quantity(s),
            _ => Err(EvalError::NoOverload),
        },
        "isQuantity" => |a, _| match a {
            [Value::String(s)] => Ok(Value::Bool(s.parse::<Quantity>().is_ok())),
            _ => Err(EvalError::NoOverload),
        },
        "sign" => |a, _| quantity(a, |q| Ok(Value::Int(i64::from(q.sign())))),
        "asInteger" => |a, _| {
            quantity(a, |q| {
                integer(q).map(Value::Int).ok_or(EvalError::new("cannot convert value to integer"))
            })
        },
        "isInteger" => |a, _| quantity(a, |q| Ok(Value::Bool(integer(q).is_some()))),
        "asApproximateFloat" => |a, _| quantity(a, |q| Ok(Value::Double(approximate(q)))),
        "isGreaterThan" => |a, _| ordered(a, |o| Value::Bool(o.is_gt())),
        "isLessThan" => |a, _| ordered(a, |o| Value::Bool(o.is_lt())),
        "compareTo" => |a, _| ordered(a, |o| Value::Int(o as i64)),
        "add" => |a, _| arithmetic(a, |x, y| x + y),
        "sub" => |a, _| arithmetic(a, |x, y| x - y),
        "semver" => |a, _| version(a)?.map(|v| Native::Semver(v).into()).map_err(EvalError::new),
        "isSemver" => |a, _| Ok(Value::Bool(version(a)?.is_ok())),
        "major" => |a, _| part(a, |v| v.major),
        "minor" => |a, _| part(a, |v| v.minor),
        "patch" => |a, _| part(a, |v| v.patch),
        _ => return None,
    })
}

fn of<'v>(v: &'v Value<'_>) -> Option<&'v Native> {
    match v {
        Value::Native(n) => Some(n),
        _ => None,
    }
}

fn quantity<'a>(a: &[Value<'a>], f: impl Fn(&Quantity) -> EvalResult<'a>) -> EvalResult<'a> {
    match a.first().and_then(of) {
        Some(Native::Quantity(q)) => f(q),
        _ => Err(EvalError::NoOverload),
    }
}

/// The quantity as an integer, if it is one that fits.
fn integer(q: &Quantity) -> Option<i64> {
    let n = q.value();
    (Quantity::from_value(n, q.format) == *q).then_some(n)
}

fn approximate(q: &Quantity) -> f64 {
    if let Some(n) = integer(q) {
        #[allow(clippy::cast_precision_loss)]
        return n as f64;
    }
    let mut plain = *q;
    plain.format = Format::DecimalExponent;
    let text = plain.to_string();
    text.parse().unwrap_or(f64::NAN)
}

fn ordered<'a>(a: &[Value<'a>], f: impl Fn(std::cmp::Ordering) -> Value<'a>) -> EvalResult<'a> {
    let [x, y] = a else { return Err(EvalError::NoOverload) };
    match (of(x), of(y)) {
        (Some(Native::Quantity(x)), Some(Native::Quantity(y))) => Ok(f(x.cmp(y))),
        (Some(Native::Semver(x)), Some(Native::Semver(y))) => Ok(f(x.precedence(y))),
        _ => Err(EvalError::NoOverload),
    }
}

fn arithmetic<'a>(a: &[Value<'a>], f: impl Fn(Quantity, Quantity) -> Quantity) -> EvalResult<'a> {
    let [x, y] = a else { return Err(EvalError::NoOverload) };
    let Some(Native::Quantity(x)) = of(x) else { return Err(EvalError::NoOverload) };
    let y = match y {
        Value::Int(n) => Quantity::from_value(*n, Format::DecimalExponent),
        other => match of(other) {
            Some(Native::Quantity(y)) => *y,
            _ => return Err(EvalError::NoOverload),
        },
    };
    Ok(Native::Quantity(f(*x, y)).into())
}

fn version(a: &[Value<'_>]) -> Result<Result<Version, String>, EvalError> {
    match a {
        [Value::String(s)] | [Value::String(s), Value::Bool(false)] => Ok(Version::parse(s)),
        [Value::String(s), Value::Bool(true)] => Ok(Version::parse_tolerant(s)),
        _ => Err(EvalError::NoOverload),
    }
}

fn part<'a>(a: &[Value<'a>], f: impl Fn(&Version) -> u64) -> EvalResult<'a> {
    match a.first().and_then(of) {
        Some(Native::Semver(v)) => Ok(Value::Int(i64::try_from(f(v)).unwrap_or(i64::MAX))),
        _ => Err(EvalError::NoOverload),
    }
}
