//! Checking of values against a schema, with the reasons, places and sentences of upstream's validator.
//!
//! Work is bounded by the size of the value times that of the schema: schemas hold no references, and patterns
//! run in linear time. Of alternatives that all fail, upstream tells the failures of the one that got farthest;
//! checks that pass are counted for that, as upstream counts them.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::loc::Loc;
use super::node::{Additional, Checks, Junctors, Node, Type};
use super::number::{Num, float_text, in_range, is_whole, quote, shown};
use super::ratchet::Pair;
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// Something wrong.
#[derive(Debug)]
struct Problem {
    /// Place, dotted; none for sentences about the whole.
    name: Option<String>,
    kind: ErrorKind,
    value: String,
    detail: String,
    /// What makes two problems the same.
    message: String,
}

/// Checks `v`, whose place is `from`. With the value that it replaces, what did not change may stay wrong.
pub fn check(v: &Value, node: &Node, old: Option<&Value>, from: &Path) -> ErrorList {
    let mut problems = Vec::new();
    walk(v, node, &Loc::ROOT, None, &mut problems);
    // Comparing costs something, and forgives only: what is valid is not compared.
    if let (false, Some(old)) = (problems.is_empty(), old) {
        problems.clear();
        walk(v, node, &Loc::ROOT, Some(Pair::new(v, old, node)), &mut problems);
    }
    let mut seen = HashSet::new();
    let mut errors = ErrorList::new();
    for p in problems {
        if !seen.insert(p.message) {
            continue;
        }
        let at = match p.name.as_deref().map(|n| n.strip_prefix('.').unwrap_or(n)) {
            None | Some("") => from.clone(),
            Some(n) => from.child(n),
        };
        errors.push(Error { kind: p.kind, field: at.to_string(), value: p.value, detail: p.detail });
    }
    errors
}

/// True if `v` has nothing wrong.
pub fn fits(v: &Value, node: &Node) -> bool {
    let mut problems = Vec::new();
    walk(v, node, &Loc::ROOT, None, &mut problems);
    problems.is_empty()
}

type Problems = Vec<Problem>;

/// Adds an error about the value at `at`; `what` follows `… in body `.
fn invalid(at: &Loc<'_>, kind: ErrorKind, value: String, what: &str, out: &mut Problems) {
    let name = at.dotted();
    let message = format!("{name} in body {what}");
    out.push(Problem { name: Some(name), kind, value, detail: message.clone(), message });
}

/// Adds a sentence that upstream tells without a place.
fn sentence(message: String, out: &mut Problems) {
    out.push(Problem {
        name: None,
        kind: ErrorKind::Invalid,
        value: "\"\"".into(),
        detail: message.clone(),
        message,
    });
}

/// Checks one value; answers how many checks passed.
fn walk(v: &Value, node: &Node, at: &Loc<'_>, pair: Option<Pair<'_>>, out: &mut Problems) -> u64 {
    let before = out.len();
    let passed = checks(v, node, at, pair, out);
    if out.len() > before && pair.is_some_and(|p| p.same()) {
        out.truncate(before);
    }
    passed
}

fn checks(v: &Value, node: &Node, at: &Loc<'_>, pair: Option<Pair<'_>>, out: &mut Problems) -> u64 {
    if v.is_null() {
        let names = node.ty.names();
        let mut passed = 1;
        if !names.is_empty() && !node.nullable {
            wrong_type(at, &names.join(","), "null", out);
            passed = 0;
        }
        values(v, node, at, out);
        return passed;
    }
    let mut passed = 0;
    if node.ty != Type::Any || !node.format().is_empty() {
        passed += u64::from(type_fits(v, node, at, out)) + 1;
    }
    passed += 2;
    if let Some(j) = &node.junctors {
        passed += junctors(v, j, at, out);
    }
    let c = node.checks.as_deref();
    match v {
        Value::String(s) => {
            passed += 1;
            if let Some(c) = c {
                text(s, c, at, out);
                if let Some(f) = c.string_format {
                    passed += 1;
                    if !f.accepts(s) {
                        let what = format!("must be of type {}: {}", c.format, quote(s));
                        invalid(at, ErrorKind::TypeInvalid, quote(s), &what, out);
                    }
                }
            }
        }
        Value::Number(n) => {
            passed += 2;
            let limits = c.map(|c| (c, c.format.as_ref()));
            number(Num::of(n), node.ty, limits, at, out);
        }
        Value::Array(a) => passed += list(a, node, at, pair, out) + 2,
        _ => {}
    }
    passed += 1;
    values(v, node, at, out);
    if let Value::Object(m) = v {
        passed += object(m, node, at, pair, out) + 1;
    }
    passed + 1
}

fn wrong_type(at: &Loc<'_>, wanted: &str, got: &str, out: &mut Problems) {
    let got = format!("\"{got}\"");
    let what = format!("must be of type {wanted}: {got}");
    invalid(at, ErrorKind::TypeInvalid, got, &what, out);
}

fn type_fits(v: &Value, node: &Node, at: &Loc<'_>, out: &mut Problems) -> bool {
    let names = node.ty.names();
    let allows = |name: &str| names.contains(&name);
    let (got, got_format) = match v {
        Value::Null => ("null", ""),
        Value::Bool(_) => ("boolean", ""),
        Value::String(_) => ("string", ""),
        Value::Array(_) => ("array", ""),
        Value::Object(_) => ("object", ""),
        Value::Number(n) => match Num::of(n) {
            Num::Int(_) => ("integer", "int64"),
            Num::Float(_) => ("number", "float64"),
        },
    };
    let whole = || v.as_f64().is_some_and(is_whole);
    let converts =
        (got == "number" && allows("integer") && whole()) || (got == "integer" && allows("number"));
    let format = node.format();
    let texty = matches!(v, Value::String(_) | Value::Array(_));
    if !format.is_empty() {
        if !(texty || allows(got) || got_format == format || converts) {
            wrong_type(at, format, got_format, out);
            return false;
        }
        // Upstream leaves strings (and lists) with a format to the format.
        if texty && !allows("number") && !allows("integer") {
            return true;
        }
    }
    if allows(got) || converts {
        return true;
    }
    wrong_type(at, &names.join(","), got, out);
    false
}

fn text(s: &str, c: &Checks, at: &Loc<'_>, out: &mut Problems) {
    let len = || i64::try_from(s.chars().count()).unwrap_or(i64::MAX);
    if let Some(max) = c.max_length
        && len() > max
    {
        let unit = if max == 1 { "byte" } else { "bytes" };
        let detail =
            if max >= 0 { format!("may not be more than {max} {unit}") } else { "value is too long".into() };
        let name = at.dotted();
        let message = format!("{name} in body should be at most {max} chars long");
        out.push(Problem {
            name: Some(name),
            kind: ErrorKind::TooLong,
            value: String::new(),
            detail,
            message,
        });
        return;
    }
    if let Some(min) = c.min_length
        && len() < min
    {
        let what = format!("should be at least {min} chars long");
        return invalid(at, ErrorKind::Invalid, quote(s), &what, out);
    }
    if let Some(p) = &c.pattern {
        match p.is_match(s) {
            Ok(true) => {}
            Ok(false) => {
                let what = format!("should match '{}'", p.source());
                invalid(at, ErrorKind::Invalid, quote(s), &what, out);
            }
            Err(why) => {
                let what = format!("should match '{}, but pattern is invalid: {why}'", p.source());
                invalid(at, ErrorKind::Invalid, quote(s), &what, out);
            }
        }
    }
}

fn number(n: Num, ty: Type, limits: Option<(&Checks, &str)>, at: &Loc<'_>, out: &mut Problems) {
    let integer = ty == Type::Integer;
    let format = match ty {
        Type::Integer | Type::Number => limits.map_or("", |(_, f)| f),
        _ => "",
    };
    let type_name = match ty {
        Type::Integer => "integer",
        Type::Number => "number",
        _ => "",
    };
    // What is no number of the type, be it the value or a bound, is told in words.
    let ranged = |n: Num, what: &str, out: &mut Problems| {
        if in_range(n, integer, format) {
            return true;
        }
        let kind = if format.is_empty() {
            format!("{type_name} (default format)")
        } else {
            format!("{type_name} with format {format}")
        };
        sentence(format!("{what} value must be of type {kind} in {}", at.dotted()), out);
        false
    };
    ranged(n, "Checked", out);
    let Some((c, _)) = limits else { return };
    let bound = Num::Float;
    if let Some(factor) = c.multiple_of {
        let native = ranged(bound(factor), "MultipleOf", out);
        multiple(n, factor, native, at, out);
    }
    if let Some(max) = c.maximum {
        let native = ranged(bound(max), "Maximum boundary", out);
        let (over, shown) = match n {
            Num::Int(i) if native => {
                let max = max as i64;
                (if c.exclusive_maximum { i >= max } else { i > max }, max.to_string())
            }
            n => {
                let f = n.float();
                (if c.exclusive_maximum { f >= max } else { f > max }, float_text(max))
            }
        };
        if over {
            let how = if c.exclusive_maximum { "less than" } else { "less than or equal to" };
            invalid(at, ErrorKind::Invalid, n.text(), &format!("should be {how} {shown}"), out);
        }
    }
    if let Some(min) = c.minimum {
        let native = ranged(bound(min), "Minimum boundary", out);
        let (under, shown) = match n {
            Num::Int(i) if native => {
                let min = min as i64;
                (if c.exclusive_minimum { i <= min } else { i < min }, min.to_string())
            }
            n => {
                let f = n.float();
                (if c.exclusive_minimum { f <= min } else { f < min }, float_text(min))
            }
        };
        if under {
            let how = if c.exclusive_minimum { "greater than" } else { "greater than or equal to" };
            invalid(at, ErrorKind::Invalid, n.text(), &format!("should be {how} {shown}"), out);
        }
    }
}

fn multiple(n: Num, factor: f64, native: bool, at: &Loc<'_>, out: &mut Problems) {
    let not_positive = |shown: String, out: &mut Problems| {
        let name = at.dotted();
        let message = format!("factor MultipleOf declared for {name} must be positive: {shown}");
        out.push(Problem {
            name: Some(name),
            kind: ErrorKind::Invalid,
            value: shown,
            detail: message.clone(),
            message,
        });
    };
    let (fits, shown) = match n {
        Num::Int(i) if native => {
            let factor = factor as i64;
            if factor <= 0 {
                return not_positive(factor.to_string(), out);
            }
            (i % factor == 0, factor.to_string())
        }
        n => {
            if factor <= 0.0 {
                return not_positive(float_text(factor), out);
            }
            let times = if factor < 1.0 { 1.0 / factor * n.float() } else { n.float() / factor };
            (is_whole(times), float_text(factor))
        }
    };
    if !fits {
        invalid(at, ErrorKind::Invalid, n.text(), &format!("should be a multiple of {shown}"), out);
    }
}

/// `enum`. As upstream, null is never among the values, and numbers are compared after conversion to the listed
/// value's type.
fn values(v: &Value, node: &Node, at: &Loc<'_>, out: &mut Problems) {
    let Some(c) = node.checks.as_deref().filter(|c| !c.values.is_empty()) else { return };
    let listed = |x: &Value| match (x, v) {
        (Value::Null, _) => false,
        (Value::Number(x), Value::Number(v)) => match (Num::of(x), Num::of(v)) {
            (Num::Int(x), Num::Int(v)) => x == v,
            (Num::Int(x), Num::Float(v)) => v as i64 == x,
            (Num::Float(x), v) => v.float() == x,
        },
        (x, v) => x == v,
    };
    if c.values.iter().any(listed) {
        return;
    }
    let shown_value = |x: &Value| match x {
        Value::String(s) => quote(s),
        Value::Number(n) if n.is_i64() => quote(&n.to_string()),
        other => quote(&other.to_string()),
    };
    let list: Vec<String> = c.values.iter().map(shown_value).collect();
    let name = at.dotted();
    out.push(Problem {
        kind: ErrorKind::NotSupported,
        value: shown(v),
        detail: format!("supported values: {}", list.join(", ")),
        message: format!("{name} in body should be one of {}", list.join(" ")),
        name: Some(name),
    });
}

fn list(a: &[Value], node: &Node, at: &Loc<'_>, pair: Option<Pair<'_>>, out: &mut Problems) -> u64 {
    let mut passed = 0;
    if let Some(items) = node.items.as_deref() {
        let old = pair.and_then(|p| p.by_key().map(|k| (p, k)));
        for (i, x) in a.iter().enumerate() {
            // Lists that are no maps have no items to compare with.
            let inner = old.as_ref().and_then(|(_, by_key)| by_key.get(x).map(|o| Pair::new(x, o, items)));
            passed += walk(x, items, &at.index(i), inner, out);
        }
    }
    let Some(c) = node.checks.as_deref() else { return passed };
    let size = a.len() as i64;
    if let Some(min) = c.min_items
        && size < min
    {
        let what = format!("should have at least {min} items");
        invalid(at, ErrorKind::Invalid, size.to_string(), &what, out);
    }
    if let Some(max) = c.max_items
        && size > max
    {
        too_many(at, size, max, "items", out);
    }
    if c.unique_items {
        let mut seen = HashSet::new();
        if !a.iter().all(|x| seen.insert(x.to_string())) {
            invalid(at, ErrorKind::Invalid, "\"\"".into(), "shouldn't contain duplicates", out);
        }
    }
    passed
}

fn too_many(at: &Loc<'_>, size: i64, max: i64, what: &str, out: &mut Problems) {
    let unit = if max == 1 { "item" } else { "items" };
    let detail = if max >= 0 {
        format!("{size}: must have at most {max} {unit}")
    } else {
        format!("{size}: has too many items")
    };
    let name = at.dotted();
    let message = format!("{name} in body should have at most {max} {what}");
    out.push(Problem { name: Some(name), kind: ErrorKind::TooMany, value: String::new(), detail, message });
}

fn object(
    m: &Map<String, Value>,
    node: &Node,
    at: &Loc<'_>,
    pair: Option<Pair<'_>>,
    out: &mut Problems,
) -> u64 {
    let mut passed = 0;
    let size = m.len() as i64;
    let c = node.checks.as_deref();
    if let Some(min) = c.and_then(|c| c.min_properties)
        && size < min
    {
        let what = format!("should have at least {min} properties");
        invalid(at, ErrorKind::Invalid, size.to_string(), &what, out);
    }
    if let Some(max) = c.and_then(|c| c.max_properties)
        && size > max
    {
        too_many(at, size, max, "properties", out);
    }
    // The versions that `apiVersion` and `kind` had are not to be seen, so they are always checked.
    let inner_pair = |k: &str| {
        pair.filter(|_| !(at.is_root() && matches!(k, "apiVersion" | "kind"))).and_then(|p| p.field(k))
    };
    match &node.additional {
        Additional::Absent | Additional::Allowed(true) => {}
        Additional::Allowed(false) => {
            for k in m.keys().filter(|k| node.property(k).is_none()) {
                let name = at.dotted();
                let message = format!("{name}.{k} in body is a forbidden property");
                out.push(Problem {
                    name: Some(name),
                    kind: ErrorKind::Invalid,
                    value: quote(k),
                    detail: message.clone(),
                    message,
                });
            }
        }
        Additional::Schema(inner) => {
            for (k, x) in m.iter().filter(|(k, _)| node.property(k).is_none()) {
                passed += walk(x, inner, &at.key(k), inner_pair(k), out);
            }
        }
    }
    // The shorter of the two lists is walked.
    if node.properties.len() <= m.len() {
        for (k, inner) in &node.properties {
            if let Some(x) = m.get(*k) {
                passed += walk(x, inner, &at.field(k), inner_pair(k), out);
            }
        }
    } else {
        for (k, x) in m {
            if let Some(inner) = node.property(k) {
                passed += walk(x, inner, &at.field(k), inner_pair(k), out);
            }
        }
    }
    for k in c.map_or(&[][..], |c| &c.required) {
        if !m.contains_key(&**k) {
            let name = at.key(k).dotted();
            let message = format!("{name} in body is required");
            out.push(Problem {
                name: Some(name),
                kind: ErrorKind::Required,
                value: String::new(),
                detail: String::new(),
                message,
            });
        }
    }
    passed
}

/// Failures of the alternative in which most checks passed.
#[derive(Default)]
struct Best {
    passed: u64,
    problems: Option<Problems>,
}

impl Best {
    fn offer(&mut self, passed: u64, problems: Problems) {
        if self.problems.is_none() || passed > self.passed {
            *self = Self { passed, problems: Some(problems) };
        }
    }

    fn tell(self, out: &mut Problems) -> u64 {
        match self.problems {
            Some(p) => {
                out.extend(p);
                self.passed
            }
            None => 0,
        }
    }
}

/// Inside of junctors nothing is ratcheted, as upstream.
fn junctors(v: &Value, j: &Junctors, at: &Loc<'_>, out: &mut Problems) -> u64 {
    let mut total = 0;
    let name = || quote(&at.dotted());
    if !j.any_of.is_empty() {
        let mut best = Best::default();
        let mut success = None;
        for n in &j.any_of {
            let mut problems = Vec::new();
            let passed = walk(v, n, at, None, &mut problems);
            if problems.is_empty() {
                success = Some(passed);
                break;
            }
            best.offer(passed, problems);
        }
        match success {
            Some(passed) => total += passed,
            None => {
                sentence(format!("{} must validate at least one schema (anyOf)", name()), out);
                total += best.tell(out);
            }
        }
    }
    if !j.one_of.is_empty() {
        let mut best = Best::default();
        let mut success = None;
        let mut valid = 0;
        for n in &j.one_of {
            let mut problems = Vec::new();
            let passed = walk(v, n, at, None, &mut problems);
            if problems.is_empty() {
                valid += 1;
                success.get_or_insert(passed);
                best = Best::default();
            } else if valid == 0 {
                best.offer(passed, problems);
            }
        }
        match (valid, success) {
            (1, Some(passed)) => total += passed,
            _ => {
                let found = match valid {
                    0 => "Found none valid".to_owned(),
                    n => format!("Found {n} valid alternatives"),
                };
                sentence(format!("{} must validate one and only one schema (oneOf). {found}", name()), out);
                total += best.tell(out);
            }
        }
    }
    if !j.all_of.is_empty() {
        let mut valid = 0;
        for n in &j.all_of {
            let before = out.len();
            total += walk(v, n, at, None, out);
            valid += usize::from(out.len() == before);
        }
        if valid != j.all_of.len() {
            let none = if valid == 0 { ". None validated" } else { "" };
            sentence(format!("{} must validate all the schemas (allOf){none}", name()), out);
        }
    }
    if let Some(n) = &j.not {
        let mut problems = Vec::new();
        walk(v, n, at, None, &mut problems);
        if problems.is_empty() {
            sentence(format!("{} must not validate the schema (not)", name()), out);
        }
    }
    total
}
