//! The macros that the parser leaves as plain calls: those with two variables, those on optionals, `sortBy` and `cel.bind`.
//!
//! Source: cel-spec's macros and the extensions that Kubernetes turns on (optional types, two-variable
//! comprehensions, lists).

use super::ast::{ACCUMULATOR, Element, Expr, Fold, Kind, Literal};
use super::parse::Builder;

/// A call, or what the macro of that name and number of arguments stands for.
pub fn call(b: &mut Builder<'_>, pos: u32, name: &str, target: Option<Box<Expr>>, args: Vec<Expr>) -> Expr {
    let Some(target) = target else {
        return b.node(pos, Kind::Call { function: name.into(), target: None, args });
    };
    match (name, args.len()) {
        ("all", 3) => quantifier(b, pos, Quantifier::All, *target, args),
        ("exists", 3) => quantifier(b, pos, Quantifier::Exists, *target, args),
        ("exists_one" | "existsOne", 3) => quantifier(b, pos, Quantifier::One, *target, args),
        ("transformList", 3 | 4) => transform(b, pos, Transform::List, *target, args),
        ("transformMap", 3 | 4) => transform(b, pos, Transform::Map, *target, args),
        ("transformMapEntry", 3 | 4) => transform(b, pos, Transform::Entry, *target, args),
        ("optMap" | "optFlatMap", 2) => optional(b, pos, name, *target, args),
        ("sortBy", 2) => sort_by(b, pos, *target, args),
        ("bind", 3) if b.bindings && matches!(&target.kind, Kind::Ident(n) if &**n == "cel") => {
            bind(b, pos, args)
        }
        _ => b.node(pos, Kind::Call { function: name.into(), target: Some(target), args }),
    }
}

enum Quantifier {
    All,
    Exists,
    One,
}

enum Transform {
    List,
    Map,
    Entry,
}

/// Short ways to make nodes at one place.
struct At<'a, 'b> {
    b: &'a mut Builder<'b>,
    pos: u32,
}

impl At<'_, '_> {
    fn literal(&mut self, l: Literal) -> Expr {
        self.b.node(self.pos, Kind::Literal(l))
    }
    fn ident(&mut self, name: &str) -> Expr {
        self.b.node(self.pos, Kind::Ident(name.into()))
    }
    fn accu(&mut self) -> Expr {
        self.ident(ACCUMULATOR)
    }
    fn call(&mut self, function: &str, args: Vec<Expr>) -> Expr {
        self.b.node(self.pos, Kind::Call { function: function.into(), target: None, args })
    }
    fn member(&mut self, function: &str, target: Expr, args: Vec<Expr>) -> Expr {
        let target = Some(Box::new(target));
        self.b.node(self.pos, Kind::Call { function: function.into(), target, args })
    }
    fn list(&mut self, items: Vec<Expr>) -> Expr {
        let items = items.into_iter().map(|value| Element { value, optional: false });
        self.b.node(self.pos, Kind::List(items.collect()))
    }
    fn fold(&mut self, fold: Fold) -> Expr {
        self.b.node(self.pos, Kind::Fold(Box::new(fold)))
    }
    /// `name` bound to `value` inside `result`.
    fn bind(&mut self, name: &str, value: Expr, result: Expr) -> Expr {
        let fold = Fold {
            range: self.list(Vec::new()),
            var: "#unused".into(),
            var2: None,
            accu: name.into(),
            init: value,
            condition: self.literal(Literal::Bool(false)),
            step: self.ident(name),
            result,
        };
        self.fold(fold)
    }
}

/// The two variables' names, or what is wrong with them.
fn variables(args: &[Expr]) -> Result<(Box<str>, Box<str>), (u32, String)> {
    let mut names = Vec::with_capacity(2);
    for a in &args[..2] {
        let Kind::Ident(name) = &a.kind else {
            return Err((a.pos, "argument must be a simple name".into()));
        };
        names.push(name.clone());
    }
    if names[0] == names[1] {
        return Err((args[1].pos, format!("duplicate variable name: {}", names[0])));
    }
    for (a, n) in args.iter().zip(&names) {
        if &**n == ACCUMULATOR || &**n == "__result__" {
            return Err((a.pos, "iteration variable overwrites accumulator variable".into()));
        }
    }
    let second = names.remove(1);
    Ok((names.remove(0), second))
}

fn quantifier(b: &mut Builder<'_>, pos: u32, kind: Quantifier, range: Expr, mut args: Vec<Expr>) -> Expr {
    let (var, var2) = match variables(&args) {
        Ok(names) => names,
        Err((pos, message)) => return b.fail(pos, message),
    };
    let test = args.remove(2);
    let mut at = At { b, pos };
    let accu = at.accu();
    let (init, condition, step, result) = match kind {
        Quantifier::All => {
            let go_on = at.accu();
            let go_on = at.call("@not_strictly_false", vec![go_on]);
            let step = at.call("_&&_", vec![accu, test]);
            (at.literal(Literal::Bool(true)), go_on, step, at.accu())
        }
        Quantifier::Exists => {
            let go_on = at.accu();
            let go_on = at.call("!_", vec![go_on]);
            let go_on = at.call("@not_strictly_false", vec![go_on]);
            let step = at.call("_||_", vec![accu, test]);
            (at.literal(Literal::Bool(false)), go_on, step, at.accu())
        }
        Quantifier::One => {
            let one = at.literal(Literal::Int(1));
            let more = at.call("_+_", vec![accu, one]);
            let same = at.accu();
            let step = at.call("_?_:_", vec![test, more, same]);
            let (accu, one) = (at.accu(), at.literal(Literal::Int(1)));
            let result = at.call("_==_", vec![accu, one]);
            (at.literal(Literal::Int(0)), at.literal(Literal::Bool(true)), step, result)
        }
    };
    at.fold(Fold { range, var, var2: Some(var2), accu: ACCUMULATOR.into(), init, condition, step, result })
}

fn transform(b: &mut Builder<'_>, pos: u32, kind: Transform, range: Expr, mut args: Vec<Expr>) -> Expr {
    let (var, var2) = match variables(&args) {
        Ok(names) => names,
        Err((pos, message)) => return b.fail(pos, message),
    };
    let filter = (args.len() == 4).then(|| args.remove(2));
    let value = args.remove(2);
    let mut at = At { b, pos };
    let accu = at.accu();
    let (init, step) = match kind {
        Transform::List => {
            let item = at.list(vec![value]);
            (at.list(Vec::new()), at.call("_+_", vec![accu, item]))
        }
        Transform::Map => {
            let key = at.ident(&var);
            let step = at.call("cel.@mapInsert", vec![accu, key, value]);
            (at.b.node(pos, Kind::Map(Vec::new())), step)
        }
        Transform::Entry => {
            let step = at.call("cel.@mapInsert", vec![accu, value]);
            (at.b.node(pos, Kind::Map(Vec::new())), step)
        }
    };
    let step = match filter {
        Some(filter) => {
            let same = at.accu();
            at.call("_?_:_", vec![filter, step, same])
        }
        None => step,
    };
    let (condition, result) = (at.literal(Literal::Bool(true)), at.accu());
    at.fold(Fold { range, var, var2: Some(var2), accu: ACCUMULATOR.into(), init, condition, step, result })
}

/// `optMap` and `optFlatMap`.
fn optional(b: &mut Builder<'_>, pos: u32, name: &str, target: Expr, mut args: Vec<Expr>) -> Expr {
    let Kind::Ident(var) = args[0].kind.clone() else {
        let pos = args[0].pos;
        return b.fail(pos, format!("{name}() variable name must be a simple identifier"));
    };
    let body = args.remove(1);
    let again = b.copy(&target);
    let mut at = At { b, pos };
    let has = at.member("hasValue", target, Vec::new());
    let value = at.member("value", again, Vec::new());
    let mut found = at.bind(&var, value, body);
    if name == "optMap" {
        found = at.call("optional.of", vec![found]);
    }
    let none = at.call("optional.none", Vec::new());
    at.call("_?_:_", vec![has, found, none])
}

/// `cel.bind(name, value, result)`.
fn bind(b: &mut Builder<'_>, pos: u32, mut args: Vec<Expr>) -> Expr {
    let Kind::Ident(var) = args[0].kind.clone() else {
        let pos = args[0].pos;
        return b.fail(pos, "cel.bind() variable names must be simple identifiers");
    };
    let result = args.remove(2);
    let value = args.remove(1);
    At { b, pos }.bind(&var, value, result)
}

/// Sorts by what `key` gives for each element: the keys are computed once, in a list beside the elements.
fn sort_by(b: &mut Builder<'_>, pos: u32, target: Expr, mut args: Vec<Expr>) -> Expr {
    const INPUT: &str = "@__sortBy_input__";
    let Kind::Ident(var) = args[0].kind.clone() else {
        let pos = args[0].pos;
        return b.fail(pos, "sortBy can only be used with a simple variable name");
    };
    if &*var == ACCUMULATOR || &*var == "__result__" {
        return b.fail(args[0].pos, "iteration variable overwrites accumulator variable");
    }
    let key = args.remove(1);
    let mut at = At { b, pos };
    let item = at.list(vec![key]);
    let accu = at.accu();
    let step = at.call("_+_", vec![accu, item]);
    let keys = Fold {
        range: at.ident(INPUT),
        var,
        var2: None,
        accu: ACCUMULATOR.into(),
        init: at.list(Vec::new()),
        condition: at.literal(Literal::Bool(true)),
        step,
        result: at.accu(),
    };
    let keys = at.fold(keys);
    let input = at.ident(INPUT);
    let sorted = at.member("@sortByAssociatedKeys", input, vec![keys]);
    at.bind(INPUT, target, sorted)
}
