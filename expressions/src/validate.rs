//! Checks of literals after the types are right: constants that no run could use, and lists whose elements are of
//! different types.

use super::ast::{Element, Expr, Kind, Literal};
use super::check::Facts;
use super::error::Issue;
use super::library::strings;
use super::time;
use super::types::Type;

/// All problems with literals.
pub fn literals(source: &str, facts: &Facts) -> Vec<Issue> {
    let mut v = Validator { source, facts, issues: Vec::new() };
    v.walk(&facts.root, false);
    v.issues
}

struct Validator<'a> {
    source: &'a str,
    facts: &'a Facts,
    issues: Vec<Issue>,
}

impl Validator<'_> {
    fn issue(&mut self, pos: u32, message: String) {
        self.issues.push(Issue::at(self.source, pos as usize, message));
    }

    fn of(&self, e: &Expr, optional: bool) -> Type {
        let t = &self.facts.types[e.id as usize];
        match t.unwrap_optional() {
            Some(inner) if optional => inner.clone(),
            _ => t.clone(),
        }
    }

    /// `exempt` inside the arguments of `format`, which may be of all kinds.
    fn walk(&mut self, e: &Expr, exempt: bool) {
        match &e.kind {
            Kind::Literal(_) | Kind::Ident(_) => {}
            Kind::Select { operand, .. } => self.walk(operand, exempt),
            Kind::Call { function, target, args } => {
                self.call(function, target.as_deref(), args);
                let exempt = exempt || &**function == "format";
                for x in target.iter().map(|t| &**t).chain(args) {
                    self.walk(x, exempt);
                }
            }
            Kind::List(elements) => {
                if !exempt {
                    self.same_types(elements);
                }
                elements.iter().for_each(|x| self.walk(&x.value, exempt));
            }
            Kind::Map(entries) => {
                if let Some((first, rest)) = entries.split_first().filter(|_| !exempt) {
                    let (key, value) = (self.of(&first.key, false), self.of(&first.value, first.optional));
                    for x in rest {
                        self.same(&key, &self.of(&x.key, false), x.key.pos);
                        self.same(&value, &self.of(&x.value, x.optional), x.value.pos);
                    }
                }
                for x in entries {
                    self.walk(&x.key, exempt);
                    self.walk(&x.value, exempt);
                }
            }
            Kind::Struct { fields, .. } => fields.iter().for_each(|x| self.walk(&x.value, exempt)),
            Kind::Fold(f) => {
                for x in [&f.range, &f.init, &f.condition, &f.step, &f.result] {
                    self.walk(x, exempt);
                }
            }
        }
    }

    fn same_types(&mut self, elements: &[Element]) {
        let Some((first, rest)) = elements.split_first() else { return };
        let wanted = self.of(&first.value, first.optional);
        for x in rest {
            if !self.same(&wanted, &self.of(&x.value, x.optional), x.value.pos) {
                return;
            }
        }
    }

    fn same(&mut self, wanted: &Type, found: &Type, pos: u32) -> bool {
        let same = wanted == found;
        if !same {
            self.issue(pos, format!("expected type '{wanted}' but found '{found}'"));
        }
        same
    }

    fn call(&mut self, function: &str, target: Option<&Expr>, args: &[Expr]) {
        let Some(first) = args.first() else { return };
        let Some(Literal::String(s)) = first.literal() else { return };
        let fine = match function {
            "duration" => time::parse_duration(s).is_some(),
            "timestamp" => time::parse_timestamp(s).is_some(),
            "matches" if target.is_some() => strings::regex(s).is_ok(),
            _ => true,
        };
        if !fine {
            self.issue(first.pos, format!("invalid {function} argument"));
        }
    }
}
