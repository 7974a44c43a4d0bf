//! What changed between two values, as sets of paths.

use std::borrow::Cow;
use std::collections::BTreeMap;

use proto::schema::{Field, ListDef};
use serde_json::{Map, Value};

use super::ty::absent;
use super::{Atom, Set, Ty, item_element, view};

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
    from_root(Side::plain(Some(old)), Side::plain(Some(new)), ty)
}

/// The same of two values as [`view`] shows them, without making those views.
pub fn compare_shown(old: &Value, new: &Value, ty: Ty<'_>) -> Comparison {
    from_root(Side { value: Some(old), shown: true }, Side { value: Some(new), shown: true }, ty)
}

fn from_root(old: Side<'_>, new: Side<'_>, ty: Ty<'_>) -> Comparison {
    let mut c = Comparison::default();
    node(old, new, ty, Step::Root, &mut c);
    c
}

/// One of the two values.
#[derive(Clone, Copy)]
struct Side<'v> {
    value: Option<&'v Value>,
    /// Structures have the fields too that [`view`] adds.
    shown: bool,
}

impl<'v> Side<'v> {
    fn plain(value: Option<&'v Value>) -> Self {
        Self { value, shown: false }
    }

    fn with(self, value: Option<&'v Value>) -> Self {
        Self { value, ..self }
    }

    /// What is in it, or else what is shown instead: that is a view already.
    fn within<'x>(self, value: Option<&'x Value>, absent: Option<&'x Value>) -> Side<'x> {
        match value {
            Some(_) => Side { value, shown: self.shown },
            None => Side::plain(absent),
        }
    }

    fn items(self) -> &'v [Value] {
        self.value.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    }

    fn field(self, name: &str) -> Option<&'v Value> {
        self.value.and_then(Value::as_object).and_then(|m| m.get(name))
    }

    fn keys(self) -> impl Iterator<Item = &'v String> {
        self.value.and_then(Value::as_object).into_iter().flat_map(Map::keys)
    }

    /// The value of a field that is not there but shown.
    fn absent(self, f: &Field) -> Option<Value> {
        self.value.filter(|v| self.shown && v.is_object()).and_then(|_| absent(f))
    }

    /// The value itself, as it is shown.
    fn whole(self, ty: Ty<'_>) -> Option<Cow<'v, Value>> {
        match (self.value, ty) {
            (Some(v), Ty::Def(d)) if self.shown => Some(Cow::Owned(view(v, d))),
            (v, _) => v.map(Cow::Borrowed),
        }
    }
}

/// What leads from a value to one within it.
#[derive(Clone, Copy)]
enum Step<'a> {
    /// To the outermost value, which has no path.
    Root,
    Field(&'a str),
    /// An item of a list, by its path element.
    Item(&'a str),
}

impl Step<'_> {
    fn element(self) -> Option<String> {
        match self {
            Self::Root => None,
            Self::Field(name) => Some(["f:", name].concat()),
            Self::Item(element) => Some(element.to_owned()),
        }
    }
}

impl Set {
    fn at(&mut self, step: Step<'_>) {
        if let Some(e) = step.element() {
            self.add(e);
        }
    }

    fn below_step(&mut self, step: Step<'_>, below: Self) {
        if below.is_empty() {
            return;
        }
        match step.element() {
            Some(e) => self.nest(e, below),
            None => *self = std::mem::take(self).union(below),
        }
    }
}

fn node(l: Side<'_>, r: Side<'_>, ty: Ty<'_>, step: Step<'_>, c: &mut Comparison) {
    let is_leaf = match (l.value, r.value) {
        (None, None) => return,
        (Some(a), Some(b)) if a == b => return,
        (Some(a), Some(b)) => {
            // Where the type leaves it open, both sides say what they are.
            let (la, ra) = (ty.atom(Some(a)), ty.atom(Some(b)));
            if std::mem::discriminant(&la) == std::mem::discriminant(&ra) {
                inside(ra, l, r, (ty, step), c)
            } else {
                if !matches!(la, Atom::Scalar) {
                    inside(la, l, Side::plain(None), (ty, step), c);
                }
                leaf(l, r, (ty, step), c);
                true
            }
        }
        (one, other) => inside(ty.atom(one.or(other)), l, r, (ty, step), c),
    };
    if !is_leaf {
        if l.value.is_none() {
            c.added.at(step);
        } else if r.value.is_none() {
            c.removed.at(step);
        }
    }
}

fn leaf(l: Side<'_>, r: Side<'_>, (ty, step): (Ty<'_>, Step<'_>), c: &mut Comparison) {
    match (l.value, r.value) {
        (None, _) => c.added.at(step),
        (_, None) => c.removed.at(step),
        (Some(a), Some(b)) if a != b && l.whole(ty) != r.whole(ty) => c.modified.at(step),
        _ => {}
    }
}

/// Goes into a value; true when it was treated as a leaf.
fn inside(
    atom: Atom<'_>,
    l: Side<'_>,
    r: Side<'_>,
    (ty, step): (Ty<'_>, Step<'_>),
    c: &mut Comparison,
) -> bool {
    let mut below = Comparison::default();
    let empty = match atom {
        Atom::Scalar | Atom::List(None) | Atom::Map { atomic: true } => true,
        Atom::List(Some(list)) => items(list, l, r, &mut below),
        Atom::Map { atomic: false } => fields(l, r, ty, &mut below),
    };
    if empty {
        leaf(l, r, (ty, step), c);
    } else {
        c.removed.below_step(step, below.removed);
        c.modified.below_step(step, below.modified);
        c.added.below_step(step, below.added);
    }
    empty
}

/// The items of two lists; true when there are none.
fn items(list: &ListDef, l: Side<'_>, r: Side<'_>, c: &mut Comparison) -> bool {
    /// The items of one key in one list.
    #[derive(Clone, Copy, Default)]
    struct Found<'v> {
        first: Option<&'v Value>,
        several: bool,
    }
    let (a, b) = (l.items(), r.items());
    if a.is_empty() && b.is_empty() {
        return true;
    }
    let mut found: BTreeMap<String, [Found<'_>; 2]> = BTreeMap::new();
    for (side, items) in [a, b].into_iter().enumerate() {
        for item in items {
            let Ok(element) = item_element(list, item) else { continue };
            let f = &mut found.entry(element).or_default()[side];
            f.several = f.first.is_some();
            f.first = f.first.or(Some(item));
        }
    }
    let elem = Ty::Def(&list.elem);
    for (e, [old, new]) in &found {
        let step = Step::Item(e);
        match (old.several, new.several) {
            (false, false) => node(l.with(old.first), r.with(new.first), elem, step, c),
            (false, true) => {
                if old.first.is_some() {
                    node(l.with(old.first), Side::plain(None), elem, step, c);
                }
                c.added.at(step);
            }
            (true, false) => {
                if new.first.is_some() {
                    node(Side::plain(None), r.with(new.first), elem, step, c);
                }
                c.removed.at(step);
            }
            (true, true) => {
                let all = |side: Side<'_>| -> Vec<Value> {
                    let own = |i: &&Value| item_element(list, i).is_ok_and(|x| x == *e);
                    let of = side.items().iter().filter(own);
                    of.filter_map(|i| side.with(Some(i)).whole(elem).map(Cow::into_owned)).collect()
                };
                if all(l) != all(r) {
                    c.modified.at(step);
                }
            }
        }
    }
    false
}

/// The fields of two structures or the entries of two maps; true when there are none.
fn fields(l: Side<'_>, r: Side<'_>, ty: Ty<'_>, c: &mut Comparison) -> bool {
    let mut empty = true;
    for k in l.keys().chain(r.keys().filter(|k| l.field(k).is_none())) {
        empty = false;
        let (a, b) = (l.field(k), r.field(k));
        let absent = match (a, b, ty.declared(k)) {
            (None, _, Some(f)) => l.absent(f),
            (_, None, Some(f)) => r.absent(f),
            _ => None,
        };
        let absent = absent.as_ref();
        node(l.within(a, absent), r.within(b, absent), ty.child(k).0, Step::Field(k), c);
    }
    // What both only show is the same; what one of them shows and the other has not at all was seen above or is new.
    for f in ty.fields() {
        if l.field(f.json).is_some() || r.field(f.json).is_some() {
            continue;
        }
        let (a, b) = (l.absent(f), r.absent(f));
        empty &= a.is_none() && b.is_none();
        node(Side::plain(a.as_ref()), Side::plain(b.as_ref()), Ty::Def(&f.ty), Step::Field(f.json), c);
    }
    empty
}
