//! `matchConditions`: CEL expressions that all must hold for a webhook to be called.

use serde_json::Value;

use crate::lookup::text;

/// The conditions of one webhook.
#[derive(Debug, Default)]
pub struct Conditions {
    names: Vec<String>,
}

impl Conditions {
    /// Takes `matchConditions`.
    pub fn compile(list: &[Value]) -> Self {
        Self { names: list.iter().map(|c| text(c, "/name").to_owned()).collect() }
    }

    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether all conditions hold.
    ///
    /// # Errors
    /// One could not be evaluated and none is false.
    pub fn hold(&self) -> Result<bool, String> {
        if self.names.is_empty() {
            return Ok(true);
        }
        Err(format!("match conditions cannot be evaluated by this server: {}", self.names.join(", ")))
    }
}
