//! The JSONPath that printer columns and selectable fields use: kubectl's dialect without templates. Fields,
//! indexes, slices, wildcards, recursive descent, and filters that compare one path with a literal or another path.
//!
//! Source: Kubernetes reference, "JSONPath Support". Paths come from definitions, which only administrators write;
//! even so they are bounded in length by validation and evaluated without recursion on user data but for `..`.

use serde_json::Value;

/// Deeper than this `..` does not look.
const MAX_DEPTH: usize = 64;

/// A parsed path.
#[derive(Debug, Clone, PartialEq)]
pub struct Path(Vec<Step>);

#[derive(Debug, Clone, PartialEq)]
enum Step {
    Field(String),
    Index(i64),
    Slice(Option<i64>, Option<i64>, i64),
    All,
    Descend,
    Filter(Operand, Option<(Compare, Operand)>),
}

#[derive(Debug, Clone, PartialEq)]
enum Operand {
    /// Relative to the element.
    Path(Path),
    Literal(Value),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compare {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

impl Path {
    /// Parses a path like `.status.conditions[?(@.type=="Ready")].status`.
    ///
    /// # Errors
    /// What cannot be understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let text = text.strip_prefix('$').unwrap_or(text);
        let mut p = Parser { text, at: 0 };
        let steps = p.steps()?;
        match p.rest() {
            "" => Ok(Self(steps)),
            rest => Err(format!("unexpected {rest:?}")),
        }
    }

    /// Everything the path leads to. Absent fields lead to nothing.
    ///
    /// # Errors
    /// An index outside of a list, or something that is no list.
    pub fn find<'a>(&self, root: &'a Value) -> Result<Vec<&'a Value>, String> {
        let mut now = vec![root];
        for step in &self.0 {
            let mut next = Vec::new();
            for v in now {
                step.follow(v, &mut next)?;
            }
            now = next;
        }
        Ok(now)
    }
}

impl Step {
    fn follow<'a>(&self, v: &'a Value, out: &mut Vec<&'a Value>) -> Result<(), String> {
        let list = || v.as_array().ok_or_else(|| "it is not array or slice".to_owned());
        match self {
            Self::Field(name) => out.extend(v.get(name.as_str())),
            Self::Index(_) | Self::Slice(..) if v.is_null() => {}
            Self::Index(i) => {
                let a = list()?;
                let at = if *i < 0 { i + a.len() as i64 } else { *i };
                let item = usize::try_from(at).ok().and_then(|at| a.get(at));
                out.push(
                    item.ok_or_else(|| format!("array index out of bounds: index {i}, length {}", a.len()))?,
                );
            }
            Self::Slice(from, to, step) => {
                let a = list()?;
                let len = a.len() as i64;
                let bound = |i: i64| if i < 0 { (i + len).max(0) } else { i.min(len) };
                let (from, to) = (bound(from.unwrap_or(0)), bound(to.unwrap_or(len)));
                let mut i = from;
                while i < to {
                    out.extend(usize::try_from(i).ok().and_then(|i| a.get(i)));
                    i += step;
                }
            }
            Self::All => match v {
                Value::Array(a) => out.extend(a),
                Value::Object(m) => out.extend(m.values()),
                _ => {}
            },
            Self::Descend => descend(v, 0, out),
            Self::Filter(left, rest) => {
                for item in list()? {
                    let holds = match rest {
                        None => left.value(item).is_some(),
                        Some((op, right)) => match (left.value(item), right.value(item)) {
                            (Some(l), Some(r)) => op.holds(l, r),
                            _ => false,
                        },
                    };
                    if holds {
                        out.push(item);
                    }
                }
            }
        }
        Ok(())
    }
}

fn descend<'a>(v: &'a Value, depth: usize, out: &mut Vec<&'a Value>) {
    out.push(v);
    if depth == MAX_DEPTH {
        return;
    }
    match v {
        Value::Array(a) => a.iter().for_each(|x| descend(x, depth + 1, out)),
        Value::Object(m) => m.values().for_each(|x| descend(x, depth + 1, out)),
        _ => {}
    }
}

impl Operand {
    fn value<'a>(&'a self, item: &'a Value) -> Option<&'a Value> {
        match self {
            Self::Literal(v) => Some(v),
            Self::Path(p) => p.find(item).ok()?.first().copied(),
        }
    }
}

impl Compare {
    fn holds(self, l: &Value, r: &Value) -> bool {
        use std::cmp::Ordering;
        let order = match (l, r) {
            (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
            (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
            (Value::Number(a), Value::Number(b)) => {
                a.as_f64().zip(b.as_f64()).and_then(|(a, b)| a.partial_cmp(&b))
            }
            _ => None,
        };
        match (self, order) {
            (Self::NotEqual, o) => o != Some(Ordering::Equal),
            (_, None) => false,
            (Self::Equal, Some(o)) => o.is_eq(),
            (Self::Less, Some(o)) => o.is_lt(),
            (Self::LessOrEqual, Some(o)) => o.is_le(),
            (Self::Greater, Some(o)) => o.is_gt(),
            (Self::GreaterOrEqual, Some(o)) => o.is_ge(),
        }
    }
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    fn eat(&mut self, token: &str) -> bool {
        let there = self.rest().starts_with(token);
        if there {
            self.at += token.len();
        }
        there
    }

    fn spaces(&mut self) {
        self.at += self.rest().len() - self.rest().trim_start().len();
    }

    fn steps(&mut self) -> Result<Vec<Step>, String> {
        let mut out = Vec::new();
        loop {
            if self.eat("..") {
                out.push(Step::Descend);
                if !self.rest().starts_with('[') {
                    self.field(&mut out)?;
                }
            } else if self.eat(".") {
                // A dot alone is the whole object.
                if !self.rest().is_empty() && !self.rest().starts_with('[') {
                    self.field(&mut out)?;
                }
            } else if self.eat("[") {
                let step = self.brackets()?;
                out.push(step);
            } else {
                return Ok(out);
            }
        }
    }

    fn field(&mut self, out: &mut Vec<Step>) -> Result<(), String> {
        if self.eat("*") {
            out.push(Step::All);
            return Ok(());
        }
        let mut name = String::new();
        let mut escaped = false;
        let mut length = 0;
        for c in self.rest().chars() {
            if escaped {
                name.push(c);
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if ".[]()=!<>, \t'\"@?".contains(c) {
                break;
            } else {
                name.push(c);
            }
            length += c.len_utf8();
        }
        self.at += length;
        if name.is_empty() || escaped {
            return Err(format!("a field name is missing before {:?}", self.rest()));
        }
        out.push(Step::Field(name));
        Ok(())
    }

    fn brackets(&mut self) -> Result<Step, String> {
        self.spaces();
        let step = if self.eat("*") {
            Step::All
        } else if self.eat("?(") {
            self.filter()?
        } else if let Some(s) = self.quoted()? {
            Step::Field(s)
        } else {
            self.index()?
        };
        self.spaces();
        if self.eat("]") { Ok(step) } else { Err("unterminated array".to_owned()) }
    }

    fn index(&mut self) -> Result<Step, String> {
        let end = self.rest().find(']').ok_or("unterminated array")?;
        let inside = &self.rest()[..end];
        self.at += end;
        let number = |t: &str| match t.trim() {
            "" => Ok(None),
            t => t.parse::<i64>().map(Some).map_err(|_| format!("invalid array index {inside}")),
        };
        let parts: Vec<&str> = inside.split(':').collect();
        match parts.as_slice() {
            [one] => match number(one)? {
                Some(i) => Ok(Step::Index(i)),
                None => Err(format!("invalid array index {inside}")),
            },
            [from, to] => Ok(Step::Slice(number(from)?, number(to)?, 1)),
            [from, to, step] => match number(step)?.unwrap_or(1) {
                step if step > 0 => Ok(Step::Slice(number(from)?, number(to)?, step)),
                _ => Err("step must be > 0".to_owned()),
            },
            _ => Err(format!("invalid array index {inside}")),
        }
    }

    fn filter(&mut self) -> Result<Step, String> {
        let left = self.operand()?;
        self.spaces();
        let ops = [
            ("==", Compare::Equal),
            ("!=", Compare::NotEqual),
            ("<=", Compare::LessOrEqual),
            (">=", Compare::GreaterOrEqual),
            ("<", Compare::Less),
            (">", Compare::Greater),
        ];
        let op = ops.iter().find(|(t, _)| self.rest().starts_with(t));
        let rest = match op {
            Some((t, op)) => {
                self.at += t.len();
                Some((*op, self.operand()?))
            }
            None => None,
        };
        self.spaces();
        if self.eat(")") { Ok(Step::Filter(left, rest)) } else { Err("unterminated filter".to_owned()) }
    }

    fn operand(&mut self) -> Result<Operand, String> {
        self.spaces();
        if self.eat("@") {
            return Ok(Operand::Path(Path(self.steps()?)));
        }
        if let Some(s) = self.quoted()? {
            return Ok(Operand::Literal(Value::String(s)));
        }
        let end = self.rest().find([')', ' ', '=', '!', '<', '>']).unwrap_or(self.rest().len());
        let word = &self.rest()[..end];
        self.at += end;
        match serde_json::from_str(word) {
            Ok(v @ (Value::Number(_) | Value::Bool(_))) => Ok(Operand::Literal(v)),
            _ => Err(format!("unrecognized operand {word:?} in a filter")),
        }
    }

    fn quoted(&mut self) -> Result<Option<String>, String> {
        let Some(q) = self.rest().chars().next().filter(|c| matches!(c, '\'' | '"')) else { return Ok(None) };
        let mut out = String::new();
        let mut escaped = false;
        for (i, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => {
                    out.push(c);
                    escaped = false;
                }
                '\\' => escaped = true,
                c if c == q => {
                    self.at += i + 1;
                    return Ok(Some(out));
                }
                c => out.push(c),
            }
        }
        Err("unterminated quoted string".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn paths_lead_to_values() {
        let o = json!({"spec": {"a.b": 1, "list": [{"n": "x", "v": 1}, {"n": "y", "v": 2}]}, "status": {"n": "z"}});
        for (path, found) in [
            (".spec['a.b']", json!([1])),
            (".spec.a\\.b", json!([1])),
            ("$.spec.list[0].n", json!(["x"])),
            (".spec.list[-1].v", json!([2])),
            (".spec.list[*].n", json!(["x", "y"])),
            (".spec.list[0:1].n", json!(["x"])),
            (".spec.list[?(@.n==\"y\")].v", json!([2])),
            (".spec.list[?(@.v >= 1)].n", json!(["x", "y"])),
            (".spec.list[?(@.n != 'x')].n", json!(["y"])),
            (".spec.list[?(@.none)].n", json!([])),
            (".spec.none.deeper", json!([])),
            ("..n", json!(["x", "y", "z"])),
        ] {
            let p = Path::parse(path).expect(path);
            assert_eq!(json!(p.find(&o).expect(path)), found, "{path}");
        }
        assert!(Path::parse(".spec.list[5]").expect("a path").find(&o).is_err());
    }

    #[test]
    fn what_is_no_path_is_refused() {
        for bad in [".spec[", ".spec[x]", "spec", ".a b", ".spec[?(@.a=)]", ".spec['a", ".", "..", ".a[::0]"]
        {
            let parsed = Path::parse(bad);
            assert!(parsed.is_err() || bad == ".", "{bad}: {parsed:?}");
        }
    }
}
