//! The `authorizer` variable: `authorizer.group('apps').resource('deployments').namespace('x').check('create')`.

use std::sync::Arc;

use super::super::authority::{Decided, PathCheck, ResourceCheck};
use super::super::native::Native;
use super::super::value::{EvalError, EvalResult, Value};
use super::Builtin;
use crate::text;

pub fn find(name: &str) -> Option<Builtin> {
    Some(match name {
        "path" => |a, _| {
            with(a, |n, s| match n {
                Native::Authorizer(_) if s.trim().is_empty() => Err(EvalError::new("path must not be empty")),
                Native::Authorizer(subject) => {
                    Ok(Native::PathCheck(PathCheck { subject: subject.clone(), path: s.into() }).into())
                }
                _ => Err(EvalError::NoOverload),
            })
        },
        "group" => |a, _| {
            with(a, |n, s| match n {
                Native::Authorizer(subject) => Ok(Native::GroupCheck(subject.clone(), s.into()).into()),
                _ => Err(EvalError::NoOverload),
            })
        },
        "serviceAccount" => service_account,
        "resource" => |a, _| {
            with(a, |n, s| match n {
                Native::GroupCheck(..) if s.trim().is_empty() => {
                    Err(EvalError::new("resource must not be empty"))
                }
                Native::GroupCheck(subject, group) => {
                    Ok(Native::ResourceCheck(ResourceCheck::new(subject.clone(), group.clone(), s)).into())
                }
                _ => Err(EvalError::NoOverload),
            })
        },
        "subresource" => |a, _| narrowed(a, |c, s| c.subresource = s),
        "namespace" => |a, _| narrowed(a, |c, s| c.namespace = s),
        "name" => |a, _| narrowed(a, |c, s| c.name = s),
        "fieldSelector" => |a, _| narrowed(a, |c, s| c.field_selector = s),
        "labelSelector" => |a, _| narrowed(a, |c, s| c.label_selector = s),
        "check" => |a, _| {
            with(a, |n, verb| match n {
                Native::PathCheck(c) => Ok(Native::Decision(c.check(verb)).into()),
                Native::ResourceCheck(c) => Ok(Native::Decision(c.check(verb)).into()),
                _ => Err(EvalError::NoOverload),
            })
        },
        "allowed" => |a, _| decision(a, |d| Value::Bool(d.allowed)),
        "reason" => |a, _| decision(a, |d| d.reason.clone().into()),
        "errored" => |a, _| decision(a, |d| Value::Bool(!d.error.is_empty())),
        "error" => |a, _| decision(a, |d| d.error.clone().into()),
        _ => return None,
    })
}

fn with<'a>(a: &[Value<'a>], f: impl Fn(&Native, &str) -> EvalResult<'a>) -> EvalResult<'a> {
    match a {
        [Value::Native(n), Value::String(s)] => f(n, s),
        _ => Err(EvalError::NoOverload),
    }
}

fn narrowed<'a>(a: &[Value<'a>], f: impl Fn(&mut ResourceCheck, Arc<str>)) -> EvalResult<'a> {
    with(a, |n, s| match n {
        Native::ResourceCheck(c) => {
            let mut c = c.clone();
            f(&mut c, s.into());
            Ok(Native::ResourceCheck(c).into())
        }
        _ => Err(EvalError::NoOverload),
    })
}

fn decision<'a>(a: &[Value<'a>], f: impl Fn(&Decided) -> Value<'a>) -> EvalResult<'a> {
    if let [Value::Native(n)] = a
        && let Native::Decision(d) = &**n
    {
        return Ok(f(d));
    }
    Err(EvalError::NoOverload)
}

fn service_account<'a>(a: &[Value<'a>], _: Option<&regex::Regex>) -> EvalResult<'a> {
    let [Value::Native(n), Value::String(namespace), Value::String(name)] = a else {
        return Err(EvalError::NoOverload);
    };
    let Native::Authorizer(subject) = &**n else { return Err(EvalError::NoOverload) };
    if !text::dns1123_subdomain(name).is_empty() {
        return Err(EvalError::new("Invalid service account name"));
    }
    if !text::dns1123_label(namespace).is_empty() {
        return Err(EvalError::new("Invalid service account namespace"));
    }
    Ok(Native::Authorizer(subject.service_account(namespace, name)).into())
}
