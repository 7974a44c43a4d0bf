//! CEL expressions of an `AuthenticationConfiguration`: over the token's `claims`, or over the `user` made of them.

use serde_json::Value;

/// Which variable an expression sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `claims`: the token's, as a map.
    Claims,
    /// `user`: a `UserInfo`.
    User,
}

/// A compiled expression.
#[derive(Debug)]
pub struct Expression {
    text: String,
}

impl Expression {
    /// Compiles; the error is fit for a field error's detail. `boolean` expressions must evaluate to a bool, others to
    /// strings or lists of them.
    pub fn compile(_text: &str, _scope: Scope, _boolean: bool) -> Result<Self, String> {
        Err("CEL expressions are not available in this build".to_owned())
    }

    /// The expression as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its value for the scope's variable.
    pub fn eval(&self, _variable: &Value) -> Result<Value, String> {
        Err("CEL expressions are not available in this build".to_owned())
    }

    /// Whether the expression reads `field` of the scope's variable.
    pub fn reads(&self, _field: &str) -> bool {
        false
    }
}
