//! Checks the expressions of a validating policy against the types of the objects that it matches. What it finds goes
//! into the policy's status and changes nothing else: at run time objects are of any type.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::admission::expressions::{Variables, environment};
use crate::cel::{DeclType, Env, compile};
use crate::lookup::{items, text};
use crate::registry::resource::Resource;
use crate::registry::table::Table;

/// At most that many types are looked at for one rule.
const MAX_TYPES: usize = 10;

/// The `expressionWarnings` of a policy's status.
pub fn warnings(policy: &Value, table: &Table) -> Vec<Value> {
    let objects: Vec<Typed> = kinds(policy, table).iter().map(|r| Typed::new(r)).collect();
    let params = policy.pointer("/spec/paramKind").filter(|p| p.is_object());
    let param_type = params.and_then(|p| {
        let api_version = text(p, "/apiVersion");
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        table.by_kind(group, version, text(p, "/kind")).map(|r| DeclType::from_schema(&r.schema))
    });
    let check = |expression: &str| -> String {
        let found = objects.iter().filter_map(|o| {
            let env = o.environment(policy, params.is_some(), param_type.as_ref());
            let e = compile(expression, &env).err()?;
            Some(format!("{}: compilation failed: {e}\n", o.kind))
        });
        found.collect::<Vec<_>>().join("\n")
    };
    let mut out = Vec::new();
    for (i, v) in items(policy, "/spec/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = v.get(field).and_then(Value::as_str).unwrap_or_default();
            if expression.is_empty() {
                continue;
            }
            let warning = check(expression);
            if !warning.is_empty() {
                out.push(json!({"fieldRef": format!("spec.validations[{i}].{field}"), "warning": warning}));
            }
        }
    }
    out
}

/// A kind with its type.
struct Typed {
    /// `apps/v1, Kind=Deployment`
    kind: String,
    ty: DeclType,
}

impl Typed {
    fn new(r: &Resource) -> Self {
        Self {
            kind: format!("{}/{}, Kind={}", r.group, r.version, r.kind),
            ty: DeclType::from_schema(&r.schema),
        }
    }

    fn environment(&self, policy: &Value, has_params: bool, params: Option<&DeclType>) -> Env {
        let mut env = environment(has_params, true)
            .variable("object", self.ty.clone())
            .variable("oldObject", self.ty.clone());
        if let Some(p) = params.filter(|_| has_params) {
            env = env.variable("params", p.clone());
        }
        let list =
            items(policy, "/spec/variables").iter().map(|v| (text(v, "/name"), text(v, "/expression")));
        Variables::compile(list, env).1
    }
}

/// The resources that the rules name: sorted by kind, without those that are named by wildcards.
fn kinds(policy: &Value, table: &Table) -> Vec<Arc<Resource>> {
    let mut seen = BTreeSet::new();
    let mut out: Vec<Arc<Resource>> = Vec::new();
    for rule in items(policy, "/spec/matchConstraints/resourceRules") {
        let list = |f: &str| -> Vec<&str> {
            let mut l: Vec<&str> = items(rule, f).iter().filter_map(Value::as_str).collect();
            l.sort_unstable();
            l
        };
        let (groups, versions) = (list("/apiGroups"), list("/apiVersions"));
        if groups.iter().chain(&versions).any(|x| x.contains('*')) {
            continue;
        }
        let mut count = 0;
        for group in &groups {
            for version in &versions {
                for resource in list("/resources").iter().filter(|r| !r.contains(['*', '/'])) {
                    let Some(r) = table.get(group, version, resource) else { continue };
                    if seen.insert((r.group, r.version, r.kind)) {
                        out.push(Arc::clone(r));
                    }
                    count += 1;
                    if count == MAX_TYPES {
                        return sorted(out);
                    }
                }
            }
        }
    }
    sorted(out)
}

fn sorted(mut list: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
    list.sort_by_key(|r| (r.group, r.version, r.kind));
    list
}
