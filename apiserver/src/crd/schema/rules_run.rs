//! Running the rules of a schema on an object: what they see, what they cost, what they say.
//!
//! All rules on one object share a budget; when it is used up no further rule is run. Rules that compare with the
//! old value run only where there is one, unless they ask for an optional one. Broken rules on values that did not
//! change are warnings.

use std::sync::Arc;

use serde_json::Value;

use super::loc::Loc;
use super::node::Node;
use super::number::{quote, shown};
use super::ratchet::{ByKey, Pair};
use super::rules::{Reason, Rule, RuleNode};
use crate::cel::value::{EvalError, EvalResult};
use crate::cel::{self, Activation, DeclType};
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// Longest message that an expression may make, in bytes.
const MAX_MESSAGE: usize = 5 * 1024;

/// The rules of one object being run.
pub struct Run<'a> {
    /// Places are below.
    from: &'a Path,
    /// What may still be spent; none once it was overspent.
    budget: Option<u64>,
    pub errors: ErrorList,
    /// What would be errors if the values had changed.
    pub warnings: Vec<String>,
}

/// The old value where it can be compared with the new one, and the nearest place around where it could.
#[derive(Clone, Copy, Default)]
struct Compared<'a> {
    here: Option<Pair<'a>>,
    around: Option<Pair<'a>>,
}

impl<'a> Compared<'a> {
    fn unchanged(&self) -> bool {
        self.here.or(self.around).is_some_and(|p| p.same())
    }

    fn field(self, name: &str) -> Self {
        match (self.here, self.around) {
            (None, _) => self,
            // What version an object had is not to be seen.
            (Some(_), None) if matches!(name, "apiVersion" | "kind") => Self::default(),
            (Some(p), _) => Self { here: p.field(name), around: Some(p) },
        }
    }

    fn item(self, new: &'a Value, old_items: Option<&ByKey<'a>>) -> Self {
        match self.here {
            None => self,
            Some(p) => Self { here: old_items.and_then(|k| p.item(new, k)), around: Some(p) },
        }
    }
}

/// What an expression can name.
struct Variables<'a> {
    this: &'a Value,
    old: Option<&'a Value>,
    optional: bool,
    decl: &'a DeclType,
}

impl<'a> Activation<'a> for Variables<'a> {
    fn resolve(&self, name: &str) -> EvalResult<'a> {
        match (name, self.old) {
            ("self", _) => cel::Value::from_json(self.this, self.decl),
            ("oldSelf", old) if self.optional => Ok(cel::Value::Optional(match old {
                Some(v) => Some(Arc::new(cel::Value::from_json(v, self.decl)?)),
                None => None,
            })),
            ("oldSelf", Some(v)) => cel::Value::from_json(v, self.decl),
            _ => Err(EvalError::new(format!("no such attribute(s): {name}"))),
        }
    }
}

/// The message of a broken rule, or why there is none.
enum Message {
    Text(String),
    /// Fall back to the fixed message.
    Failed,
    /// Say this instead, and stop.
    Stop(String),
}

impl<'a> Run<'a> {
    pub fn new(from: &'a Path, budget: u64) -> Self {
        Self { from, budget: Some(budget), errors: ErrorList::new(), warnings: Vec::new() }
    }

    /// What is left of the budget; none if it was not enough.
    pub fn remaining(&self) -> Option<u64> {
        self.budget
    }

    /// Runs the rules of `rules` on `new`, whose schema is `node`. With `ratchet`, broken rules on unchanged values
    /// only warn.
    pub fn check(
        &mut self,
        rules: &'a RuleNode,
        node: &'a Node,
        new: &'a Value,
        old: Option<&'a Value>,
        ratchet: bool,
    ) {
        let here = old.filter(|_| ratchet).map(|o| Pair::new(new, o, node));
        self.walk(rules, node, new, old, Compared { here, around: None }, &Loc::ROOT);
    }

    fn walk(
        &mut self,
        rules: &'a RuleNode,
        node: &'a Node,
        new: &'a Value,
        old: Option<&'a Value>,
        compared: Compared<'a>,
        at: &Loc<'_>,
    ) {
        if new.is_null() {
            return;
        }
        self.own(rules, new, old.filter(|o| !o.is_null()), compared, at);
        match new {
            Value::Array(items) => {
                let (Some(inner), Some(item)) = (&rules.items, node.items.as_deref()) else { return };
                let old_items = old.and_then(Value::as_array).and_then(|o| ByKey::new(node, o));
                for (i, x) in items.iter().enumerate() {
                    if self.budget.is_none() {
                        return;
                    }
                    let old = old_items.as_ref().and_then(|k| k.get(x));
                    self.walk(inner, item, x, old, compared.item(x, old_items.as_ref()), &at.index(i));
                }
            }
            Value::Object(m) => {
                for (k, x) in m {
                    if self.budget.is_none() {
                        return;
                    }
                    let old = old.and_then(|o| o.get(k));
                    if let (Some(inner), Some(n)) = (&rules.additional, node.additional_schema()) {
                        self.walk(inner, n, x, old, compared.field(k), &at.key(k));
                    }
                    if let (Some(inner), Some(n)) = (rules.property(k), node.property(k)) {
                        self.walk(inner, n, x, old, compared.field(k), &at.field(k));
                    }
                }
            }
            _ => {}
        }
    }

    fn invalid(&mut self, rules: &RuleNode, at: &Loc<'_>, detail: String) {
        let field = at.path(self.from).to_string();
        self.errors.push(Error { kind: ErrorKind::Invalid, field, value: quote(&rules.ty), detail });
    }

    fn out_of_budget(&mut self, rules: &RuleNode, at: &Loc<'_>) {
        self.budget = None;
        let why =
            "validation failed due to running out of cost budget, no further validation rules will be run";
        self.invalid(rules, at, why.into());
    }

    /// Takes away what was spent; false if it was not there.
    fn spend(&mut self, cost: u64) -> bool {
        self.budget = self.budget.and_then(|b| b.checked_sub(cost));
        self.budget.is_some()
    }

    fn own(
        &mut self,
        rules: &'a RuleNode,
        new: &'a Value,
        old: Option<&'a Value>,
        compared: Compared<'a>,
        at: &Loc<'_>,
    ) {
        if rules.rules.is_empty() {
            return;
        }
        let Some(decl) = &rules.decl else {
            let why =
                "rule compiler initialization error: failed to convert to declType for CEL validation rules";
            return self.invalid(rules, at, why.into());
        };
        if self.budget.is_none_or(|b| b == 0) {
            return self.out_of_budget(rules, at);
        }
        for rule in &rules.rules {
            let compiled = &rule.compiled;
            if let Some(why) = &compiled.error {
                self.invalid(rules, at, format!("rule compile error: {why}"));
                continue;
            }
            let Some(program) = &compiled.program else { continue };
            if compiled.uses_old_self && old.is_none() && !rule.optional_old {
                continue;
            }
            let variables = Variables { this: new, old, optional: rule.optional_old, decl };
            let (result, cost) = program.run(&variables);
            if !self.spend(cost) {
                return self.out_of_budget(rules, at);
            }
            match result {
                Ok(v) if v.as_bool() == Some(true) => {}
                Ok(_) => {
                    let lenient = !compiled.uses_old_self && compared.unchanged();
                    if !self.broken(rules, rule, &variables, lenient, at) {
                        return;
                    }
                }
                Err(why) => {
                    if !self.failed(rules, rule, &why, at) {
                        return;
                    }
                }
            }
        }
    }

    /// Tells of a rule that could not be evaluated; false if that ends it all.
    fn failed(&mut self, rules: &RuleNode, rule: &Rule, why: &EvalError, at: &Loc<'_>) -> bool {
        let text = why.to_string();
        if matches!(why, EvalError::CostLimit) {
            let detail = format!(
                "'{text}': no further validation rules will be run due to call cost exceeds limit for rule: {}",
                rule.shown
            );
            self.budget = None;
            self.invalid(rules, at, detail);
            return false;
        }
        let detail = if text.starts_with("no such overload") {
            format!(
                "'{text}': call arguments did not match a supported operator, function or macro signature for \
                 rule: {}",
                rule.shown
            )
        } else {
            format!("{text} evaluating rule: {}", rule.shown)
        };
        self.invalid(rules, at, detail);
        true
    }

    /// Tells of a rule that is not kept; false if that ends it all.
    fn broken(
        &mut self,
        rules: &RuleNode,
        rule: &'a Rule,
        variables: &Variables<'a>,
        lenient: bool,
        at: &Loc<'_>,
    ) -> bool {
        let mut path = at.path(self.from);
        if !rule.compiled.field_path.is_empty() {
            path = path.child(&rule.compiled.field_path);
        }
        let detail = match self.message(rule, variables) {
            Message::Text(t) => t,
            Message::Failed if rule.message.is_empty() => format!("failed rule: {}", rule.shown),
            Message::Failed => rule.message.to_string(),
            Message::Stop(why) => {
                let value = quote(&rules.ty);
                let e = Error { kind: ErrorKind::Invalid, field: path.to_string(), value, detail: why };
                self.tell(e, lenient);
                self.budget = None;
                return false;
            }
        };
        // Structures are too long to show.
        let value = match &*rules.ty {
            "object" | "array" => String::new(),
            _ => shown(variables.this),
        };
        let field = path.to_string();
        self.tell(
            match rule.reason {
                Reason::Invalid => Error { kind: ErrorKind::Invalid, field, value, detail },
                Reason::Forbidden => Error::forbidden(&path, detail),
                Reason::Required => Error::required(&path, detail),
                Reason::Duplicate => {
                    Error { kind: ErrorKind::Duplicate, field, value, detail: String::new() }
                }
            },
            lenient,
        );
        true
    }

    fn tell(&mut self, e: Error, lenient: bool) {
        if lenient {
            self.warnings.push(e.to_string());
        } else {
            self.errors.push(e);
        }
    }

    fn message(&mut self, rule: &'a Rule, variables: &Variables<'a>) -> Message {
        let Some(program) = &rule.compiled.message else { return Message::Failed };
        let (result, cost) = program.run(variables);
        if !self.spend(cost) {
            return Message::Stop(
                "messageExpression evaluation failed due to running out of cost budget, no further validation \
                 rules will be run"
                    .into(),
            );
        }
        let text = match result {
            Err(EvalError::CostLimit) => {
                return Message::Stop(format!(
                    "no further validation rules will be run due to call cost exceeds limit for \
                     messageExpression: {}",
                    quote(&rule.message_expression)
                ));
            }
            Err(_) => return Message::Failed,
            Ok(v) => v.as_str().map(|s| s.trim().to_owned()),
        };
        match text {
            Some(t) if !t.is_empty() && t.len() <= MAX_MESSAGE && !t.contains('\n') => Message::Text(t),
            _ => Message::Failed,
        }
    }
}
