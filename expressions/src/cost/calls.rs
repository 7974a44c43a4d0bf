//! What single functions can cost.

use super::{Arg, Estimate, Size, UNKNOWN, compared_at_once, size_of};
use crate::ast::Literal;
use crate::decl::Shape;
use crate::types::{Object, Type, names};

/// Cost of touching one character.
pub const PER_CHARACTER: f64 = 0.1;
const PER_REGEX_CHARACTER: f64 = 0.25;

type Cost = (Estimate, Option<Size>);

const ONE: Cost = (Estimate::fixed(1), None);

/// The integer that an argument is, if it is a literal.
fn literal(a: &Arg<'_, '_>) -> Option<u64> {
    match a.expr.literal() {
        Some(Literal::Int(n)) => Some(u64::try_from(*n).unwrap_or(0)),
        _ => None,
    }
}

/// Type and size of the elements of a list.
fn elements<'a>(a: &Arg<'a, '_>) -> Option<(&'a Type, Size)> {
    let of = match a.ty {
        Type::List(of) => &**of,
        Type::Map(kv) => &kv.0,
        Type::Opaque(_, params) => params.first()?,
        _ => return None,
    };
    let size = a.place.and_then(|d| match &d.shape {
        Shape::List(of, _) | Shape::Map(of) => Some(size_of(of)),
        _ => None,
    });
    Some((of, size.unwrap_or(UNKNOWN)))
}

fn regex(text: Size, pattern: Size) -> Estimate {
    text.plus(Estimate::fixed(1)).by(PER_CHARACTER).times(pattern.by(PER_REGEX_CHARACTER))
}

/// A list function that makes a new list of that size.
fn listing(factor: f64, size: Size) -> Cost {
    (size.by(factor).plus(Estimate::fixed(11)), Some(size))
}

fn sort(a: &Arg<'_, '_>, overload: &str) -> Cost {
    let text = overload.starts_with("list_string_") || overload.starts_with("list_bytes_");
    let size = a.size();
    listing(if text { 2.0 + PER_CHARACTER } else { 2.0 }, size.times(size))
}

/// Costs that the Kubernetes libraries say; none where CEL's own apply.
pub fn library(
    name: &str,
    overload: &str,
    target: Option<Arg<'_, '_>>,
    args: &[Arg<'_, '_>],
) -> Option<Cost> {
    if let Some(cost) = lists(overload, target, args) {
        return Some(cost);
    }
    let per_character = |a: &Arg<'_, '_>| a.size().by(PER_CHARACTER);
    Some(match (name, target, args) {
        ("check", ..) => (Estimate::fixed(350_000), None),
        ("fieldSelector" | "labelSelector", _, [a]) => {
            let requirements = a.size().by(0.5).by(50.0);
            (Estimate::fixed(10).plus(per_character(a)).plus(requirements), None)
        }
        ("isSorted" | "sum" | "max" | "min" | "indexOf" | "lastIndexOf", Some(t), _) => match elements(&t) {
            Some((of, size)) => {
                let mut each = Estimate::fixed(1);
                if matches!(of, Type::String | Type::Bytes) {
                    each = each.plus(size.by(PER_CHARACTER));
                }
                (t.size().times(each), None)
            }
            None => (per_character(&t), None),
        },
        ("url" | "jsonpatch.escapeKey", _, [a]) => (per_character(a), Some(a.size())),
        ("lowerAscii" | "upperAscii" | "substring" | "trim", Some(t), _) => {
            (per_character(&t), Some(t.size()))
        }
        ("replace", Some(t), [from, to, ..]) => {
            (t.size().by(2.0 * PER_CHARACTER), Some(replaced(t.size(), from.size(), to.size())))
        }
        ("split", Some(t), _) => {
            let most = args.get(1).and_then(split_limit).unwrap_or(t.size().max);
            (t.size().by(2.0 * PER_CHARACTER), Some(Size { min: 0, max: most }))
        }
        ("join", Some(t), _) => {
            let size = joined(&t, args.first());
            (size.by(PER_CHARACTER), Some(size))
        }
        ("find" | "findAll", Some(t), [pattern, ..]) => {
            (regex(t.size(), pattern.size()), Some(Size { min: 0, max: t.size().max }))
        }
        ("cidr" | "isIP" | "isCIDR" | "quantity" | "isQuantity" | "semver" | "isSemver", _, [a, ..]) => {
            (per_character(a), None)
        }
        ("ip", ..) if overload == "cidr_ip" => ONE,
        ("ip", _, [a, ..]) => (per_character(a), None),
        ("ip.isCanonical", _, [a, ..]) => (a.size().by(2.0 * PER_CHARACTER), None),
        ("containsIP" | "containsCIDR", _, [a, ..]) => {
            let address = Size { min: 4, max: 16 };
            let mut cost = address.plus(address).by(PER_CHARACTER);
            if name == "containsCIDR" {
                cost = cost.plus(address.by(PER_CHARACTER)).plus(Estimate::fixed(1));
            }
            if overload.ends_with("_string") {
                cost = cost.plus(per_character(a));
            }
            (cost, None)
        }
        ("validate", _, [a, ..]) => (per_character(a).by(128.0 * PER_REGEX_CHARACTER), None),
        ("_==_", _, [a, b]) if a.ty == b.ty && compared_at_once(a.ty) => ONE,
        ("_==_", _, [a, b]) if a.ty == b.ty => match a.ty {
            Type::Object(Object::Named(names::FORMAT)) => {
                (Estimate { min: 1, max: 64 }.by(PER_CHARACTER), None)
            }
            Type::Object(Object::Named(names::URL)) => {
                let most = b.size.map_or(1, |s| s.max);
                (Estimate { min: 1, max: most }.by(PER_CHARACTER), None)
            }
            _ => return None,
        },
        _ if nominal(name) => ONE,
        _ => return None,
    })
}

/// Functions that cost one, whatever they are given.
fn nominal(name: &str) -> bool {
    const ALL: [&str; 45] = [
        "serviceAccount",
        "path",
        "group",
        "resource",
        "subresource",
        "namespace",
        "name",
        "allowed",
        "reason",
        "error",
        "errored",
        "masked",
        "prefixLength",
        "family",
        "isUnspecified",
        "isLoopback",
        "isLinkLocalMulticast",
        "isLinkLocalUnicast",
        "isGlobalUnicast",
        "format.named",
        "sign",
        "asInteger",
        "isInteger",
        "asApproximateFloat",
        "isGreaterThan",
        "isLessThan",
        "compareTo",
        "add",
        "sub",
        "major",
        "minor",
        "patch",
        "getScheme",
        "getHostname",
        "getHost",
        "getPort",
        "getEscapedPath",
        "getQuery",
        "format.dns1123Label",
        "format.dns1123Subdomain",
        "format.dns1035Label",
        "format.qualifiedName",
        "format.labelValue",
        "format.uri",
        "format.uuid",
    ];
    ALL.contains(&name)
}

fn split_limit(a: &Arg<'_, '_>) -> Option<u64> {
    match a.expr.literal() {
        // A negative limit is none: it counts as the largest number.
        Some(Literal::Int(n)) => Some(u64::try_from(*n).unwrap_or(u64::MAX)),
        _ => None,
    }
}

/// Size of a text in which `from` is replaced by `to`.
fn replaced(text: Size, from: Size, to: Size) -> Size {
    let ratio = |a: u64, b: u64| {
        #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n = (a as f64 / b as f64).ceil() as u64;
        n
    };
    let (most, kept_most) = if from.min == 0 {
        (text.max.saturating_add(1), text.max)
    } else if to.max <= from.min {
        (0, text.max)
    } else {
        (ratio(text.max, from.min), 0)
    };
    let (least, kept_least) = if from.max == 0 {
        (text.min.saturating_add(1), text.min)
    } else if from.max <= to.min {
        (0, text.min)
    } else {
        (ratio(text.min, from.max), 0)
    };
    Size { min: least, max: most }.times(to).plus(Size { min: kept_least, max: kept_most })
}

/// Size of the elements of a list put together.
fn joined(list: &Arg<'_, '_>, separator: Option<&Arg<'_, '_>>) -> Size {
    let n = list.size();
    let mut size = Size::fixed(0);
    if let Some((_, each)) = elements(list) {
        size = n.times(each);
    }
    if let Some(s) = separator {
        let between = Size { min: n.min.saturating_sub(1), max: n.max.saturating_sub(1) };
        size = size.plus(s.size().times(between));
    }
    size
}

/// The functions that make lists.
fn lists(overload: &str, target: Option<Arg<'_, '_>>, args: &[Arg<'_, '_>]) -> Option<Cost> {
    Some(match (overload, target, args) {
        ("list_slice", Some(t), [a, b]) => {
            let start = literal(a).unwrap_or(0);
            let end = literal(b).unwrap_or(t.size().max);
            listing(1.0, Size::fixed(end.wrapping_sub(start)))
        }
        ("lists_range", None, [n]) => listing(1.0, Size::fixed(literal(n).unwrap_or(u64::MAX))),
        ("list_reverse", Some(t), []) => listing(1.0, t.size()),
        ("list_flatten" | "list_flatten_int", Some(t), _) => {
            #[allow(clippy::cast_precision_loss)]
            let depth = args.first().map_or(1, |a| literal(a).unwrap_or(u64::MAX)) as f64;
            listing(depth, t.size())
        }
        ("list_distinct", Some(t), []) => listing(2.0, t.size().times(t.size())),
        (o, Some(t), []) if o.starts_with("list_") && o.ends_with("_sort") => sort(&t, o),
        (o, Some(_), [keys]) if o.ends_with("_sortByAssociatedKeys") => sort(keys, o),
        _ => return None,
    })
}

/// Costs of CEL's own functions.
pub fn standard(overload: &str, target: Option<Arg<'_, '_>>, args: &[Arg<'_, '_>]) -> Cost {
    let size = |i: usize| args.get(i).map_or(UNKNOWN, Arg::size);
    match (overload, target) {
        ("string_format", Some(t)) => (t.size().by(PER_CHARACTER), None),
        ("string_to_bytes", _) => {
            let s = size(0);
            (s.by(PER_CHARACTER), Some(Size { min: s.min, max: s.max.saturating_mul(4) }))
        }
        ("bytes_to_string", _) => {
            let s = size(0);
            (s.by(PER_CHARACTER), Some(Size { min: s.min / 4, max: s.max }))
        }
        ("strings_quote", _) => {
            let s = size(0);
            let result =
                Size { min: s.min.saturating_add(2), max: s.max.saturating_mul(2).saturating_add(2) };
            (s.by(PER_CHARACTER), Some(result))
        }
        ("starts_with_string" | "ends_with_string", _) => (size(0).by(PER_CHARACTER), None),
        ("in_list", _) => (size(1), None),
        ("matches_string", Some(t)) => (regex(t.size(), size(0)), None),
        ("contains_string", Some(t)) => (t.size().by(PER_CHARACTER).times(size(0).by(PER_CHARACTER)), None),
        (
            "less_string"
            | "greater_string"
            | "less_equals_string"
            | "greater_equals_string"
            | "less_bytes"
            | "greater_bytes"
            | "less_equals_bytes"
            | "greater_equals_bytes"
            | "equals"
            | "not_equals",
            _,
        ) => {
            let most = size(0).max.min(size(1).max);
            (Estimate { min: u64::from(most > 0), max: most }.by(PER_CHARACTER), None)
        }
        _ => ONE,
    }
}
