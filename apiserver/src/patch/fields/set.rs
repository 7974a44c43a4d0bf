//! Sets of field paths in the `FieldsV1` form.
//!
//! A path element is kept as `FieldsV1` writes it (`f:name`, `k:{"name":"x"}`, `v:"x"`, `i:0`), so that
//! reading, writing and comparing sets needs no conversion.

use std::collections::{BTreeMap, BTreeSet};

use proto::schema::{Kind, TypeDef};
use serde_json::{Map, Value};

use super::Ty;

/// A set of paths: those that end here (`members`) and those that go on (`children`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Set {
    members: BTreeSet<String>,
    children: BTreeMap<String, Set>,
}

impl Set {
    /// The set with these dotted paths of plain field names.
    pub fn of(paths: &[&str]) -> Self {
        let mut s = Self::default();
        for p in paths {
            let path: Vec<String> = p.split('.').map(|n| format!("f:{n}")).collect();
            s.insert(&path);
        }
        s
    }

    /// Whether it has no path.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty() && self.children.values().all(Self::is_empty)
    }

    /// Adds a path; the empty path is none.
    pub fn insert(&mut self, path: &[String]) {
        match path {
            [] => {}
            [last] => {
                self.members.insert(last.clone());
            }
            [head, tail @ ..] => match self.children.get_mut(head) {
                Some(c) => c.insert(tail),
                None => self.children.entry(head.clone()).or_default().insert(tail),
            },
        }
    }

    /// Adds the path of this one element.
    pub(super) fn add(&mut self, element: String) {
        self.members.insert(element);
    }

    /// Adds paths below an element that had none.
    pub(super) fn nest(&mut self, element: String, below: Self) {
        self.children.insert(element, below);
    }

    /// Whether that very path is in it.
    pub fn has(&self, path: &[String]) -> bool {
        match path {
            [] => false,
            [last] => self.members.contains(last),
            [head, tail @ ..] => self.children.get(head).is_some_and(|c| c.has(tail)),
        }
    }

    /// The elements at which paths end.
    pub fn elements(&self) -> impl Iterator<Item = &str> {
        self.members.iter().map(String::as_str)
    }

    /// The elements at which paths go on, with what lies below.
    pub fn nested(&self) -> impl Iterator<Item = (&str, &Self)> {
        self.children.iter().map(|(e, below)| (e.as_str(), below))
    }

    /// Whether a path ends at this element.
    pub fn has_member(&self, element: &str) -> bool {
        self.members.contains(element)
    }

    /// What lies below this element, if anything.
    pub fn below(&self, element: &str) -> Option<&Self> {
        self.children.get(element).filter(|c| !c.is_empty())
    }

    /// Paths in either.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        if self.members.is_empty() && self.children.is_empty() {
            return other;
        }
        self.members.extend(other.members);
        for (k, c) in other.children {
            let mine = self.children.entry(k).or_default();
            *mine = std::mem::take(mine).union(c);
        }
        self
    }

    /// Paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut out = Self::default();
        out.members.extend(self.members.intersection(&other.members).cloned());
        for (k, c) in &self.children {
            if let Some(o) = other.children.get(k) {
                let both = c.intersection(o);
                if !both.is_empty() {
                    out.children.insert(k.clone(), both);
                }
            }
        }
        out
    }

    /// Paths in this one only.
    #[must_use]
    pub fn difference(mut self, other: &Self) -> Self {
        self.subtract(other);
        self
    }

    /// Takes the paths of `other` out.
    pub fn subtract(&mut self, other: &Self) {
        for m in &other.members {
            self.members.remove(m);
        }
        self.children.retain(|k, c| {
            if let Some(o) = other.children.get(k) {
                c.subtract(o);
            }
            !c.is_empty()
        });
    }

    /// Paths that neither are in `other` nor lie below one that is.
    #[must_use]
    pub fn without(mut self, other: &Self) -> Self {
        self.prune(other);
        self
    }

    fn prune(&mut self, other: &Self) {
        for m in &other.members {
            self.members.remove(m);
        }
        self.children.retain(|k, c| {
            if other.members.contains(k) {
                return false;
            }
            if let Some(o) = other.children.get(k) {
                c.prune(o);
            }
            !c.is_empty()
        });
    }

    /// The same with every declared field on the way to a path a path of its own.
    #[must_use]
    pub fn with_named_fields(&self, ty: Ty<'_>) -> Self {
        let mut out = self.clone();
        for (k, c) in &self.children {
            let (child, declared) = match (k.strip_prefix("f:"), ty) {
                (Some(name), _) => ty.child(name),
                (None, Ty::Def(TypeDef { kind: Kind::List(l), .. })) => (Ty::Def(&l.elem), false),
                _ => (Ty::Deduced, false),
            };
            if declared {
                out.members.insert(k.clone());
            }
            out.children.insert(k.clone(), c.with_named_fields(child));
        }
        out
    }

    /// All paths, those that end at an element before those that go on.
    pub fn paths(&self) -> Vec<Vec<String>> {
        let mut out = Vec::new();
        self.walk(&mut Vec::new(), &mut out);
        out
    }

    fn walk(&self, path: &mut Vec<String>, out: &mut Vec<Vec<String>>) {
        for m in &self.members {
            let mut p = path.clone();
            p.push(m.clone());
            out.push(p);
        }
        for (k, c) in &self.children {
            path.push(k.clone());
            c.walk(path, out);
            path.pop();
        }
    }

    /// The `FieldsV1` form.
    pub fn to_fields(&self) -> Value {
        let mut out = Map::new();
        for m in &self.members {
            out.insert(m.clone(), Value::Object(Map::new()));
        }
        for (k, c) in self.children.iter().filter(|(_, c)| !c.is_empty()) {
            let mut below = c.to_fields();
            if let (true, Value::Object(o)) = (self.members.contains(k), &mut below) {
                o.insert(".".into(), Value::Object(Map::new()));
            }
            out.insert(k.clone(), below);
        }
        Value::Object(out)
    }

    /// Reads the `FieldsV1` form; `None` when it is malformed.
    pub fn from_fields(v: &Value) -> Option<Self> {
        let mut out = Self::default();
        for (k, below) in v.as_object()? {
            if k == "." {
                continue;
            }
            let element = element(k)?;
            let o = below.as_object()?;
            if o.is_empty() || o.contains_key(".") {
                out.members.insert(element.clone());
            }
            let child = Self::from_fields(below)?;
            if !child.is_empty() {
                out.children.insert(element, child);
            }
        }
        Some(out)
    }
}

/// Checks one element and brings it to the one form that equal elements share.
fn element(text: &str) -> Option<String> {
    let (kind, rest) = text.split_once(':')?;
    Some(match kind {
        "f" => text.to_owned(),
        "k" => {
            let v: Value = serde_json::from_str(rest).ok()?;
            v.as_object()?;
            format!("k:{v}")
        }
        "v" => format!("v:{}", serde_json::from_str::<Value>(rest).ok()?),
        "i" => format!("i:{}", rest.parse::<i64>().ok()?),
        _ => return None,
    })
}

/// A path as messages show it: `.spec.containers[name="x"].image`.
pub fn path_text(path: &[String]) -> String {
    let mut out = String::new();
    for e in path {
        match e.split_once(':') {
            Some(("f", name)) => {
                out.push('.');
                out.push_str(name);
            }
            Some(("k", keys)) => {
                let keys: Map<String, Value> = serde_json::from_str(keys).unwrap_or_default();
                let shown: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                out.push_str(&format!("[{}]", shown.join(",")));
            }
            Some(("v", v)) => out.push_str(&format!("[={v}]")),
            Some((_, i)) => out.push_str(&format!("[{i}]")),
            None => out.push_str(e),
        }
    }
    out
}
