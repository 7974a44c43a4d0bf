//! The most that an expression can cost, reckoned from the declared sizes of what it reads. Custom resource
//! definitions whose rules could cost too much are refused.
//!
//! Source: upstream's estimates. They decide what is accepted, so they follow upstream's numbers even where these look
//! odd (a number has size zero when it is a field, one otherwise).

use super::ast::{ACCUMULATOR, Expr, Fold, Kind, Literal};
use super::check::Facts;
use super::decl::{DeclType, Shape};
use super::types::{Object, Type, names};

mod calls;

/// From the least to the most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Estimate {
    pub min: u64,
    pub max: u64,
}

/// Sizes are reckoned in the same way.
type Size = Estimate;

const UNKNOWN: Size = Estimate { min: 0, max: u64::MAX };

impl Estimate {
    const fn fixed(n: u64) -> Self {
        Self { min: n, max: n }
    }

    fn plus(self, o: Self) -> Self {
        Self { min: self.min.saturating_add(o.min), max: self.max.saturating_add(o.max) }
    }

    fn times(self, o: Self) -> Self {
        Self { min: self.min.saturating_mul(o.min), max: self.max.saturating_mul(o.max) }
    }

    fn by(self, factor: f64) -> Self {
        Self { min: scaled(self.min, factor), max: scaled(self.max, factor) }
    }

    fn union(self, o: Self) -> Self {
        Self { min: self.min.min(o.min), max: self.max.max(o.max) }
    }
}

#[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn scaled(n: u64, factor: f64) -> u64 {
    // A cast saturates.
    (n as f64 * factor).ceil() as u64
}

/// Sizes of the keys and the values of a container.
#[derive(Debug, Clone, Copy)]
struct EntrySize {
    list: bool,
    key: Size,
    value: Size,
}

impl EntrySize {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// Where in the declared type a value comes from, if that is known.
type Place<'d> = Option<&'d DeclType>;

struct Local<'d> {
    name: Box<str>,
    place: Place<'d>,
    size: Option<Size>,
    entries: Option<EntrySize>,
}

struct Coster<'d> {
    facts: &'d Facts,
    root: &'d DeclType,
    locals: Vec<Local<'d>>,
    places: Vec<Place<'d>>,
    sizes: Vec<Option<Size>>,
    entries: Vec<Option<EntrySize>>,
}

/// What is known about an argument of a call.
#[derive(Clone, Copy)]
struct Arg<'a, 'd> {
    expr: &'a Expr,
    ty: &'a Type,
    place: Place<'d>,
    size: Option<Size>,
    cost: Estimate,
}

impl Arg<'_, '_> {
    fn size(&self) -> Size {
        self.size.unwrap_or(UNKNOWN)
    }
}

/// Keys of maps are strings of which nothing is known.
static KEY: DeclType = DeclType::scalar(Shape::String, 2);

fn size_of(d: &DeclType) -> Size {
    Size { min: 0, max: d.max_elements }
}

/// Estimates a checked expression whose variables all look like `root`.
pub(super) fn estimate(facts: &Facts, root: &DeclType) -> Estimate {
    let n = facts.types.len();
    let mut c = Coster {
        facts,
        root,
        locals: Vec::new(),
        places: vec![None; n],
        sizes: vec![None; n],
        entries: vec![None; n],
    };
    c.cost(&facts.root)
}

fn elements<'d>(place: Place<'d>) -> Place<'d> {
    match &place?.shape {
        Shape::List(of, _) | Shape::Map(of) => Some(of),
        _ => None,
    }
}

impl<'d> Coster<'d> {
    fn ty(&self, e: &Expr) -> &'d Type {
        &self.facts.types[e.id as usize]
    }

    fn local(&self, name: &str) -> Option<&Local<'d>> {
        self.locals.iter().rev().find(|l| &*l.name == name)
    }

    fn place(&self, e: &Expr) -> Place<'d> {
        match &e.kind {
            Kind::Ident(name) => match self.local(name) {
                Some(l) => l.place,
                None => self.places[e.id as usize],
            },
            _ => self.places[e.id as usize],
        }
    }

    fn cost(&mut self, e: &'d Expr) -> Estimate {
        match &e.kind {
            Kind::Literal(_) => Estimate::fixed(0),
            Kind::Ident(name) => {
                let place = match self.local(name) {
                    Some(l) => l.place,
                    None => Some(self.root),
                };
                self.places[e.id as usize] = place;
                Estimate::fixed(1)
            }
            Kind::Select { operand, field, test } => self.select(e, operand, field, *test),
            Kind::Call { function, target, args } => self.call(e, function, target.as_deref(), args),
            Kind::List(elements) => {
                let mut sum = Estimate::fixed(10);
                let mut item =
                    if elements.is_empty() { Size::fixed(0) } else { Size { min: u64::MAX, max: 0 } };
                for x in elements {
                    sum = sum.plus(self.cost(&x.value));
                    item = item.union(self.size_or_unknown(&x.value));
                }
                self.entries[e.id as usize] =
                    Some(EntrySize { list: true, key: Size::fixed(1), value: item });
                sum
            }
            Kind::Map(entries) => {
                let mut sum = Estimate::fixed(30);
                let none = if entries.is_empty() { Size::fixed(0) } else { Size { min: u64::MAX, max: 0 } };
                let (mut key, mut value) = (none, none);
                for x in entries {
                    sum = sum.plus(self.cost(&x.key)).plus(self.cost(&x.value));
                    key = key.union(self.size_or_unknown(&x.key));
                    value = value.union(self.size_or_unknown(&x.value));
                }
                self.entries[e.id as usize] = Some(EntrySize { list: false, key, value });
                sum
            }
            Kind::Struct { fields, .. } => {
                fields.iter().fold(Estimate::fixed(40), |sum, f| sum.plus(self.cost(&f.value)))
            }
            Kind::Fold(f) if f.is_bind() => self.bind(e, f),
            Kind::Fold(f) => self.fold(e, f),
        }
    }

    fn select(&mut self, e: &Expr, operand: &'d Expr, field: &str, test: bool) -> Estimate {
        let cost = self.cost(operand);
        if test {
            return cost;
        }
        let place = self.place(operand).and_then(|d| match &d.shape {
            Shape::Object(o) => o.field(field).map(|f| &f.ty),
            // Values of which nothing but the largest size is known, whatever their name: attributes of devices.
            Shape::Map(of) if matches!(of.shape, Shape::Dyn) && of.max_elements > 0 => Some(&**of),
            _ => None,
        });
        self.places[e.id as usize] = place;
        match self.ty(operand) {
            Type::Map(_) | Type::Object(_) | Type::Var(_) => cost.plus(Estimate::fixed(1)),
            _ => cost,
        }
    }

    fn size(&mut self, e: &Expr) -> Option<Size> {
        if let Some(s) = self.sizes[e.id as usize] {
            return Some(s);
        }
        let literal = match &e.kind {
            Kind::Literal(Literal::String(s)) => Some(s.chars().count() as u64),
            Kind::Literal(Literal::Bytes(b)) => Some(b.len() as u64),
            Kind::Literal(_) => Some(1),
            Kind::List(l) => Some(l.len() as u64),
            Kind::Map(m) => Some(m.len() as u64),
            _ => None,
        };
        if let Some(n) = literal {
            return Some(Size::fixed(n));
        }
        if let Some(d) = self.place(e) {
            self.sizes[e.id as usize] = Some(size_of(d));
            return Some(size_of(d));
        }
        if self.ty(e).is_scalar() {
            return Some(Size::fixed(1));
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.size),
            _ => None,
        }
    }

    fn size_or_unknown(&mut self, e: &Expr) -> Size {
        self.size(e).unwrap_or(UNKNOWN)
    }

    fn entry_size(&self, e: &Expr) -> Option<EntrySize> {
        if let Some(s) = self.entries[e.id as usize] {
            return Some(s);
        }
        match &e.kind {
            Kind::Ident(name) => self.local(name).and_then(|l| l.entries),
            _ => None,
        }
    }

    fn bind(&mut self, e: &Expr, f: &'d Fold) -> Estimate {
        let sum = self.cost(&f.range).plus(self.cost(&f.init));
        self.push(&f.accu, &f.init);
        let sum = sum.plus(self.cost(&f.result));
        self.locals.pop();
        self.sizes[e.id as usize] = self.size(&f.result);
        self.entries[e.id as usize] = self.entry_size(&f.result);
        sum
    }

    fn push(&mut self, name: &str, value: &Expr) {
        let local = Local {
            name: name.into(),
            place: self.place(value),
            size: self.size(value),
            entries: self.entry_size(value),
        };
        self.locals.push(local);
    }

    fn fold(&mut self, e: &Expr, f: &'d Fold) -> Estimate {
        let mut sum = self.cost(&f.range).plus(self.cost(&f.init));
        self.push(&f.accu, &f.init);
        let entries = self.entry_size(&f.range);
        let is_list = entries.map_or(matches!(self.ty(&f.range), Type::List(_)), |s| s.list);
        let place = self.place(&f.range);
        let key = Local {
            name: f.var.clone(),
            place: place.filter(|d| matches!(d.shape, Shape::Map(_))).map(|_| &KEY),
            size: entries.map(|s| s.key),
            entries: None,
        };
        let value = |name: &str| Local {
            name: name.into(),
            place: elements(place),
            size: entries.map(|s| s.value),
            entries: None,
        };
        match &f.var2 {
            Some(second) => {
                let second = value(second);
                self.locals.push(key);
                self.locals.push(second);
            }
            None if is_list => {
                let only = value(&f.var);
                self.locals.push(only);
            }
            None => self.locals.push(key),
        }
        let turn = self.cost(&f.condition).plus(self.cost(&f.step));
        self.locals.pop();
        if f.var2.is_some() {
            self.locals.pop();
        }
        sum = sum.plus(self.cost(&f.result));
        let turns = self.size_or_unknown(&f.range);
        let step_entries = self.entry_size(&f.step);
        self.locals.pop();
        sum = sum.plus(turns.times(turn));
        match &f.init.kind {
            Kind::Literal(_) => self.sizes[e.id as usize] = self.size(&f.init),
            Kind::List(_) | Kind::Map(_) => {
                self.sizes[e.id as usize] = Some(turns);
                if step_entries.is_some() {
                    self.entries[e.id as usize] = step_entries;
                }
            }
            _ => {}
        }
        sum
    }

    fn arg<'a>(&mut self, expr: &'a Expr, cost: Estimate) -> Arg<'a, 'd>
    where
        'd: 'a,
    {
        let hidden = matches!(&expr.kind, Kind::Ident(n) if &**n == ACCUMULATOR);
        let place = if hidden { None } else { self.place(expr) };
        Arg { expr, ty: self.ty(expr), place, size: self.size(expr), cost }
    }

    fn call(&mut self, e: &'d Expr, name: &str, target: Option<&'d Expr>, args: &'d [Expr]) -> Estimate {
        if let ("dyn", [arg]) = (name, args) {
            let cost = self.cost(arg).plus(Estimate::fixed(1));
            self.sizes[e.id as usize] = self.size(arg);
            self.entries[e.id as usize] = self.entry_size(arg);
            return cost;
        }
        let mut described = Vec::with_capacity(args.len());
        for a in args {
            let cost = self.cost(a);
            described.push(self.arg(a, cost));
        }
        let facts = self.facts;
        let overloads = &facts.overloads[e.id as usize];
        if overloads.is_empty() {
            return Estimate::fixed(0);
        }
        let mut sum = Estimate::fixed(0);
        let target = target.map(|t| {
            sum = self.cost(t);
            self.arg(t, sum)
        });
        let mut cost = Estimate { min: u64::MAX, max: 0 };
        let mut size: Option<Size> = None;
        for o in overloads {
            let (c, s) = self.overload(e, name, o, target, &described);
            cost = cost.union(c);
            size = match (size, s) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", Some(of)) = (*o, args.first()) {
                size = self.entry_size(of).map(|s| s.value);
                self.places[e.id as usize] = elements(self.place(of));
            }
            if size.is_none() {
                size = self.size(e);
            }
        }
        if size.is_some() {
            self.sizes[e.id as usize] = size;
        }
        sum.plus(cost)
    }

    /// Cost of one overload with its arguments, and the size of its result where that follows.
    fn overload(
        &mut self,
        e: &Expr,
        name: &str,
        overload: &str,
        target: Option<Arg<'_, 'd>>,
        args: &[Arg<'_, 'd>],
    ) -> (Estimate, Option<Size>) {
        let sum = args.iter().fold(Estimate::fixed(0), |sum, a| sum.plus(a.cost));
        if let Some((cost, size)) = calls::library(name, overload, target, args) {
            return (cost.plus(sum), size);
        }
        match (overload, args) {
            ("logical_or" | "logical_and", [a, b]) => {
                (Estimate { min: a.cost.min, max: a.cost.plus(b.cost).max }, None)
            }
            ("conditional", [c, a, b]) => {
                let entries = EntrySize::union(self.entry_size(a.expr), self.entry_size(b.expr));
                self.entries[e.id as usize] = entries.or(self.entries[e.id as usize]);
                (c.cost.plus(a.cost.union(b.cost)), Some(a.size().union(b.size())))
            }
            ("add_string" | "add_bytes" | "add_list", [a, b]) => {
                let size = a.size().plus(b.size());
                let entries = EntrySize::union(self.entry_size(a.expr), self.entry_size(b.expr));
                self.entries[e.id as usize] = entries.or(self.entries[e.id as usize]);
                let cost =
                    if overload == "add_list" { Estimate::fixed(1) } else { size.by(calls::PER_CHARACTER) };
                (cost.plus(sum), Some(size))
            }
            _ => {
                let (cost, size) = calls::standard(overload, target, args);
                (cost.plus(sum), size)
            }
        }
    }
}

/// Whether values of the type are compared at a fixed cost.
fn compared_at_once(t: &Type) -> bool {
    match t {
        Type::Opaque(n, _) => matches!(*n, names::IP | names::CIDR),
        Type::Object(Object::Named(n)) => !matches!(*n, names::URL | names::FORMAT),
        _ => false,
    }
}
