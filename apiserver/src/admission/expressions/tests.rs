//! Groups of expressions over a request.

use serde_json::{Value, json};

use super::*;
use crate::cel::Type;
use crate::request::UserInfo;

struct Fixture {
    object: Value,
    request: Value,
    user: UserInfo,
}

fn fixture() -> Fixture {
    Fixture {
        object: json!({"metadata": {"name": "x", "labels": {"env": "test"}}, "spec": {"replicas": 5}}),
        request: json!({"operation": "CREATE", "name": "x", "namespace": "ns", "dryRun": false,
            "requestResource": {"group": "apps", "version": "v1", "resource": "deployments"},
            "userInfo": {"username": "u", "groups": ["g"]}}),
        user: UserInfo { name: "u".into(), ..UserInfo::default() },
    }
}

impl Fixture {
    fn inputs(&self) -> Inputs<'_> {
        static NULL: Value = Value::Null;
        Inputs {
            object: &self.object,
            old: &NULL,
            request: &self.request,
            namespace: &NULL,
            params: &NULL,
            authority: None,
            user: &self.user,
        }
    }
}

#[test]
fn conditions() {
    let f = fixture();
    let outcome =
        |list: Value| MatchConditions::compile(list.as_array().unwrap(), false).evaluate(&f.inputs());
    assert_eq!(outcome(json!([])), Outcome::Matches);
    let holds = json!({"name": "a", "expression": "request.userInfo.username == 'u' && oldObject == null"});
    let fails = json!({"name": "b", "expression": "object.metadata.nope == 'x'"});
    let excludes = json!({"name": "c", "expression": "object.spec.replicas > 5"});
    assert_eq!(outcome(json!([holds])), Outcome::Matches);
    assert_eq!(outcome(json!([holds, fails, excludes])), Outcome::Excluded("c".into()));
    assert_eq!(
        outcome(json!([holds, fails])),
        Outcome::Failed {
            message: "expression 'object.metadata.nope == 'x'' resulted in error: no such key: nope".into(),
            failures: 1
        }
    );
    let Outcome::Failed { message, .. } = outcome(json!([{"name": "d", "expression": "nope"}])) else {
        panic!("an expression that does not compile holds")
    };
    assert!(
        message
            .starts_with("compilation error: compilation failed: ERROR: <input>:1:1: undeclared reference")
    );
}

#[test]
fn variables_are_computed_once_and_see_those_before_them() {
    let f = fixture();
    let list = [
        ("replicas", "object.spec.replicas"),
        ("twice", "int(variables.replicas) * 2"),
        ("broken", "object.nope"),
        ("wrong", "variables.later"),
    ];
    let (variables, env) = Variables::compile(list, environment(false, false));
    let e = |s: &str| Expression::new(s, &env, &[Type::Bool]);
    let list = [
        e("variables.twice == 10 && variables.twice > variables.replicas"),
        e("variables.broken == 1"),
        e("variables.wrong == 1"),
        e("has(variables.twice)"),
    ];
    let inputs = f.inputs();
    let evaluation = Evaluation::new(&inputs, &variables);
    let mut budget = 1000;
    let results = evaluation.all(&list, &mut budget).unwrap();
    assert_eq!(results[0].as_ref().unwrap().as_bool(), Some(true));
    assert_eq!(
        results[1].as_ref().unwrap_err(),
        "expression 'variables.broken == 1' resulted in error: composited variable \"broken\" fails to evaluate: no such key: nope"
    );
    assert!(results[2].as_ref().unwrap_err().contains("composited variable \"wrong\" fails to compile"));
    assert_eq!(results[3].as_ref().unwrap().as_bool(), Some(true));
    let mut little = 3;
    let evaluation = Evaluation::new(&inputs, &variables);
    assert_eq!(evaluation.all(&list, &mut little).unwrap_err(), OutOfBudget);
    assert!(e("variables.nope").error().unwrap().contains("undefined field 'nope'"));
    assert_eq!(e("variables.twice").error().unwrap(), "must evaluate to bool but got int");
    assert_eq!(e("object.spec").error().unwrap(), "must evaluate to bool but got dyn");
    let either = Expression::new("1", &env, &[Type::String, Type::Null]);
    assert_eq!(either.error().unwrap(), "must evaluate to one of [string null_type] but got int");
}
