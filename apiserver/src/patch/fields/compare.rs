//! What changed between two values, as sets of paths.

use serde_json::{Map, Value};

use super::{Atom, Set, Ty, item_element};

/// The three ways a field can differ.
#[derive(Debug, Clone, Default)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    /// Whether the two were the same.
    pub fn is_same(&self) -> bool {
        self.removed.is_empty() && self.modified.is_empty() && self.added.is_empty()
    }

    /// The same without the paths in `reset` and below.
    #[must_use]
    pub fn without(self, reset: &Set) -> Self {
        Self {
            removed: self.removed.without(reset),
            modified: self.modified.without(reset),
            added: self.added.without(reset),
        }
    }
}

/// Compares two values of one type.
pub fn compare(old: &Value, new: &Value, ty: Ty<'_>) -> Comparison {
    let mut c = Comparison::default();
    node(Some(old), Some(new), ty, &mut Vec::new(), &mut c);
    c
}

fn node(l: Option<&Value>, r: Option<&Value>, ty: Ty<'_>, path: &mut Vec<String>, c: &mut Comparison) {
    let leaf = match (l, r) {
        (None, None) => return,
        (Some(a), Some(b)) => {
            // Where the type leaves it open, both sides say what they are.
            let (la, ra) = (ty.atom(Some(a)), ty.atom(Some(b)));
            if std::mem::discriminant(&la) == std::mem::discriminant(&ra) {
                inside(ra, l, r, ty, path, c)
            } else {
                if !matches!(la, Atom::Scalar) {
                    inside(la, l, None, ty, path, c);
                }
                leaf(l, r, path, c);
                true
            }
        }
        (one, other) => inside(ty.atom(one.or(other)), l, r, ty, path, c),
    };
    if !leaf {
        if l.is_none() {
            c.added.insert(path);
        } else if r.is_none() {
            c.removed.insert(path);
        }
    }
}

fn leaf(l: Option<&Value>, r: Option<&Value>, path: &[String], c: &mut Comparison) {
    match (l, r) {
        (None, _) => c.added.insert(path),
        (_, None) => c.removed.insert(path),
        (Some(a), Some(b)) if a != b => c.modified.insert(path),
        _ => {}
    }
}

/// Goes into a value; true when it was treated as a leaf.
fn inside<'v>(
    atom: Atom<'_>,
    l: Option<&'v Value>,
    r: Option<&'v Value>,
    ty: Ty<'_>,
    path: &mut Vec<String>,
    c: &mut Comparison,
) -> bool {
    match atom {
        Atom::Scalar | Atom::List(None) | Atom::Map { atomic: true } => {
            leaf(l, r, path, c);
            true
        }
        Atom::List(Some(list)) => {
            let items =
                |v: Option<&'v Value>| v.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
            let (a, b) = (items(l), items(r));
            if a.is_empty() && b.is_empty() {
                leaf(l, r, path, c);
                return true;
            }
            let mut order: Vec<String> = Vec::new();
            let mut index = |items: &[Value]| {
                let mut map: std::collections::BTreeMap<String, Vec<usize>> = Default::default();
                for (i, item) in items.iter().enumerate() {
                    if let Ok(e) = item_element(list, item) {
                        if !order.contains(&e) {
                            order.push(e.clone());
                        }
                        map.entry(e).or_default().push(i);
                    }
                }
                map
            };
            let (la, lb) = (index(a), index(b));
            for e in order {
                let at = |m: &std::collections::BTreeMap<String, Vec<usize>>| {
                    m.get(&e).cloned().unwrap_or_default()
                };
                let (ia, ib) = (at(&la), at(&lb));
                let (first, second) = (ia.first().map(|i| &a[*i]), ib.first().map(|i| &b[*i]));
                path.push(e.clone());
                match (ia.len(), ib.len()) {
                    (0 | 1, 0 | 1) => node(first, second, Ty::Def(&list.elem), path, c),
                    (0 | 1, _) => {
                        if first.is_some() {
                            node(first, None, Ty::Def(&list.elem), path, c);
                        }
                        c.added.insert(path);
                    }
                    (_, 0 | 1) => {
                        if second.is_some() {
                            node(None, second, Ty::Def(&list.elem), path, c);
                        }
                        c.removed.insert(path);
                    }
                    _ => {
                        let same = ia.len() == ib.len() && ia.iter().zip(&ib).all(|(x, y)| a[*x] == b[*y]);
                        if !same {
                            c.modified.insert(path);
                        }
                    }
                }
                path.pop();
            }
            false
        }
        Atom::Map { atomic: false } => {
            let none = Map::new();
            let (a, b) = (
                l.and_then(Value::as_object).unwrap_or(&none),
                r.and_then(Value::as_object).unwrap_or(&none),
            );
            if a.is_empty() && b.is_empty() {
                leaf(l, r, path, c);
                return true;
            }
            for k in a.keys().chain(b.keys().filter(|k| !a.contains_key(*k))) {
                let (child, _) = ty.child(k);
                path.push(["f:", k].concat());
                node(a.get(k), b.get(k), child, path, c);
                path.pop();
            }
            false
        }
    }
}
