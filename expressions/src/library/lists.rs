//! Functions of lists and sets.

use std::cmp::Ordering;

use regex::Regex;

use super::super::value::{EvalError, EvalResult, List, Value};
use super::{Builtin, MAX_ITEMS, bounded, operators, strings};

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "slice" => |a, _| match a {
            [Value::List(l), Value::Int(start), Value::Int(end)] => slice(l, *start, *end),
            _ => Err(EvalError::NoOverload),
        },
        "flatten" => flatten,
        "sort" => |a, _| list(a, |l| sorted(l.values()?)),
        "@sortByAssociatedKeys" => sort_by,
        "lists.range" => |a, _| match a {
            [Value::Int(n)] => {
                let n = usize::try_from(*n).unwrap_or(0);
                bounded(n, MAX_ITEMS)?;
                Ok((0..n).map(|i| Value::Int(i as i64)).collect::<Vec<_>>().into())
            }
            _ => Err(EvalError::NoOverload),
        },
        "reverse" => |a, _| {
            list(a, |l| {
                let mut items = l.values()?;
                items.reverse();
                Ok(items.into())
            })
        },
        "distinct" => |a, _| {
            list(a, |l| {
                let mut out: Vec<Value<'_>> = Vec::new();
                for v in l.values()? {
                    if !out.iter().any(|o| o.equals(&v)) {
                        out.push(v);
                    }
                }
                Ok(out.into())
            })
        },
        "first" => |a, _| list(a, |l| Ok(Value::Optional(l.get(0).transpose()?.map(Into::into)))),
        "last" => |a, _| {
            list(a, |l| {
                let last = l.len().checked_sub(1).and_then(|i| l.get(i)).transpose()?;
                Ok(Value::Optional(last.map(Into::into)))
            })
        },
        "isSorted" => |a, _| {
            list(a, |l| {
                for pair in l.values()?.windows(2) {
                    if pair[0].compare(&pair[1])? == Ordering::Greater {
                        return Ok(Value::Bool(false));
                    }
                }
                Ok(Value::Bool(true))
            })
        },
        "sum" => |a, _| list(a, sum),
        "max" => |a, _| list(a, |l| extreme(l, "max", Ordering::Greater)),
        "min" => |a, _| list(a, |l| extreme(l, "min", Ordering::Less)),
        "indexOf" => index_of,
        "lastIndexOf" => last_index_of,
        "sets.contains" => |a, _| sets(a, |x, y| y.iter().all(|v| x.iter().any(|w| w.equals(v)))),
        "sets.intersects" => |a, _| sets(a, |x, y| y.iter().any(|v| x.iter().any(|w| w.equals(v)))),
        "sets.equivalent" => |a, _| {
            sets(a, |x, y| {
                let within =
                    |p: &[Value<'_>], q: &[Value<'_>]| p.iter().all(|v| q.iter().any(|w| w.equals(v)));
                within(x, y) && within(y, x)
            })
        },
        _ => return None,
    })
}

fn list<'a>(a: &[Value<'a>], f: impl Fn(&List<'a>) -> EvalResult<'a>) -> EvalResult<'a> {
    match a {
        [Value::List(l)] => f(l),
        _ => Err(EvalError::NoOverload),
    }
}

fn sets<'a>(a: &[Value<'a>], f: impl Fn(&[Value<'a>], &[Value<'a>]) -> bool) -> EvalResult<'a> {
    match a {
        [Value::List(x), Value::List(y)] => Ok(Value::Bool(f(&x.values()?, &y.values()?))),
        _ => Err(EvalError::NoOverload),
    }
}

fn slice<'a>(l: &List<'a>, start: i64, end: i64) -> EvalResult<'a> {
    let why = if start < 0 || end < 0 {
        "negative indexes not supported".to_owned()
    } else if start > end {
        "start index must be less than or equal to end index".to_owned()
    } else if usize::try_from(end).unwrap_or(usize::MAX) > l.len() {
        format!("list is length {}", l.len())
    } else {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let range = start as usize..end as usize;
        let items: Result<Vec<_>, _> = range.filter_map(|i| l.get(i)).collect();
        return Ok(items?.into());
    };
    Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")))
}

fn flatten<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    let (l, depth) = match a {
        [Value::List(l)] => (l, 1),
        [Value::List(l), Value::Int(depth)] => (l, *depth),
        _ => return Err(EvalError::NoOverload),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    let mut out = Vec::new();
    flatten_into(l, depth, &mut out)?;
    Ok(out.into())
}

fn flatten_into<'a>(l: &List<'a>, depth: i64, out: &mut Vec<Value<'a>>) -> Result<(), EvalError> {
    for v in l.iter() {
        match v? {
            Value::List(inner) if depth > 0 => flatten_into(&inner, depth - 1, out)?,
            other => out.push(other),
        }
        bounded(out.len(), MAX_ITEMS)?;
    }
    Ok(())
}

/// Sorts in place; the first pair that cannot be compared is the error.
fn sort_with<'a, T>(items: &mut [T], key: impl Fn(&T) -> &Value<'a>) -> Result<(), EvalError> {
    let mut failed = None;
    items.sort_by(|a, b| {
        key(a).compare(key(b)).unwrap_or_else(|e| {
            failed.get_or_insert(e);
            Ordering::Equal
        })
    });
    failed.map_or(Ok(()), Err)
}

fn same_types(items: &[Value<'_>]) -> Result<(), EvalError> {
    match items.windows(2).any(|w| w[0].type_name() != w[1].type_name()) {
        true => Err(EvalError::new("list elements must have the same type")),
        false => Ok(()),
    }
}

fn sorted<'a>(mut items: Vec<Value<'a>>) -> EvalResult<'a> {
    same_types(&items)?;
    sort_with(&mut items, |v| v)?;
    Ok(items.into())
}

fn sort_by<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    let [Value::List(l), Value::List(keys)] = a else { return Err(EvalError::NoOverload) };
    let keys = keys.values()?;
    same_types(&keys)?;
    let mut pairs: Vec<(Value<'a>, Value<'a>)> = keys.into_iter().zip(l.values()?).collect();
    sort_with(&mut pairs, |p| &p.0)?;
    Ok(pairs.into_iter().map(|p| p.1).collect::<Vec<_>>().into())
}

fn sum<'a>(l: &List<'a>) -> EvalResult<'a> {
    let mut total: Option<Value<'a>> = None;
    for v in l.iter() {
        let v = v?;
        total = Some(match total {
            None => v,
            Some(t) => operators::add(&t, &v)?,
        });
    }
    Ok(total.unwrap_or(Value::Int(0)))
}

fn extreme<'a>(l: &List<'a>, name: &str, wanted: Ordering) -> EvalResult<'a> {
    let mut best: Option<Value<'a>> = None;
    for v in l.iter() {
        let v = v?;
        let better = match &best {
            None => true,
            Some(b) => v.compare(b)? == wanted,
        };
        if better {
            best = Some(v);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn index_of<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    match a {
        [Value::String(s), Value::String(t)] => strings::index_of(s, t, 0),
        [Value::String(s), Value::String(t), Value::Int(from)] => strings::index_of(s, t, *from),
        [Value::List(l), v] => position(l.values()?.iter().position(|x| x.equals(v))),
        _ => Err(EvalError::NoOverload),
    }
}

fn last_index_of<'a>(a: &[Value<'a>], _: Option<&Regex>) -> EvalResult<'a> {
    match a {
        [Value::String(s), Value::String(t)] => strings::last_index_of(s, t, None),
        [Value::String(s), Value::String(t), Value::Int(from)] => strings::last_index_of(s, t, Some(*from)),
        [Value::List(l), v] => position(l.values()?.iter().rposition(|x| x.equals(v))),
        _ => Err(EvalError::NoOverload),
    }
}

fn position<'a>(i: Option<usize>) -> EvalResult<'a> {
    Ok(Value::Int(i.and_then(|i| i64::try_from(i).ok()).unwrap_or(-1)))
}
