//! Who came, beyond what authentication itself counts.

use prometheus_client::metrics::counter::Counter;

use crate::request::UserInfo;

/// Tokens of service accounts.
pub struct Access {
    valid_tokens: Counter,
}

impl Access {
    pub fn new(registry: &component_base::metrics::Metrics) -> Self {
        let a = Self { valid_tokens: Counter::default() };
        registry.register(|r| {
            r.register(
                "serviceaccount_valid_tokens",
                "Cumulative valid projected service account tokens used",
                a.valid_tokens.clone(),
            );
        });
        a
    }

    /// Somebody was recognized.
    pub fn authenticated(&self, u: &UserInfo) {
        let by_token = u.extra.contains_key("authentication.kubernetes.io/credential-id");
        if by_token && u.name.starts_with("system:serviceaccount:") {
            self.valid_tokens.inc();
        }
    }
}
