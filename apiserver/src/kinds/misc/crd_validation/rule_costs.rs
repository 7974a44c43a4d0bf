//! Rules of a definition: whether they compile, and what they may cost at most, each and all together.
//!
//! Costs are estimates from the bounds that the schema gives; a rule inside a list counts as often as the list may
//! have items.
//!
//! Source: Kubernetes documentation, "Resource use by validation functions".

use crate::cel::DeclType;
use crate::crd::schema::props::Props;
use crate::crd::schema::rules::{
    self, CompiledRule, compile_rule, declare, declared_element, declared_field, max_cardinality,
};
use crate::field::{Error, ErrorKind, ErrorList, Path};

/// The most that a rule may cost.
const RULE_LIMIT: u64 = 10_000_000;
/// The most that all rules of a schema may cost.
const TOTAL_LIMIT: u64 = 100_000_000;
/// So many of the most expensive rules are told.
const EXPENSIVE: usize = 4;

/// What rules at a node know of their surroundings.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Rules stand here or around.
    in_rules: bool,
    /// Type of the values here, as far as it is known.
    decl: Option<DeclType>,
    /// How many such values an object can have; none for no bound.
    cardinality: Option<u64>,
}

impl Scope {
    pub fn root() -> Self {
        Self { in_rules: false, decl: None, cardinality: Some(1) }
    }

    /// The scope once its schema is known.
    pub fn enter(mut self, p: Props<'_>, is_object: bool) -> Self {
        self.in_rules |= !p.list("x-kubernetes-validations").is_empty();
        if self.in_rules && self.decl.is_none() {
            self.decl = declare(p, is_object);
        }
        self
    }

    /// The scope of a field.
    pub fn field(&self, p: Props<'_>, name: &str) -> Self {
        let decl = self.decl.as_ref().and_then(|d| declared_field(d, name)).flatten();
        Self { decl, cardinality: self.times(p), ..*self }
    }

    /// The scope of items or of map values.
    pub fn element(&self, p: Props<'_>) -> Self {
        let decl = self.decl.as_ref().and_then(declared_element);
        Self { decl, cardinality: self.times(p), ..*self }
    }

    fn times(&self, p: Props<'_>) -> Option<u64> {
        let bound = |field: &str| p.whole(field).map(|n| u64::try_from(n).unwrap_or(0));
        let most = match p.ty() {
            "object" if p.additional().is_some() => bound("maxProperties")?,
            "array" => bound("maxItems")?,
            _ => 1,
        };
        self.cardinality.map(|c| c.saturating_mul(most))
    }

    fn cost(&self, rule: &CompiledRule, decl: &DeclType) -> u64 {
        rule.max_cost.saturating_mul(self.cardinality.unwrap_or_else(|| max_cardinality(decl)))
    }
}

/// What the rules of a schema cost.
#[derive(Debug)]
pub struct Costs {
    total: u64,
    /// Dearest first.
    most_expensive: Vec<(Path, u64)>,
    /// The schema is stored already, so single rules may cost what they do.
    stored: bool,
}

fn exceeded(what: &str, cost: u64, limit: u64) -> String {
    let factor = cost as f64 / limit as f64;
    let factor = if factor > 100.0 {
        "more than 100x".to_owned()
    } else if factor < 1.5 {
        format!("{factor:.6}x")
    } else {
        format!("{factor:.1}x")
    };
    format!(
        "{what} exceeds budget by factor of {factor} (try simplifying the rule, or adding maxItems, maxProperties, and \
         maxLength where arrays, maps, and strings are declared)"
    )
}

impl Costs {
    pub fn new(stored: bool) -> Self {
        Self { total: 0, most_expensive: Vec::new(), stored }
    }

    fn observe(&mut self, path: Path, cost: u64, what: &str, errors: &mut ErrorList) {
        if !self.stored && cost > RULE_LIMIT {
            errors.push(Error::forbidden(&path, exceeded(what, cost, RULE_LIMIT)));
        }
        self.total = self.total.saturating_add(cost);
        if cost >= TOTAL_LIMIT / 100 {
            self.most_expensive.push((path, cost));
            self.most_expensive.sort_by_key(|(_, cost)| std::cmp::Reverse(*cost));
            self.most_expensive.truncate(EXPENSIVE);
        }
    }

    /// Compiles the rules of one node and counts their costs.
    pub fn rules(
        &mut self,
        p: Props<'_>,
        scope: &Scope,
        uncorrelatable: Option<&Path>,
        path: &Path,
        errors: &mut ErrorList,
    ) {
        let given = p.list("x-kubernetes-validations");
        if given.is_empty() {
            return;
        }
        let Some(decl) = &scope.decl else {
            let why = "internal error: failed to construct type information for x-kubernetes-validations rules: \
                       unable to convert structural schema to CEL declarations";
            return errors.push(Error::internal(path, why));
        };
        for (i, rule) in given.iter().enumerate() {
            if let Some(rule) = Props::new(rule) {
                let compiled = compile_rule(rule, p, decl);
                self.rule(rule, &compiled, scope.cost(&compiled, decl), &path.index(i), errors);
                correlation(rule, &compiled, uncorrelatable, &path.index(i), errors);
            }
        }
    }

    fn rule(&mut self, r: Props<'_>, c: &CompiledRule, cost: u64, path: &Path, errors: &mut ErrorList) {
        let invalid = |at: &Path, why: &str| Error {
            kind: ErrorKind::Invalid,
            field: at.to_string(),
            value: rules::shown(r),
            detail: why.to_owned(),
        };
        let at = path.child("rule");
        self.observe(at.clone(), cost, "estimated rule cost", errors);
        if let Some(why) = &c.error {
            errors.push(invalid(&at, why));
        }
        let at = path.child("messageExpression");
        if let Some(why) = &c.message_error {
            errors.push(invalid(&at, why));
        } else if c.message.is_some() {
            self.observe(at, c.message_max_cost, "estimated messageExpression cost", errors);
        }
    }

    /// Tells if all rules together cost too much; `path` is that of the schema.
    pub fn tell(self, path: &Path, errors: &mut ErrorList) {
        if self.total <= TOTAL_LIMIT {
            return;
        }
        for (at, _) in &self.most_expensive {
            let why =
                "contributed to estimated rule cost total exceeding cost limit for entire OpenAPIv3 schema";
            errors.push(Error::forbidden(at, why));
        }
        let what = "x-kubernetes-validations estimated rule cost total for entire OpenAPIv3 schema";
        errors.push(Error::forbidden(path, exceeded(what, self.total, TOTAL_LIMIT)));
    }
}

/// Old values can be named only where they can be found.
fn correlation(
    r: Props<'_>,
    c: &CompiledRule,
    uncorrelatable: Option<&Path>,
    path: &Path,
    errors: &mut ErrorList,
) {
    match (c.uses_old_self, uncorrelatable, r.get("optionalOldSelf")) {
        (true, Some(within), _) => errors.push(Error::invalid(
            &path.child("rule"),
            r.text("rule"),
            format!("oldSelf cannot be used on the uncorrelatable portion of the schema within {within}"),
        )),
        (false, _, Some(given)) => errors.push(Error::invalid(
            &path.child("optionalOldSelf"),
            given,
            "may not be set if oldSelf is not used in rule",
        )),
        _ => {}
    }
}
