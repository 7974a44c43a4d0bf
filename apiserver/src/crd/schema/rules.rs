//! `x-kubernetes-validations`: rules of a schema, compiled. How they run is in [`run`](super::rules_run).
//!
//! Source: Kubernetes documentation, "Validation rules"; KEP-2876.

use serde_json::Value;

use super::paths;
use super::props::Props;
use crate::cel::decl::{MAX_REQUEST_BYTES, Shape, escape};
use crate::cel::{DeclType, Env, Program, Type, compile};

/// What the type of `self` is called in compile errors.
const SELF_TYPE: &str = "selfType";

/// Rules on a value and on the values inside it.
#[derive(Debug)]
pub struct RuleNode {
    /// `type` of the schema.
    pub ty: Box<str>,
    /// Of the value; absent only where there are no rules, or where they cannot be compiled for lack of it.
    pub decl: Option<DeclType>,
    pub rules: Vec<Rule>,
    /// Sorted by name.
    pub properties: Vec<(Box<str>, RuleNode)>,
    pub additional: Option<Box<RuleNode>>,
    pub items: Option<Box<RuleNode>>,
}

/// The kind of error that a broken rule makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    Invalid,
    Forbidden,
    Required,
    Duplicate,
}

/// One rule.
#[derive(Debug)]
pub struct Rule {
    /// What to call it in errors: its message, else its expression.
    pub shown: Box<str>,
    /// Empty for none.
    pub message: Box<str>,
    pub message_expression: Box<str>,
    pub reason: Reason,
    pub optional_old: bool,
    pub compiled: CompiledRule,
}

/// What came of compiling a rule.
#[derive(Debug, Default)]
pub struct CompiledRule {
    /// None for an empty rule, or one that does not compile.
    pub program: Option<Program>,
    /// Why the rule does not compile.
    pub error: Option<String>,
    pub uses_old_self: bool,
    /// The most that one evaluation can cost.
    pub max_cost: u64,
    pub message: Option<Program>,
    pub message_error: Option<String>,
    pub message_max_cost: u64,
    /// `fieldPath` in canonical form, empty for none.
    pub field_path: String,
}

/// True if rules stand anywhere that they are run: not under junctors.
pub fn any(p: Props<'_>) -> bool {
    !p.list("x-kubernetes-validations").is_empty()
        || p.item().is_some_and(any)
        || p.additional_schema().is_some_and(any)
        || p.properties().any(|(_, inner)| any(inner))
}

/// The declared type of a schema's values, where there is none around it.
pub fn declare(p: Props<'_>, is_object: bool) -> Option<DeclType> {
    DeclType::from_structural(p.value(), SELF_TYPE, is_object)
}

/// The declared type of a field; the outer none says that the parent cannot tell.
pub fn declared_field(parent: &DeclType, name: &str) -> Option<Option<DeclType>> {
    let Shape::Object(o) = &parent.shape else { return None };
    escape(name).map(|escaped| o.fields.get(escaped.as_str()).map(|f| f.ty.clone()))
}

/// The declared type of items of a list or values of a map.
pub fn declared_element(parent: &DeclType) -> Option<DeclType> {
    match &parent.shape {
        Shape::List(of, _) | Shape::Map(of) => Some((**of).clone()),
        _ => None,
    }
}

/// Most values of a type that fit into one request.
pub fn max_cardinality(decl: &DeclType) -> u64 {
    MAX_REQUEST_BYTES / (decl.min_size + 1)
}

impl RuleNode {
    /// The rules of a schema; none if it has none. `is_object` says that the value has `metadata`.
    pub fn compile(p: Props<'_>, is_object: bool) -> Option<Self> {
        if !any(p) { None } else { node(p, is_object, None) }
    }

    /// Rules on a field.
    pub fn property(&self, name: &str) -> Option<&RuleNode> {
        self.properties.binary_search_by(|(n, _)| (**n).cmp(name)).ok().map(|i| &self.properties[i].1)
    }
}

fn node(p: Props<'_>, is_object: bool, decl: Option<DeclType>) -> Option<RuleNode> {
    let own = p.list("x-kubernetes-validations");
    let decl = decl.or_else(|| if own.is_empty() { None } else { declare(p, is_object) });
    let rules = own.iter().filter_map(Props::new).map(|r| rule(r, p, decl.as_ref())).collect();
    let mut out =
        RuleNode { ty: p.ty().into(), decl, rules, properties: Vec::new(), additional: None, items: None };
    let element = || out.decl.as_ref().and_then(declared_element);
    let items = p.item().and_then(|i| node(i, i.embeds(), element()));
    let additional = p.additional_schema().and_then(|a| node(a, a.embeds(), element()));
    let mut properties: Vec<(Box<str>, RuleNode)> = Vec::new();
    for (name, inner) in p.properties() {
        let decl = match out.decl.as_ref().map(|d| declared_field(d, name)) {
            None | Some(None) => None,
            Some(Some(Some(decl))) => Some(decl),
            // Fields of unknown type take no part.
            Some(Some(None)) => continue,
        };
        properties.extend(node(inner, inner.embeds(), decl).map(|n| (Box::from(name), n)));
    }
    properties.sort_by(|(a, _), (b, _)| a.cmp(b));
    (out.items, out.additional, out.properties) = (items.map(Box::new), additional.map(Box::new), properties);
    let empty = out.rules.is_empty() && out.items.is_none() && out.additional.is_none();
    (!(empty && out.properties.is_empty())).then_some(out)
}

fn rule(r: Props<'_>, schema: Props<'_>, decl: Option<&DeclType>) -> Rule {
    let (expression, message) = (r.text("rule"), r.text("message"));
    Rule {
        shown: if message.is_empty() { expression.trim() } else { message.trim() }.into(),
        message: message.trim().into(),
        message_expression: r.text("messageExpression").into(),
        reason: match r.text("reason") {
            "FieldValueForbidden" => Reason::Forbidden,
            "FieldValueRequired" => Reason::Required,
            "FieldValueDuplicate" => Reason::Duplicate,
            _ => Reason::Invalid,
        },
        optional_old: r.flag("optionalOldSelf"),
        compiled: match decl {
            Some(d) => compile_rule(r, schema, d),
            None => CompiledRule::default(),
        },
    }
}

/// Compiles one rule on values of type `decl`.
pub fn compile_rule(r: Props<'_>, schema: Props<'_>, decl: &DeclType) -> CompiledRule {
    let mut out = CompiledRule::default();
    let expression = r.text("rule");
    if expression.trim().is_empty() {
        return out;
    }
    let old = if r.flag("optionalOldSelf") { DeclType::optional(decl.clone()) } else { decl.clone() };
    let env = Env::default().variable("self", decl.clone()).variable("oldSelf", old);
    let compiled = match compile(expression, &env) {
        Ok(c) => c,
        Err(e) => {
            out.error = Some(format!("compilation failed: {e}"));
            return out;
        }
    };
    if *compiled.output() != Type::Bool {
        out.error = Some("cel expression must evaluate to a bool".into());
        return out;
    }
    out.uses_old_self = compiled.uses("oldSelf");
    match compiled.program() {
        Ok(p) => out.program = Some(p),
        Err(e) => {
            out.error = Some(format!("program instantiation failed: {e}"));
            return out;
        }
    }
    out.max_cost = compiled.cost(decl).max;
    let expression = r.text("messageExpression");
    if !expression.is_empty() {
        match message(expression, &env, decl) {
            Ok((program, cost)) => (out.message, out.message_max_cost) = (Some(program), cost),
            Err(why) => {
                out.message_error = Some(why);
                return out;
            }
        }
    }
    let path = r.text("fieldPath");
    if let (false, Ok((path, _))) = (path.is_empty(), paths::resolve(path, schema, true)) {
        out.field_path = path.to_string();
    }
    out
}

fn message(expression: &str, env: &Env, decl: &DeclType) -> Result<(Program, u64), String> {
    let compiled =
        compile(expression, env).map_err(|e| format!("messageExpression compilation failed: {e}"))?;
    if *compiled.output() != Type::String {
        return Err("messageExpression must evaluate to a string".into());
    }
    let program = compiled.program().map_err(|e| format!("messageExpression instantiation failed: {e}"))?;
    Ok((program, compiled.cost(decl).max))
}

/// A rule as upstream's errors show it.
pub fn shown(r: Props<'_>) -> String {
    let text = |name: &str| Value::from(r.text(name));
    let or_null = |name: &str| r.get(name).cloned().unwrap_or(Value::Null);
    format!(
        "{{\"Rule\":{},\"Message\":{},\"MessageExpression\":{},\"Reason\":{},\"FieldPath\":{},\"OptionalOldSelf\":{}}}",
        text("rule"),
        text("message"),
        text("messageExpression"),
        or_null("reason"),
        text("fieldPath"),
        or_null("optionalOldSelf")
    )
}
