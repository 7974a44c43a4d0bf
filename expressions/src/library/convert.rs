//! Conversions between types, and the functions of optional values.

use std::sync::Arc;

use jiff::Timestamp;

use super::super::native::Native;
use super::super::time;
use super::super::value::{EvalError, EvalResult, Value};
use super::Builtin;

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "type" => |a, _| Ok(Value::Type(Arc::from(a[0].type_name()))),
        "dyn" => |a, _| Ok(a[0].clone()),
        "bool" => |a, _| to_bool(&a[0]),
        "bytes" => |a, _| to_bytes(&a[0]),
        "double" => |a, _| to_double(&a[0]),
        "int" => |a, _| to_int(&a[0]),
        "uint" => |a, _| to_uint(&a[0]),
        "string" => |a, _| to_string(&a[0]),
        "duration" => |a, _| to_duration(&a[0]),
        "timestamp" => |a, _| to_timestamp(&a[0]),
        "optional.of" => |a, _| Ok(Value::Optional(Some(Arc::new(a[0].clone())))),
        "optional.ofNonZeroValue" => {
            |a, _| Ok(Value::Optional((!a[0].is_zero()).then(|| Arc::new(a[0].clone()))))
        }
        "optional.none" => |_, _| Ok(Value::Optional(None)),
        "value" => |a, _| match &a[0] {
            Value::Optional(Some(v)) => Ok((**v).clone()),
            Value::Optional(None) => Err(EvalError::new("optional.none() dereference")),
            _ => Err(EvalError::NoOverload),
        },
        "hasValue" => |a, _| match &a[0] {
            Value::Optional(o) => Ok(Value::Bool(o.is_some())),
            _ => Err(EvalError::NoOverload),
        },
        "optional.unwrap" | "unwrapOpt" => |a, _| {
            let Value::List(l) = &a[0] else { return Err(EvalError::NoOverload) };
            let mut out = Vec::new();
            for v in l.iter() {
                match v? {
                    Value::Optional(Some(v)) => out.push((*v).clone()),
                    Value::Optional(None) => {}
                    other => {
                        let message = format!("value {} is not optional", super::printf::shown(&other));
                        return Err(EvalError::new(message));
                    }
                }
            }
            Ok(out.into())
        },
        _ => return None,
    })
}

fn conversion<'a>(from: &Value<'_>, to: &str) -> EvalResult<'a> {
    Err(EvalError::new(format!("type conversion error from '{}' to '{to}'", from.type_name())))
}

fn range<'a>() -> EvalResult<'a> {
    Err(EvalError::new("integer overflow"))
}

fn to_bool<'a>(v: &Value<'a>) -> EvalResult<'a> {
    match v {
        Value::Bool(_) => Ok(v.clone()),
        Value::String(s) => match &**s {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => conversion(v, "bool"),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn to_bytes<'a>(v: &Value<'a>) -> EvalResult<'a> {
    match v {
        Value::Bytes(_) => Ok(v.clone()),
        Value::String(s) => Ok(Value::Bytes(Arc::from(s.as_bytes()))),
        _ => Err(EvalError::NoOverload),
    }
}

#[allow(clippy::cast_precision_loss)]
fn to_double<'a>(v: &Value<'a>) -> EvalResult<'a> {
    Ok(Value::Double(match v {
        Value::Double(d) => *d,
        Value::Int(n) => *n as f64,
        Value::Uint(n) => *n as f64,
        Value::String(s) => match s.parse() {
            Ok(d) => d,
            Err(_) => return conversion(v, "double"),
        },
        _ => return Err(EvalError::NoOverload),
    }))
}

#[allow(clippy::cast_possible_truncation)]
fn to_int<'a>(v: &Value<'a>) -> EvalResult<'a> {
    Ok(Value::Int(match v {
        Value::Int(n) | Value::Duration(n) => *n,
        Value::Uint(n) => match i64::try_from(*n) {
            Ok(n) => n,
            Err(_) => return range(),
        },
        Value::Double(d) if d.abs() < 9_223_372_036_854_775_807.0 => *d as i64,
        Value::Double(_) => return range(),
        Value::Timestamp(t) => t.as_second(),
        Value::String(s) => match s.parse() {
            Ok(n) => n,
            Err(_) => return conversion(v, "int"),
        },
        _ => return Err(EvalError::NoOverload),
    }))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn to_uint<'a>(v: &Value<'a>) -> EvalResult<'a> {
    let overflow = || Err(EvalError::new("unsigned integer overflow"));
    Ok(Value::Uint(match v {
        Value::Uint(n) => *n,
        Value::Int(n) => match u64::try_from(*n) {
            Ok(n) => n,
            Err(_) => return overflow(),
        },
        Value::Double(d) if *d >= 0.0 && *d < 18_446_744_073_709_551_615.0 => *d as u64,
        Value::Double(_) => return overflow(),
        Value::String(s) => match s.parse() {
            Ok(n) => n,
            Err(_) => return conversion(v, "uint"),
        },
        _ => return Err(EvalError::NoOverload),
    }))
}

fn to_string<'a>(v: &Value<'a>) -> EvalResult<'a> {
    Ok(match v {
        Value::String(_) => v.clone(),
        Value::Bool(b) => Value::from(if *b { "true" } else { "false" }),
        Value::Int(n) => n.to_string().into(),
        Value::Uint(n) => n.to_string().into(),
        Value::Double(d) => super::printf::shortest(*d).into(),
        Value::Bytes(b) => match std::str::from_utf8(b) {
            Ok(s) => s.to_owned().into(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Duration(n) => time::duration_seconds(*n).into(),
        Value::Timestamp(t) => time::timestamp_text(*t).into(),
        Value::Native(n) => match &**n {
            Native::Ip(ip) => ip.to_string().into(),
            Native::Cidr(ip, bits) => format!("{ip}/{bits}").into(),
            _ => return Err(EvalError::NoOverload),
        },
        _ => return Err(EvalError::NoOverload),
    })
}

fn to_duration<'a>(v: &Value<'a>) -> EvalResult<'a> {
    match v {
        Value::Duration(_) => Ok(v.clone()),
        Value::Int(n) => Ok(Value::Duration(*n)),
        Value::String(s) => match time::parse_duration(s) {
            Some(n) => Ok(Value::Duration(n)),
            None => conversion(v, super::super::types::names::DURATION),
        },
        _ => Err(EvalError::NoOverload),
    }
}

fn to_timestamp<'a>(v: &Value<'a>) -> EvalResult<'a> {
    let wrong = || conversion(v, super::super::types::names::TIMESTAMP);
    match v {
        Value::Timestamp(_) => Ok(v.clone()),
        Value::Int(n) => match Timestamp::from_second(*n).ok().filter(|t| time::in_range(*t)) {
            Some(t) => Ok(Value::Timestamp(t)),
            None => Err(EvalError::new("timestamp overflow")),
        },
        Value::String(s) => time::parse_timestamp(s).map_or_else(wrong, |t| Ok(Value::Timestamp(t))),
        _ => Err(EvalError::NoOverload),
    }
}
