//! Query parameters, decoded once per request.

use crate::status::{ApiError, ApiResult};

/// The decoded parameters in the order sent.
#[derive(Debug, Clone, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Parses what follows the `?`; undecodable escapes are kept as they are.
    pub fn parse(raw: Option<&str>) -> Self {
        let Some(raw) = raw else { return Self::default() };
        Self(
            url::form_urlencoded::parse(raw.as_bytes())
                .map(|(k, v)| (k.into_owned(), v.into_owned()))
                .collect(),
        )
    }

    /// The first value of `name`; empty counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    /// Whether `name` was sent at all, even empty.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(k, _)| k == name)
    }

    /// Every value of `name`.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(k, _)| k == name).map(|(_, v)| v.as_str())
    }

    /// A flag as upstream converts it: anything but `false` and `0` is true; present without value is true.
    pub fn flag(&self, name: &str) -> bool {
        self.opt_flag(name).unwrap_or(false)
    }

    /// Like [`flag`](Self::flag), telling absent from false.
    pub fn opt_flag(&self, name: &str) -> Option<bool> {
        self.0.iter().find(|(k, _)| k == name).map(|(_, v)| !(v == "false" || v == "0"))
    }

    /// A 64-bit number; upstream's words on anything else, nothing included.
    pub fn int(&self, name: &str) -> ApiResult<Option<i64>> {
        let Some((_, v)) = self.0.iter().find(|(k, _)| k == name) else { return Ok(None) };
        v.parse().map(Some).map_err(|_| {
            let why = if is_integer(v) { "value out of range" } else { "invalid syntax" };
            ApiError::bad_request(format!("strconv.ParseInt: parsing \"{v}\": {why}"))
        })
    }
}

fn is_integer(v: &str) -> bool {
    let digits = v.strip_prefix(['-', '+']).unwrap_or(v);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_and_converts() {
        let q = Query::parse(Some("labelSelector=a%3Db&watch=1&pretty&limit=x&dryRun=All&dryRun=All"));
        assert_eq!(q.get("labelSelector"), Some("a=b"));
        assert!(q.flag("watch") && q.flag("pretty") && !q.flag("nope"));
        assert_eq!(
            q.int("limit").expect_err("x is no number").message,
            "strconv.ParseInt: parsing \"x\": invalid syntax"
        );
        assert!(
            Query::parse(Some("limit=")).int("limit").is_err() && q.int("none").expect("absent").is_none()
        );
        assert_eq!(q.all("dryRun").count(), 2);
    }
}
