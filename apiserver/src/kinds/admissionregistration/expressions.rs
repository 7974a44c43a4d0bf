//! Checks of the CEL expressions in policies and match conditions: those that do not compile are refused.

use std::collections::BTreeSet;

use k8s_openapi::api::admissionregistration::v1 as api;

use crate::admission::expressions::{Expression, Variables, environment};
use crate::cel::decl::RESERVED;
use crate::cel::{Env, Type};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::{invalid_each, text};

const MAX_CONDITIONS: usize = 64;
const MAX_ANNOTATIONS: usize = 20;
/// Longest expression of an audit annotation, in bytes.
const MAX_ANNOTATION: usize = 5 * 1024;
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];

/// Refuses an expression that does not compile, or gives something else than it should.
fn compiles(source: &str, env: &Env, types: &[Type], path: &Path, errors: &mut ErrorList) {
    if let Some(why) = Expression::new(source, env, types).error() {
        errors.push(Error::invalid(path, source, why));
    }
}

/// `matchConditions` of a policy or a webhook.
pub fn match_conditions(list: &[api::MatchCondition], params: bool, path: &Path, errors: &mut ErrorList) {
    if list.len() > MAX_CONDITIONS {
        errors.push(Error::too_many(path, list.len(), MAX_CONDITIONS));
    }
    if list.is_empty() {
        return;
    }
    let env = environment(params, true);
    let mut names = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let at = path.index(i);
        match c.expression.trim() {
            "" => errors.push(Error::required(&at.child("expression"), "")),
            trimmed => compiles(trimmed, &env, &[Type::Bool], &at.child("expression"), errors),
        }
        if c.name.is_empty() {
            errors.push(Error::required(&at.child("name"), ""));
            continue;
        }
        errors.extend(invalid_each(&at.child("name"), &c.name, text::qualified_name(&c.name)));
        if !names.insert(&c.name) {
            errors.push(Error::duplicate(&at.child("name"), &c.name));
        }
    }
}

fn is_identifier(name: &str) -> bool {
    let mut chars = name.chars();
    chars.next().is_some_and(|c| c == '_' || c.is_ascii_alphabetic())
        && chars.all(|c| c == '_' || c.is_ascii_alphanumeric())
        && !RESERVED.contains(&name)
}

/// The variables of a policy. Gives the environment of what comes after them.
pub fn variables(list: &[api::Variable], params: bool, path: &Path, errors: &mut ErrorList) -> Env {
    let pairs = list.iter().map(|v| (v.name.as_str(), v.expression.as_str()));
    let (compiled, env) = Variables::compile(pairs, environment(params, true));
    for (i, (v, c)) in list.iter().zip(compiled.iter()).enumerate() {
        let at = path.index(i);
        if v.name.trim().is_empty() {
            errors.push(Error::required(&at.child("name"), "name is not specified"));
        } else if !is_identifier(&v.name) {
            errors.push(Error::invalid(&at.child("name"), &v.name, "must be a valid CEL identifier"));
        }
        if v.expression.trim().is_empty() {
            errors.push(Error::required(&at.child("expression"), "expression is not specified"));
        } else if let Some(why) = c.expression.error() {
            errors.push(Error::invalid(&at.child("expression"), &v.expression, why));
        }
    }
    env
}

/// One check of a validating policy.
pub fn validation(v: &api::Validation, env: &Env, path: &Path, errors: &mut ErrorList) {
    let at = path.child("expression");
    if v.expression.trim().is_empty() {
        errors.push(Error::required(&at, "expression is not specified"));
    } else {
        compiles(&v.expression, env, &[Type::Bool], &at, errors);
    }
    let at = path.child("messageExpression");
    match v.message_expression.as_deref() {
        None | Some("") => {}
        Some(e) if e.trim().is_empty() => {
            errors.push(Error::invalid(&at, e, "must be non-empty if specified"));
        }
        Some(e) => compiles(e, &of_messages(env), &[Type::String], &at, errors),
    }
    let at = path.child("message");
    match v.message.as_deref() {
        None | Some("") => {}
        Some(m) if m.trim().is_empty() => {
            errors.push(Error::invalid(&at, m, "must be non-empty if specified"));
        }
        Some(m) if m.trim().contains(['\n', '\r']) => {
            errors.push(Error::invalid(&at, m, "must not contain line breaks"));
        }
        Some(_) => {}
    }
    if let Some(r) = v.reason.as_deref().filter(|r| !REASONS.contains(r)) {
        errors.push(Error::not_supported(&path.child("reason"), r, &REASONS));
    }
}

/// Messages cannot ask the authorizer.
fn of_messages(env: &Env) -> Env {
    env.clone().without("authorizer").without("authorizer.requestResource")
}

/// The audit annotations of the policy `name`.
pub fn audit_annotations(
    list: &[api::AuditAnnotation],
    name: &str,
    env: &Env,
    path: &Path,
    errors: &mut ErrorList,
) {
    if list.len() > MAX_ANNOTATIONS {
        let why = format!("must not have more than {MAX_ANNOTATIONS} auditAnnotations");
        errors.push(Error::invalid(path, list, why));
    }
    let mut keys = BTreeSet::new();
    for (i, a) in list.iter().enumerate() {
        let at = path.index(i);
        let key = at.child("key");
        if name.is_empty() {
            errors.push(Error::invalid(&key, &a.key, "requires metadata.name be non-empty"));
        } else {
            let whole = format!("{name}/{}", a.key);
            errors.extend(invalid_each(&key, &whole, text::qualified_name(&whole)));
        }
        let value = at.child("valueExpression");
        match a.value_expression.trim() {
            "" => errors.push(Error::required(&value, "valueExpression is not specified")),
            long if long.len() > MAX_ANNOTATION => {
                let why = format!("must not exceed {MAX_ANNOTATION} bytes in length");
                errors.push(Error::required(&value, why));
            }
            trimmed => {
                if let Some(why) = Expression::new(trimmed, env, &[Type::String, Type::Null]).error() {
                    errors.push(Error::invalid(&value, &a.value_expression, why));
                }
            }
        }
        if !keys.insert(&a.key) {
            errors.push(Error::duplicate(&key, &a.key));
        }
    }
}

/// One change of a mutating policy.
pub fn mutation(m: &api::Mutation, env: &Env, path: &Path, errors: &mut ErrorList) {
    let env = env.clone().with_mutations();
    let (apply, json) = (path.child("applyConfiguration"), path.child("jsonPatch"));
    let expression =
        |e: Option<&str>, wanted: Type, at: &Path, errors: &mut ErrorList| match e.unwrap_or_default().trim()
        {
            "" => errors.push(Error::required(&at.child("expression"), "")),
            trimmed => compiles(trimmed, &env, &[wanted], &at.child("expression"), errors),
        };
    match m.patch_type.as_str() {
        "" => errors.push(Error::required(&path.child("patchType"), "")),
        "JSONPatch" => {
            match &m.json_patch {
                None => errors.push(Error::required(&json, "must be specified when patchType is JSONPatch")),
                Some(p) => {
                    expression(
                        p.expression.as_deref(),
                        crate::admission::policy::json_patch_type(),
                        &json,
                        errors,
                    );
                }
            }
            if m.apply_configuration.is_some() {
                let why = "must not be specified when patchType is JSONPatch";
                errors.push(Error::invalid(&apply, "{applyConfiguration}", why));
            }
        }
        "ApplyConfiguration" => {
            match &m.apply_configuration {
                None => {
                    let why = "must be specified when patchType is ApplyConfiguration";
                    errors.push(Error::required(&apply, why));
                }
                Some(a) => {
                    expression(
                        a.expression.as_deref(),
                        crate::admission::policy::apply_type(),
                        &apply,
                        errors,
                    );
                }
            }
            if m.json_patch.is_some() {
                let why = "must not be specified when patchType is ApplyConfiguration";
                errors.push(Error::invalid(&json, "{jsonPatch}", why));
            }
        }
        other => {
            let known = ["ApplyConfiguration", "JSONPatch"];
            errors.push(Error::not_supported(&path.child("patchType"), other, &known));
        }
    }
}
