//! Checks the expressions of a validating policy against the types of the objects that it matches. What it finds goes
//! into the policy's status and changes nothing else: at run time objects are of any type. Source: KEP-3488, "Type
//! checking".

use serde_json::Value;

use super::{declare, environment};
use crate::{DeclType, Env, Type, compile};

/// At most that many types are looked at for one rule.
pub const MAX_TYPES: usize = 10;

/// A kind with the type of its objects.
#[derive(Debug, Clone)]
pub struct Kind {
    /// `apps/v1, Kind=Deployment`
    pub name: String,
    pub ty: DeclType,
}

impl Kind {
    /// A kind by its names.
    pub fn new(group: &str, version: &str, kind: &str, ty: DeclType) -> Self {
        Self { name: format!("{group}/{version}, Kind={kind}"), ty }
    }
}

/// One of the `expressionWarnings` of a policy's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// `spec.validations[0].expression`
    pub field_ref: String,
    pub warning: String,
}

fn items<'a>(v: &'a Value, pointer: &str) -> &'a [Value] {
    v.pointer(pointer).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn text<'a>(v: &'a Value, field: &str) -> &'a str {
    v.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// What is wrong with the policy (as JSON) for these kinds, which are in the order of their names. `params`: the type of
/// its parameters, if that is known.
pub fn warnings(policy: &Value, kinds: &[Kind], params: Option<&DeclType>) -> Vec<Warning> {
    let mut out = Vec::new();
    let environments: Vec<(&Kind, Env)> = kinds.iter().map(|k| (k, for_kind(policy, k, params))).collect();
    for (i, v) in items(policy, "/spec/validations").iter().enumerate() {
        for field in ["expression", "messageExpression"] {
            let expression = text(v, field);
            if expression.is_empty() {
                continue;
            }
            let found = environments.iter().filter_map(|(k, env)| {
                let e = compile(expression, env).err()?;
                Some(format!("{}: compilation failed: {e}\n", k.name))
            });
            let warning = found.collect::<Vec<_>>().join("\n");
            if !warning.is_empty() {
                out.push(Warning { field_ref: format!("spec.validations[{i}].{field}"), warning });
            }
        }
    }
    out
}

/// What the policy's validations can name where it is about an object of this kind.
fn for_kind(policy: &Value, kind: &Kind, params: Option<&DeclType>) -> Env {
    let has_params = policy.pointer("/spec/paramKind").is_some_and(Value::is_object);
    let mut env = environment(has_params, true)
        .variable("object", kind.ty.clone())
        .variable("oldObject", kind.ty.clone());
    if let Some(p) = params.filter(|_| has_params) {
        env = env.variable("params", p.clone());
    }
    let mut before = Vec::new();
    for v in items(policy, "/spec/variables") {
        // One that does not compile is told where it is used, as what it could be: anything.
        let ty = compile(text(v, "expression"), &env).map_or(Type::Dyn, |c| c.output().clone());
        env = declare(env, text(v, "name"), ty, &before);
        before.push(text(v, "name"));
    }
    env
}

/// A resource that a rule names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Named {
    pub group: String,
    pub version: String,
    pub resource: String,
}

/// The resources that each rule of the policy names: in order, without wildcards and subresources. A rule with a wildcard
/// among its groups or versions names none.
pub fn named(policy: &Value) -> Vec<Vec<Named>> {
    let rules = items(policy, "/spec/matchConstraints/resourceRules").iter();
    rules
        .map(|rule| {
            let list = |f: &str| -> Vec<&str> {
                let mut l: Vec<&str> = items(rule, f).iter().filter_map(Value::as_str).collect();
                l.sort_unstable();
                l
            };
            let (groups, versions) = (list("/apiGroups"), list("/apiVersions"));
            if groups.iter().chain(&versions).any(|x| x.contains('*')) {
                return Vec::new();
            }
            let mut out = Vec::new();
            for group in &groups {
                for version in &versions {
                    for resource in list("/resources").iter().filter(|r| !r.contains(['*', '/'])) {
                        out.push(Named {
                            group: (*group).to_owned(),
                            version: (*version).to_owned(),
                            resource: (*resource).to_owned(),
                        });
                    }
                }
            }
            out
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn kind(name: &str) -> Kind {
        let ty = proto::schema::by_gvk("", "v1", name).expect("a type");
        Kind::new("", "v1", name, DeclType::from_schema(ty))
    }

    #[test]
    fn wrong_fields_are_told_for_each_kind() {
        let policy = json!({"spec": {
            "variables": [{"name": "keys", "expression": "object.data.map(k, k)"}, {"name": "odd", "expression": "1 + 'a'"}],
            "validations": [
                {"expression": "object.data.all(k, object.dta[k] == '')", "messageExpression": "object.kind"},
                {"expression": "variables.keys.size() > 0 && variables.odd == 3", "messageExpression": "variables.nope"}]}});
        let found = warnings(&policy, &[kind("ConfigMap"), kind("Secret")], None);
        let fields: Vec<&str> = found.iter().map(|w| w.field_ref.as_str()).collect();
        assert_eq!(fields, ["spec.validations[0].expression", "spec.validations[1].messageExpression"]);
        let text = &found[0].warning;
        assert!(text.starts_with("/v1, Kind=ConfigMap: compilation failed: ERROR: <input>:1:"), "{text}");
        assert!(text.contains("undefined field 'dta'") && text.contains("\n\n/v1, Kind=Secret: "), "{text}");
        assert_eq!(warnings(&policy, &[], None), [], "nothing matched, nothing to say");
    }

    #[test]
    fn parameters_have_the_type_that_is_known() {
        let policy = json!({"spec": {"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"},
            "validations": [{"expression": "params.nope == 1"}]}});
        let maps = kind("ConfigMap");
        assert_eq!(warnings(&policy, &[kind("Pod")], Some(&maps.ty)).len(), 1);
        assert_eq!(warnings(&policy, &[kind("Pod")], None), [], "they may be anything");
    }

    #[test]
    fn rules_name_resources() {
        let rule = |groups: &[&str], resources: &[&str]| json!({"apiGroups": groups, "apiVersions": ["v1"], "resources": resources});
        let policy = json!({"spec": {"matchConstraints": {"resourceRules": [
            rule(&["apps", ""], &["pods", "deployments", "pods/status", "*"]), rule(&["*"], &["pods"])]}}});
        let found = named(&policy);
        let names: Vec<String> = found[0].iter().map(|n| format!("{}/{}", n.group, n.resource)).collect();
        assert_eq!(names, ["/deployments", "/pods", "apps/deployments", "apps/pods"]);
        assert!(found.len() == 2 && found[1].is_empty());
    }
}
