//! Operators, indexing and size. The logical operators are not here: they do not need all their arguments.

use std::cmp::Ordering;

use jiff::SignedDuration;

use super::super::time;
use super::super::value::{EvalError, EvalResult, Key, List, Map, Value};
use super::{Builtin, MAX_ITEMS, MAX_TEXT, bounded};

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "!_" => |a, _| match a {
            [Value::Bool(b)] => Ok(Value::Bool(!b)),
            _ => Err(EvalError::NoOverload),
        },
        "-_" => |a, _| negate(&a[0]),
        "_+_" => |a, _| add(&a[0], &a[1]),
        "_-_" => |a, _| subtract(&a[0], &a[1]),
        "_*_" => |a, _| multiply(&a[0], &a[1]),
        "_/_" => |a, _| divide(&a[0], &a[1]),
        "_%_" => |a, _| modulo(&a[0], &a[1]),
        "_==_" => |a, _| Ok(Value::Bool(a[0].equals(&a[1]))),
        "_!=_" => |a, _| Ok(Value::Bool(!a[0].equals(&a[1]))),
        "_<_" => |a, _| Ok(Value::Bool(a[0].compare(&a[1])? == Ordering::Less)),
        "_<=_" => |a, _| Ok(Value::Bool(a[0].compare(&a[1])? != Ordering::Greater)),
        "_>_" => |a, _| Ok(Value::Bool(a[0].compare(&a[1])? == Ordering::Greater)),
        "_>=_" => |a, _| Ok(Value::Bool(a[0].compare(&a[1])? != Ordering::Less)),
        "@in" => |a, _| is_in(&a[0], &a[1]),
        "size" => |a, _| size(&a[0]),
        "cel.@mapInsert" => |a, _| insert(a),
        _ => return None,
    })
}

const OVERFLOW: EvalError = EvalError::Error(std::borrow::Cow::Borrowed("integer overflow"));
const UNSIGNED: EvalError = EvalError::Error(std::borrow::Cow::Borrowed("unsigned integer overflow"));
const DURATION: EvalError = EvalError::Error(std::borrow::Cow::Borrowed("duration overflow"));
const TIMESTAMP: EvalError = EvalError::Error(std::borrow::Cow::Borrowed("timestamp overflow"));

fn negate<'a>(v: &Value<'a>) -> EvalResult<'a> {
    match v {
        Value::Int(n) => n.checked_neg().map(Value::Int).ok_or(OVERFLOW),
        Value::Double(d) => Ok(Value::Double(-d)),
        Value::Duration(n) => n.checked_neg().map(Value::Duration).ok_or(DURATION),
        _ => Err(EvalError::NoOverload),
    }
}

fn shifted<'a>(t: jiff::Timestamp, nanos: i64, back: bool) -> EvalResult<'a> {
    let d = SignedDuration::from_nanos(nanos);
    let moved = if back { t.checked_sub(d) } else { t.checked_add(d) };
    moved.ok().filter(|t| time::in_range(*t)).map(Value::Timestamp).ok_or(TIMESTAMP)
}

/// `a + b`.
pub fn add<'a>(a: &Value<'a>, b: &Value<'a>) -> EvalResult<'a> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_add(*b).ok_or(OVERFLOW)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_add(*b).ok_or(UNSIGNED)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a + b),
        (Value::String(a), Value::String(b)) => {
            bounded(a.len() + b.len(), MAX_TEXT)?;
            Value::from([&**a, &**b].concat())
        }
        (Value::Bytes(a), Value::Bytes(b)) => {
            bounded(a.len() + b.len(), MAX_TEXT)?;
            Value::Bytes([&**a, &**b].concat().into())
        }
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_add(*b).ok_or(DURATION)?),
        (Value::Timestamp(t), Value::Duration(d)) | (Value::Duration(d), Value::Timestamp(t)) => {
            return shifted(*t, *d, false);
        }
        (Value::List(a), Value::List(b)) => concat(a, b)?,
        _ => return Err(EvalError::NoOverload),
    })
}

/// Both lists in one. Custom resources' sets and lists by key join without repeats, the second list's entries winning.
fn concat<'a>(a: &List<'a>, b: &List<'a>) -> EvalResult<'a> {
    use super::super::decl::ListEquality;
    bounded(a.len() + b.len(), MAX_ITEMS)?;
    let mut items = a.values()?;
    if let (List::Json { items: left, equality, .. }, List::Json { items: right, of, .. }) = (a, b) {
        match equality {
            ListEquality::Ordered => {}
            ListEquality::Set => {
                let new = right.iter().filter(|r| !left.contains(r));
                items.extend(new.map(|r| Value::from_json(r, of)).collect::<Result<Vec<_>, _>>()?);
                return Ok(items.into());
            }
            ListEquality::Keyed(keys) => {
                for r in *right {
                    let value = Value::from_json(r, of)?;
                    match left.iter().position(|l| super::super::list::same_keys(l, r, keys)) {
                        Some(i) => items[i] = value,
                        None => items.push(value),
                    }
                }
                return Ok(items.into());
            }
        }
    }
    items.extend(b.values()?);
    Ok(items.into())
}

fn subtract<'a>(a: &Value<'a>, b: &Value<'a>) -> EvalResult<'a> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_sub(*b).ok_or(OVERFLOW)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_sub(*b).ok_or(UNSIGNED)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a - b),
        (Value::Duration(a), Value::Duration(b)) => Value::Duration(a.checked_sub(*b).ok_or(DURATION)?),
        (Value::Timestamp(t), Value::Duration(d)) => return shifted(*t, *d, true),
        (Value::Timestamp(a), Value::Timestamp(b)) => {
            let nanos = a.as_nanosecond() - b.as_nanosecond();
            Value::Duration(i64::try_from(nanos).map_err(|_| DURATION)?)
        }
        _ => return Err(EvalError::NoOverload),
    })
}

fn multiply<'a>(a: &Value<'a>, b: &Value<'a>) -> EvalResult<'a> {
    Ok(match (a, b) {
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_mul(*b).ok_or(OVERFLOW)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a.checked_mul(*b).ok_or(UNSIGNED)?),
        (Value::Double(a), Value::Double(b)) => Value::Double(a * b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn divide<'a>(a: &Value<'a>, b: &Value<'a>) -> EvalResult<'a> {
    const ZERO: &str = "division by zero";
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new(ZERO));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_div(*b).ok_or(OVERFLOW)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a / b),
        (Value::Double(a), Value::Double(b)) => Value::Double(a / b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn modulo<'a>(a: &Value<'a>, b: &Value<'a>) -> EvalResult<'a> {
    const ZERO: &str = "modulus by zero";
    Ok(match (a, b) {
        (Value::Int(_), Value::Int(0)) | (Value::Uint(_), Value::Uint(0)) => {
            return Err(EvalError::new(ZERO));
        }
        (Value::Int(a), Value::Int(b)) => Value::Int(a.checked_rem(*b).ok_or(OVERFLOW)?),
        (Value::Uint(a), Value::Uint(b)) => Value::Uint(a % b),
        _ => return Err(EvalError::NoOverload),
    })
}

fn is_in<'a>(v: &Value<'a>, of: &Value<'a>) -> EvalResult<'a> {
    match of {
        Value::List(l) => {
            for x in l.iter() {
                if x?.equals(v) {
                    return Ok(Value::Bool(true));
                }
            }
            Ok(Value::Bool(false))
        }
        Value::Map(m) => Ok(Value::Bool(m.has(v))),
        _ => Err(EvalError::NoOverload),
    }
}

fn size<'a>(v: &Value<'a>) -> EvalResult<'a> {
    match v {
        Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_) => {
            Ok(Value::Int(i64::try_from(v.cost_size()).unwrap_or(i64::MAX)))
        }
        _ => Err(EvalError::NoOverload),
    }
}

/// The element of a list or map; none where the key is not there.
pub fn element<'a>(of: &Value<'a>, index: &Value<'a>) -> Result<Option<Value<'a>>, EvalError> {
    match of {
        Value::List(l) => {
            let i = match index {
                Value::Int(i) => *i,
                Value::Uint(i) => i64::try_from(*i).unwrap_or(i64::MAX),
                #[allow(clippy::cast_possible_truncation)]
                Value::Double(d) if d.fract() == 0.0 && d.abs() < 9e15 => *d as i64,
                other => {
                    let message = format!("unsupported index type '{}' in list", other.type_name());
                    return Err(EvalError::new(message));
                }
            };
            usize::try_from(i).ok().and_then(|i| l.get(i)).transpose()
        }
        Value::Map(m) => m.get(index).transpose(),
        _ => Err(EvalError::NoOverload),
    }
}

fn insert<'a>(args: &[Value<'a>]) -> EvalResult<'a> {
    let Some(Value::Map(m)) = args.first() else { return Err(EvalError::NoOverload) };
    let mut out = std::collections::BTreeMap::new();
    if let Map::Made(m) = m {
        out = (**m).clone();
    }
    insert_into(&mut out, &args[1..])?;
    Ok(Value::Map(Map::Made(std::sync::Arc::new(out))))
}

/// Puts a key and value, or all of another map, into a map. A key that is there already is an error.
pub fn insert_into<'a>(
    map: &mut std::collections::BTreeMap<Key, Value<'a>>,
    args: &[Value<'a>],
) -> Result<(), EvalError> {
    let mut put = |k: &Value<'a>, v: Value<'a>| {
        let key = Key::from_value(k)
            .ok_or_else(|| EvalError::new(format!("unsupported key type: {}", k.type_name())))?;
        let shown = super::printf::shown(k);
        match map.insert(key, v) {
            Some(_) => Err(EvalError::new(format!("insert failed: key {shown} already exists"))),
            None => Ok(()),
        }
    };
    match args {
        [k, v] => put(k, v.clone()),
        [Value::Map(m)] => {
            for k in m.keys() {
                if let Some(v) = m.get(&k) {
                    put(&k, v?)?;
                }
            }
            Ok(())
        }
        _ => Err(EvalError::NoOverload),
    }
}
