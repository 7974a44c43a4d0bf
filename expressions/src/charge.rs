//! What calls cost at run time, in upstream's units.
//!
//! Source: the cost model of CEL and of the Kubernetes libraries; the numbers are part of the API, because they decide
//! which expressions run to their end.

use super::native::Native;
use super::value::{List, Map, Value};

/// Cost of touching one character.
const PER_CHARACTER: f64 = 0.1;
/// Cost of one character of a regular expression.
const PER_REGEX_CHARACTER: f64 = 0.25;

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn times(size: u64, factor: f64) -> u64 {
    (size as f64 * factor).ceil() as u64
}

fn size(args: &[Value<'_>], i: usize) -> u64 {
    args.get(i).map_or(1, Value::cost_size)
}

/// Cost of walking through everything inside a value.
fn traversal(v: &Value<'_>) -> u64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let floor = |n: usize| (n as f64 * PER_CHARACTER) as u64;
    match v {
        Value::String(s) => floor(s.len()),
        Value::Bytes(b) => floor(b.len()),
        Value::List(List::Made(l)) => l.iter().map(traversal).fold(0, u64::saturating_add),
        Value::List(l) => l.iter().filter_map(Result::ok).map(|v| traversal(&v)).fold(0, u64::saturating_add),
        Value::Map(m) => map_traversal(m),
        _ => 1,
    }
}

fn map_traversal(m: &Map<'_>) -> u64 {
    let entries = m.keys();
    entries.iter().fold(0_u64, |sum, k| {
        let value = m.get(k).and_then(Result::ok).map_or(0, |v| traversal(&v));
        sum.saturating_add(traversal(k)).saturating_add(value)
    })
}

/// A list function that makes `size` steps and a new list.
fn listing(factor: f64, size: u64) -> u64 {
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let steps = (size as f64 * factor) as u64;
    steps.saturating_add(11)
}

/// Comparing all elements of a list with each other.
fn self_compare(v: Option<&Value<'_>>) -> u64 {
    let Some(Value::List(l)) = v else { return 1 };
    let text = l.get(0).is_some_and(|v| matches!(v, Ok(Value::String(_) | Value::Bytes(_))));
    let n = l.len() as u64;
    listing(if text { 2.0 + PER_CHARACTER } else { 2.0 }, n.saturating_mul(n))
}

/// What a call costs, as far as its arguments tell.
pub fn before(name: &str, overload: &str, args: &[Value<'_>]) -> u64 {
    match name {
        "check" => 350_000,
        "fieldSelector" | "labelSelector" => {
            let n = size(args, 1);
            10 + times(n, PER_CHARACTER) + times(times(n, 0.5), 50.0)
        }
        "isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf" => args.first().map_or(0, traversal),
        "url"
        | "lowerAscii"
        | "upperAscii"
        | "substring"
        | "trim"
        | "jsonpatch.escapeKey"
        | "cidr"
        | "isIP"
        | "isCIDR"
        | "quantity"
        | "isQuantity"
        | "semver"
        | "isSemver" => times(size(args, 0), PER_CHARACTER),
        "replace" | "split" | "ip.isCanonical" => times(size(args, 0), 2.0 * PER_CHARACTER),
        // Known when the result is there.
        "join" => 0,
        "find" | "findAll" => regex(size(args, 0), size(args, 1)),
        "ip" if overload == "cidr_ip" => 1,
        "ip" => times(size(args, 0), PER_CHARACTER),
        "containsIP" | "containsCIDR" => {
            let network = size(args, 0);
            let mut cost = times(network.saturating_mul(2), PER_CHARACTER);
            if name == "containsCIDR" {
                cost += times(network, PER_CHARACTER) + 1;
            }
            if overload.ends_with("_string") {
                cost += times(size(args, 1), PER_CHARACTER);
            }
            cost
        }
        "validate" => match args.first() {
            Some(Value::Native(n)) => match &**n {
                Native::Format(f) => regex(size(args, 1), f.regex_size),
                _ => 1,
            },
            _ => 1,
        },
        "_==_" if matches!(args.first(), Some(Value::Native(_))) => 1,
        "_==_" | "_!=_" => times(size(args, 0).min(size(args, 1)), PER_CHARACTER),
        "slice" => match args {
            [_, Value::Int(a), Value::Int(b)] => {
                listing(1.0, u64::try_from(b.saturating_sub(*a)).unwrap_or(0))
            }
            _ => 1,
        },
        "lists.range" => match args {
            [Value::Int(n)] => listing(1.0, u64::try_from(*n).unwrap_or(0)),
            _ => 1,
        },
        "reverse" => listing(1.0, size(args, 0)),
        "flatten" => {
            #[allow(clippy::cast_precision_loss)]
            let depth = match args.get(1) {
                Some(Value::Int(n)) => *n as f64,
                _ => 1.0,
            };
            listing(depth.max(0.0), size(args, 0))
        }
        "distinct" | "sort" => self_compare(args.first()),
        "@sortByAssociatedKeys" => self_compare(args.get(1)),
        _ => by_overload(overload, args),
    }
}

fn regex(text: u64, pattern: u64) -> u64 {
    times(text.saturating_add(1), PER_CHARACTER).saturating_mul(times(pattern, PER_REGEX_CHARACTER))
}

fn by_overload(overload: &str, args: &[Value<'_>]) -> u64 {
    match overload {
        "starts_with_string" | "ends_with_string" | "string_to_bytes" | "bytes_to_string"
        | "strings_quote" | "string_format" => times(size(args, 0), PER_CHARACTER),
        "in_list" => size(args, 1),
        "less_string"
        | "greater_string"
        | "less_equals_string"
        | "greater_equals_string"
        | "less_bytes"
        | "greater_bytes"
        | "less_equals_bytes"
        | "greater_equals_bytes" => times(size(args, 0).min(size(args, 1)), PER_CHARACTER),
        "add_string" | "add_bytes" => times(size(args, 0).saturating_add(size(args, 1)), PER_CHARACTER),
        "matches_string" | "matches" => regex(size(args, 0), size(args, 1)),
        "contains_string" => {
            times(size(args, 0), PER_CHARACTER).saturating_mul(times(size(args, 1), PER_CHARACTER))
        }
        _ => 1,
    }
}

/// What a call costs beyond that, as its result tells.
pub fn after(name: &str, result: &Value<'_>) -> u64 {
    match name {
        "join" => times(result.cost_size(), 2.0 * PER_CHARACTER),
        _ => 0,
    }
}
