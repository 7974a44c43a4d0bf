//! Defaults are values like any other: pruned, valid, and of the form that metadata has.

use serde_json::{Map, Value};

use crate::cel::RUNTIME_BUDGET;
use crate::crd::schema::loc::Loc;
use crate::crd::schema::meta::{self, Malformed};
use crate::crd::schema::node::Node;
use crate::crd::schema::number::shown;
use crate::crd::schema::props::Props;
use crate::crd::schema::prune::{is_meta, prune};
use crate::crd::schema::rules::RuleNode;
use crate::crd::schema::rules_run::Run;
use crate::crd::schema::{check, node};
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// The way from the object around to a default.
#[derive(Clone, Copy)]
enum Way<'a> {
    Root,
    Field(&'a Way<'a>, &'a str),
    Item(&'a Way<'a>),
}

impl Way<'_> {
    /// An object with nothing but the default in its place.
    fn around(&self, v: Value) -> Value {
        match self {
            Self::Root => v,
            Self::Field(outer, name) => {
                outer.around(Value::Object(Map::from_iter([((*name).to_owned(), v)])))
            }
            Self::Item(outer) => outer.around(Value::Array(vec![v])),
        }
    }
}

/// What rules on all defaults of a schema may still cost.
struct Rules {
    budget: Option<u64>,
}

impl Rules {
    /// Runs the rules on a default: as one that stays, and as one that is new.
    fn check(
        &mut self,
        p: Props<'_>,
        n: &Node,
        d: &Value,
        is_object: bool,
        at: &Path,
        errors: &mut ErrorList,
    ) {
        let Some(rules) = RuleNode::compile(p, is_object) else { return };
        let Some(budget) = self.budget else { return };
        let run = |old: Option<&Value>| {
            let mut run = Run::new(at, budget);
            run.check(&rules, n, d, old, false);
            (run.remaining(), run.errors)
        };
        let (left, wrong) = run(Some(d));
        self.budget = left;
        if !wrong.is_empty() {
            return errors.extend(wrong);
        }
        let (left_new, wrong) = run(None);
        self.budget = left.zip(left_new).map(|(a, b)| a.min(b));
        errors.extend(wrong);
    }
}

#[derive(Clone, Copy)]
struct Place<'a> {
    /// The object, embedded or the resource itself, whose fields these are.
    object: &'a Node,
    way: Way<'a>,
    in_meta: bool,
    /// The resource itself, or an embedded one.
    is_object: bool,
}

/// What is wrong with the defaults of a schema.
pub fn validate(root: &Node, schema: Props<'_>, pruned: bool, path: &Path) -> ErrorList {
    let mut rules = Rules { budget: Some(RUNTIME_BUDGET) };
    let mut errors = ErrorList::new();
    let place = Place { object: root, way: Way::Root, in_meta: false, is_object: true };
    visit((root, schema), place, pruned, &mut rules, path, &mut errors);
    errors
}

fn visit(
    (n, p): (&Node, Props<'_>),
    at: Place<'_>,
    pruned: bool,
    rules: &mut Rules,
    path: &Path,
    errors: &mut ErrorList,
) {
    let at = if n.embeds { Place { object: n, way: Way::Root, in_meta: false, is_object: true } } else { at };
    if let Some(d) = &n.default {
        let before = errors.len();
        one(n, d, at, pruned, path, errors);
        if errors.len() == before {
            rules.check(p, n, d, at.is_object, &path.child("default"), errors);
        }
    }
    let inner = Place { is_object: false, ..at };
    if let (Some(items), Some(p)) = (n.items.as_deref(), p.item()) {
        let place = Place { way: Way::Item(&at.way), ..inner };
        visit((items, p), place, pruned, rules, &path.child("items"), errors);
    }
    for (name, field) in &n.properties {
        let Some(p) = p.property(name) else { continue };
        let in_meta = at.in_meta || (at.is_object && is_meta(name));
        let place = Place { way: Way::Field(&at.way, name), in_meta, ..inner };
        visit((field, p), place, pruned, rules, &path.child("properties").key(name), errors);
    }
}

fn one(n: &Node, d: &Value, at: Place<'_>, pruned: bool, path: &Path, errors: &mut ErrorList) {
    let here = path.child("default");
    if at.in_meta {
        if let Some(why) = metadata_problem(d, at) {
            let why = format!("must result in valid metadata: {why}");
            errors.push(invalid(&here, d, why));
            return;
        }
    } else {
        if pruned {
            let mut copy = d.clone();
            prune(&mut copy, Some(n), n.embeds);
            if copy != *d {
                errors.push(invalid(&here, d, "must not have unknown fields".into()));
            }
        }
        let mut copy = d.clone();
        if let Err(e) = meta::coerce(&mut copy, n, n.embeds, Malformed::Refuse, &Loc::ROOT, &mut Vec::new()) {
            let field = if e.field.starts_with('[') {
                format!("{here}{}", e.field)
            } else {
                format!("{here}.{}", e.field)
            };
            errors.push(Error { field, ..e });
            return;
        }
        let mut wrong = ErrorList::new();
        meta::check(d, n, n.embeds, &Loc::ROOT, &here, &mut wrong);
        if !wrong.is_empty() {
            errors.extend(wrong);
            return;
        }
    }
    errors.extend(check::check(d, n, None, &here));
}

/// What is wrong with metadata that a default is part of.
fn metadata_problem(d: &Value, at: Place<'_>) -> Option<String> {
    let mut object = at.way.around(d.clone());
    if let Some(m) = object.as_object_mut() {
        m.entry("kind").or_insert_with(|| "Validation".into());
        m.entry("apiVersion").or_insert_with(|| "validation/v1".into());
    }
    let coerced = meta::coerce(&mut object, at.object, true, Malformed::Refuse, &Loc::ROOT, &mut Vec::new());
    if let Err(e) = coerced {
        return Some(e.to_string());
    }
    let mut wrong = ErrorList::new();
    meta::check(&object, at.object, true, &Loc::ROOT, &Path::default(), &mut wrong);
    (!wrong.is_empty()).then(|| wrong.aggregate())
}

fn invalid(path: &Path, v: &Value, detail: String) -> Error {
    Error { kind: ErrorKind::Invalid, field: path.to_string(), value: shown(v), detail }
}

/// True if some default holds what pruning would drop.
pub fn has_unpruned(n: &node::Node) -> bool {
    let here = n.default.as_deref().is_some_and(|d| {
        let mut copy = d.clone();
        prune(&mut copy, Some(n), n.embeds);
        copy != *d
    });
    here || n.items.as_deref().is_some_and(has_unpruned)
        || n.additional_schema().is_some_and(has_unpruned)
        || n.properties.iter().any(|(_, p)| has_unpruned(p))
}
