//! CEL expressions of an `AuthenticationConfiguration`: over the token's `claims`, or over the `user` made of them.

use std::sync::LazyLock;

use serde_json::Value as Json;

use crate::cel::{self, Budget, DeclType, Env, Program, Type, Value};

/// Which variable an expression sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `claims`: the token's, as a map.
    Claims,
    /// `user`: a `UserInfo`.
    User,
}

static CLAIMS: LazyLock<DeclType> = LazyLock::new(|| DeclType::map(DeclType::DYN));

static USER: LazyLock<DeclType> = LazyLock::new(|| {
    let strings = || DeclType::list(DeclType::string());
    DeclType::object(
        "kubernetes.UserInfo",
        [
            ("username", DeclType::string()),
            ("uid", DeclType::string()),
            ("groups", strings()),
            ("extra", DeclType::map(strings())),
        ],
    )
});

impl Scope {
    fn variable(self) -> (&'static str, &'static DeclType) {
        match self {
            Self::Claims => ("claims", &CLAIMS),
            Self::User => ("user", &USER),
        }
    }
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    text: String,
    scope: Scope,
    program: Program,
}

impl Expression {
    /// Compiles; the error is fit for a field error's detail. `boolean` expressions must evaluate to a bool, others to
    /// strings or lists of them, which is seen when they do.
    pub fn compile(text: &str, scope: Scope, boolean: bool) -> Result<Self, String> {
        let (name, ty) = scope.variable();
        let env = Env::default().variable(name, ty.clone());
        let compiled = cel::compile(text, &env).map_err(|e| format!("compilation failed: {e}"))?;
        let output = compiled.output();
        if boolean && !matches!(output, Type::Bool) {
            return Err(format!("must evaluate to bool but got {output}"));
        }
        let program = compiled.program().map_err(|e| format!("program instantiation failed: {e}"))?;
        Ok(Self { text: text.to_owned(), scope, program })
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value for the scope's variable.
    pub fn eval(&self, variable: &Json) -> Result<Json, String> {
        let (name, ty) = self.scope.variable();
        let value = Value::from_json(variable, ty).map_err(|e| e.to_string())?;
        let fail = |why: String| format!("expression '{}' resulted in error: {why}", self.text);
        let result = self.program.eval(&[(name, value)], &mut Budget::new(cel::RUNTIME_BUDGET));
        match result.map_err(|e| fail(e.to_string()))? {
            Value::Optional(None) => Ok(Json::Null),
            v => v.to_json().map_err(|e| fail(e.to_string())),
        }
    }

    /// Whether the expression reads `field` of the scope's variable by a selection (`claims.email`, `claims.?email`).
    pub fn reads(&self, field: &str) -> bool {
        selects(&self.text, self.scope.variable().0, field)
    }
}

/// Looks for `variable . ? field` outside of string literals.
fn selects(text: &str, variable: &str, field: &str) -> bool {
    let tokens = tokens(text);
    tokens.windows(3).enumerate().any(|(i, w)| {
        let own = i == 0 || tokens[i - 1] != ".";
        own && w[0] == variable
            && w[1] == "."
            && (w[2] == field || (w[2] == "?" && tokens.get(i + 3).is_some_and(|t| t == field)))
    })
}

/// Names and single signs; literals are left out.
fn tokens(text: &str) -> Vec<String> {
    let mut out: Vec<String> = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' | '\'' => {
                while let Some(inner) = chars.next() {
                    match inner {
                        '\\' => drop(chars.next()),
                        i if i == c => break,
                        _ => {}
                    }
                }
                out.push("literal".to_owned());
            }
            c if c.is_whitespace() => {}
            c if c.is_alphanumeric() || c == '_' => {
                let mut name = c.to_string();
                while let Some(n) = chars.next_if(|n| n.is_alphanumeric() || *n == '_') {
                    name.push(n);
                }
                out.push(name);
            }
            c => out.push(c.to_string()),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn over_claims_and_users() {
        let claims = json!({"sub": "jane", "roles": ["a", "b"], "email": "j@x", "email_verified": true});
        let eval = |text: &str| Expression::compile(text, Scope::Claims, false)?.eval(&claims);
        assert_eq!(eval("'oidc:' + claims.sub"), Ok(json!("oidc:jane")));
        assert_eq!(eval("claims.roles.map(r, 'g:' + r)"), Ok(json!(["g:a", "g:b"])));
        assert_eq!(eval("claims.?nick.orValue('none')"), Ok(json!("none")));
        assert!(eval("claims.nick").unwrap_err().contains("no such key"));
        assert!(eval("claim.sub").unwrap_err().contains("undeclared reference to 'claim'"));
        let user = json!({"username": "x", "uid": "", "groups": ["system:masters"], "extra": {}});
        let rule = Expression::compile("!user.groups.exists(g, g.startsWith('system:'))", Scope::User, true);
        assert_eq!(rule.unwrap().eval(&user), Ok(json!(false)));
        assert!(
            Expression::compile("user.username", Scope::User, true)
                .unwrap_err()
                .contains("must evaluate to bool")
        );
        assert!(Expression::compile("user.nope", Scope::User, false).is_err());
    }

    #[test]
    fn what_is_read() {
        let reads = |text: &str, field: &str| selects(text, "claims", field);
        assert!(reads("claims.email", "email"));
        assert!(reads("claims . ? email.orValue('')", "email"));
        assert!(!reads("claims.email_verified", "email"));
        assert!(!reads("'claims.email'", "email"));
        assert!(!reads("other.claims.email", "email"));
    }
}
