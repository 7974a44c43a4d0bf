//! `matchConditions` of authorization webhooks: CEL expressions over `request`, a `SubjectAccessReviewSpec`.

use std::sync::LazyLock;

use super::Attributes;
use crate::cel::{self, Budget, DeclType, Env, Program, Type, Value};

/// The type of `request`.
static REQUEST: LazyLock<DeclType> = LazyLock::new(|| {
    let string = DeclType::string;
    let strings = || DeclType::list(DeclType::string());
    let requirement = DeclType::object(
        "kubernetes.SelectorRequirement",
        [("key", string()), ("operator", string()), ("values", strings())],
    );
    let selector = |name: &str| {
        let requirements = DeclType::list(requirement.clone());
        DeclType::object(name, [("rawSelector", string()), ("requirements", requirements)])
    };
    let resource = DeclType::object(
        "kubernetes.ResourceAttributes",
        [
            ("namespace", string()),
            ("verb", string()),
            ("group", string()),
            ("version", string()),
            ("resource", string()),
            ("subresource", string()),
            ("name", string()),
            ("fieldSelector", selector("kubernetes.FieldSelectorAttributes")),
            ("labelSelector", selector("kubernetes.LabelSelectorAttributes")),
        ],
    );
    let other =
        DeclType::object("kubernetes.NonResourceAttributes", [("path", string()), ("verb", string())]);
    DeclType::object(
        "kubernetes.SubjectAccessReviewSpec",
        [
            ("resourceAttributes", resource),
            ("nonResourceAttributes", other),
            ("user", string()),
            ("groups", strings()),
            ("extra", DeclType::map(strings())),
            ("uid", string()),
        ],
    )
});

/// Compiled conditions, all of which must hold.
pub struct Conditions(Vec<(String, Program)>);

impl Conditions {
    /// Compiles all expressions; the first that does not compile is the error.
    pub fn compile(expressions: &[String]) -> Result<Self, String> {
        let env = Env::default().variable("request", REQUEST.clone());
        let mut out = Vec::new();
        for text in expressions {
            let compiled = cel::compile(text, &env).map_err(|e| format!("compilation failed: {e}"))?;
            if *compiled.output() != Type::Bool {
                return Err(format!("must evaluate to bool but got {}", compiled.output()));
            }
            let program = compiled.program().map_err(|e| format!("program instantiation failed: {e}"))?;
            out.push((text.clone(), program));
        }
        Ok(Self(out))
    }

    /// Whether all hold. One that is false decides whatever the others' errors.
    pub fn hold(&self, attrs: &Attributes<'_>) -> Result<bool, String> {
        let spec = attrs.review_spec(true);
        let mut budget = Budget::new(cel::MATCH_CONDITIONS_BUDGET);
        let mut errors: Vec<String> = Vec::new();
        for (text, program) in &self.0 {
            let request = Value::from_json(&spec, &REQUEST).map_err(|e| e.to_string())?;
            let fail =
                |why: String| format!("cel evaluation error: expression '{text}' resulted in error: {why}");
            match program.eval(&[("request", request)], &mut budget) {
                Ok(v) => match v.as_bool() {
                    Some(true) => {}
                    Some(false) => return Ok(false),
                    None => errors.push(fail(format!("it is no bool but {}", v.type_name()))),
                },
                Err(e) => errors.push(fail(e.to_string())),
            }
        }
        match errors.len() {
            0 => Ok(true),
            1 => Err(errors.remove(0)),
            _ => Err(format!("[{}]", errors.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::UserInfo;

    #[test]
    fn conditions() {
        let user = UserInfo { name: "jane".into(), groups: vec!["dev".into()], ..UserInfo::default() };
        let mut a = Attributes::resource(&user, "list", "apps", "deployments", "");
        a.namespace = "kube-system";
        a.field_selector = super::super::selector::parse_fields("spec.nodeName=n1");
        let ask = |list: &[&str]| {
            Conditions::compile(&list.iter().map(|s| (*s).to_owned()).collect::<Vec<_>>())?.hold(&a)
        };
        assert_eq!(ask(&["has(request.resourceAttributes)", "request.user == 'jane'"]), Ok(true));
        assert_eq!(ask(&["request.resourceAttributes.namespace != 'kube-system'"]), Ok(false));
        assert_eq!(ask(&["has(request.nonResourceAttributes)"]), Ok(false));
        assert_eq!(ask(&["!('dev' in request.groups)", "request.extra['x'][0] == 'y'"]), Ok(false));
        assert_eq!(
            ask(&["request.resourceAttributes.fieldSelector.requirements[0].values[0] == 'n1'"]),
            Ok(true)
        );
        assert!(ask(&["request.extra['x'][0] == 'y'"]).unwrap_err().contains("no such key"));
        assert!(ask(&["request.nope"]).unwrap_err().contains("undefined field 'nope'"));
        assert!(ask(&["request.user"]).unwrap_err().starts_with("must evaluate to bool but got string"));
        assert!(ask(&["request.user =="]).unwrap_err().starts_with("compilation failed: "));
    }
}
