//! From a token's claims to a user.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::config::{Claim, Jwt, PrefixedClaim};
use super::expression::{Expression, Scope};
use crate::authn::CREDENTIAL_ID;
use crate::request::UserInfo;

/// Where one value comes from.
#[derive(Debug)]
enum Source {
    Nothing,
    Claim { name: String, prefix: String },
    Expression(Expression),
}

/// A rule that must be true, with what is said when it is not.
#[derive(Debug)]
struct Rule {
    expression: Expression,
    message: String,
}

/// The mappings and rules of one issuer.
#[derive(Debug)]
pub struct Mapper {
    username: Source,
    groups: Source,
    uid: Source,
    extra: Vec<(String, Expression)>,
    required: Vec<(String, String)>,
    claim_rules: Vec<Rule>,
    user_rules: Vec<Rule>,
}

fn source(claim: &str, prefix: Option<&str>, expression: &str) -> Result<Source, String> {
    if !expression.is_empty() {
        return Expression::compile(expression, Scope::Claims, false).map(Source::Expression);
    }
    if claim.is_empty() {
        return Ok(Source::Nothing);
    }
    Ok(Source::Claim { name: claim.to_owned(), prefix: prefix.unwrap_or_default().to_owned() })
}

impl Mapper {
    /// Compiles a configuration that was checked.
    pub fn new(j: &Jwt) -> Result<Self, String> {
        let prefixed = |p: &PrefixedClaim| source(&p.claim, p.prefix.as_deref(), &p.expression);
        let plain = |c: &Claim| source(&c.claim, None, &c.expression);
        let rule = |expression: &str, message: &str, scope| -> Result<Rule, String> {
            let expression = Expression::compile(expression, scope, true)?;
            Ok(Rule { expression, message: message.to_owned() })
        };
        let (by_claim, by_expression): (Vec<_>, Vec<_>) =
            j.claim_validation_rules.iter().partition(|r| !r.claim.is_empty());
        Ok(Self {
            username: prefixed(&j.claim_mappings.username)?,
            groups: prefixed(&j.claim_mappings.groups)?,
            uid: plain(&j.claim_mappings.uid)?,
            extra: j
                .claim_mappings
                .extra
                .iter()
                .map(|e| Ok((e.key.clone(), Expression::compile(&e.value_expression, Scope::Claims, false)?)))
                .collect::<Result<_, String>>()?,
            required: by_claim.iter().map(|r| (r.claim.clone(), r.required_value.clone())).collect(),
            claim_rules: by_expression
                .iter()
                .map(|r| rule(&r.expression, &r.message, Scope::Claims))
                .collect::<Result<_, _>>()?,
            user_rules: j
                .user_validation_rules
                .iter()
                .map(|r| rule(&r.expression, &r.message, Scope::User))
                .collect::<Result<_, _>>()?,
        })
    }

    /// The user of verified claims.
    pub fn user(&self, claims: &Value) -> Result<UserInfo, String> {
        let mut user = UserInfo {
            name: self.username(claims)?,
            groups: self.groups(claims)?,
            uid: self.uid(claims)?,
            extra: self.extra(claims)?,
        };
        for (claim, wanted) in &self.required {
            let Some(found) = claims.get(claim) else {
                return Err(format!("oidc: required claim {claim} not present in ID token"));
            };
            let Some(found) = found.as_str() else {
                return Err(format!("oidc: parse claim {claim}: it is not a string"));
            };
            if found != wanted {
                return Err(format!(
                    "oidc: required claim {claim} value does not match. Got = {found}, want = {wanted}"
                ));
            }
        }
        check(&self.claim_rules, claims, "claim validation expression")?;
        if !self.user_rules.is_empty() {
            let value = json!({
                "username": user.name, "uid": user.uid, "groups": user.groups, "extra": user.extra,
            });
            check(&self.user_rules, &value, "user info validation rule")?;
        }
        if let Some(jti) = claims.get("jti").and_then(Value::as_str).filter(|j| !j.is_empty()) {
            user.extra.entry(CREDENTIAL_ID.to_owned()).or_insert_with(|| vec![format!("JTI={jti}")]);
        }
        Ok(user)
    }

    fn username(&self, claims: &Value) -> Result<String, String> {
        match &self.username {
            Source::Nothing => Err("oidc: no claim names the user".to_owned()),
            Source::Claim { name, prefix } => {
                let found = text_claim(claims, name)
                    .map_err(|e| format!("oidc: parse username claims {name:?}: {e}"))?;
                // An address that its provider did not verify may be anybody's.
                if name == "email" {
                    match claims.get("email_verified") {
                        None | Some(Value::Bool(true)) => {}
                        Some(Value::Bool(false)) => return Err("oidc: email not verified".to_owned()),
                        Some(_) => {
                            return Err("oidc: parse 'email_verified' claim: it is not a bool".to_owned());
                        }
                    }
                }
                Ok(format!("{prefix}{found}"))
            }
            Source::Expression(e) => {
                let fail = |why: String| format!("oidc: error evaluating username claim expression: {why}");
                match e.eval(claims).map_err(fail)? {
                    Value::String(s) if s.is_empty() => {
                        Err("oidc: empty username via CEL expression is not allowed".to_owned())
                    }
                    Value::String(s) => Ok(s),
                    _ => Err(fail("username claim expression must return a string".to_owned())),
                }
            }
        }
    }

    fn groups(&self, claims: &Value) -> Result<Vec<String>, String> {
        match &self.groups {
            Source::Nothing => Ok(Vec::new()),
            Source::Claim { name, prefix } => {
                let Some(v) = claims.get(name) else { return Ok(Vec::new()) };
                let strings = match v {
                    Value::String(s) => Some(vec![s.clone()]),
                    Value::Array(a) => a.iter().map(|s| s.as_str().map(str::to_owned)).collect(),
                    Value::Null => Some(Vec::new()),
                    _ => None,
                };
                let strings = strings.ok_or_else(|| {
                    format!("oidc: parse groups claim {name:?}: it is neither a string nor a list of strings")
                })?;
                Ok(strings.into_iter().map(|g| format!("{prefix}{g}")).collect())
            }
            Source::Expression(e) => e
                .eval(claims)
                .and_then(strings)
                .map_err(|why| format!("oidc: error evaluating group claim expression: {why}")),
        }
    }

    fn uid(&self, claims: &Value) -> Result<String, String> {
        match &self.uid {
            Source::Nothing => Ok(String::new()),
            Source::Claim { name, .. } => {
                text_claim(claims, name).map_err(|e| format!("oidc: parse uid claim {name:?}: {e}"))
            }
            Source::Expression(e) => {
                let fail = |why: String| format!("oidc: error evaluating uid claim expression: {why}");
                match e.eval(claims).map_err(fail)? {
                    Value::String(s) => Ok(s),
                    _ => Err(fail("uid claim expression must return a string".to_owned())),
                }
            }
        }
    }

    fn extra(&self, claims: &Value) -> Result<BTreeMap<String, Vec<String>>, String> {
        let mut out = BTreeMap::new();
        for (key, e) in &self.extra {
            let values = e.eval(claims).and_then(strings).map_err(|why| {
                format!("oidc: error evaluating extra claim expression: {}: {why}", e.text())
            })?;
            if !values.is_empty() {
                out.insert(key.clone(), values);
            }
        }
        Ok(out)
    }
}

fn check(rules: &[Rule], value: &Value, what: &str) -> Result<(), String> {
    for r in rules {
        let fail = |why: String| format!("oidc: error evaluating {what}: {why}");
        match r.expression.eval(value).map_err(fail)? {
            Value::Bool(true) => {}
            Value::Bool(false) => {
                return Err(fail(format!(
                    "validation expression '{}' failed: {}",
                    r.expression.text(),
                    r.message
                )));
            }
            _ => return Err(fail("validation expression must return a boolean".to_owned())),
        }
    }
    Ok(())
}

fn text_claim(claims: &Value, name: &str) -> Result<String, &'static str> {
    match claims.get(name) {
        None => Err("claim not present"),
        Some(Value::String(s)) => Ok(s.clone()),
        Some(_) => Err("it is not a string"),
    }
}

/// What an expression for strings gave: empty strings count as absent.
fn strings(v: Value) -> Result<Vec<String>, String> {
    let list = match v {
        Value::Null => Vec::new(),
        Value::String(s) => vec![s],
        Value::Array(a) => a
            .into_iter()
            .map(|s| match s {
                Value::String(s) => Ok(s),
                _ => Err("expression must return a string or a list of strings".to_owned()),
            })
            .collect::<Result<_, _>>()?,
        _ => return Err("expression must return a string or a list of strings".to_owned()),
    };
    Ok(list.into_iter().filter(|s| !s.is_empty()).collect())
}

/// A claim that may be one string or a list of them.
pub(super) fn strings_or_one(v: Option<&Value>) -> Vec<String> {
    match v {
        Some(Value::String(s)) => vec![s.clone()],
        Some(Value::Array(a)) => a.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authn::jwt::config::{ClaimRule, Mappings};

    fn mapper(username: &str, prefix: &str) -> Mapper {
        let claim = |claim: &str, prefix: &str| PrefixedClaim {
            claim: claim.to_owned(),
            prefix: Some(prefix.to_owned()),
            expression: String::new(),
        };
        Mapper::new(&Jwt {
            claim_mappings: Mappings {
                username: claim(username, prefix),
                groups: claim("roles", "oidc:"),
                uid: Claim { claim: "oid".to_owned(), expression: String::new() },
                extra: Vec::new(),
            },
            claim_validation_rules: vec![ClaimRule {
                claim: "hd".to_owned(),
                required_value: "example.com".to_owned(),
                ..ClaimRule::default()
            }],
            ..Jwt::default()
        })
        .unwrap()
    }

    #[test]
    fn by_claims() {
        let claims = |more: Value| {
            let mut c = json!({"sub": "jane", "email": "j@x", "oid": "7", "hd": "example.com", "jti": "id"});
            for (k, v) in more.as_object().unwrap() {
                c[k] = v.clone();
            }
            c
        };
        let u = mapper("sub", "idp#").user(&claims(json!({"roles": ["a", "b"]}))).unwrap();
        assert_eq!((u.name.as_str(), u.uid.as_str()), ("idp#jane", "7"));
        assert_eq!(u.groups, ["oidc:a", "oidc:b"]);
        assert_eq!(u.extra[CREDENTIAL_ID], ["JTI=id"]);
        let u = mapper("email", "").user(&claims(json!({"roles": "one", "email_verified": true}))).unwrap();
        assert_eq!((u.name.as_str(), u.groups), ("j@x", vec!["oidc:one".to_owned()]));
        for (username, more, want) in [
            ("email", json!({"email_verified": false}), "oidc: email not verified"),
            ("email", json!({"email_verified": "yes"}), "it is not a bool"),
            ("nick", json!({}), "oidc: parse username claims \"nick\": claim not present"),
            ("sub", json!({"sub": 7}), "it is not a string"),
            ("sub", json!({"roles": 7}), "oidc: parse groups claim \"roles\""),
            (
                "sub",
                json!({"hd": "other"}),
                "oidc: required claim hd value does not match. Got = other, want = example.com",
            ),
        ] {
            let e = mapper(username, "").user(&claims(more)).unwrap_err();
            assert!(e.contains(want), "{e}");
        }
        let mut c = claims(json!({}));
        c.as_object_mut().unwrap().remove("hd");
        assert_eq!(
            mapper("sub", "").user(&c).unwrap_err(),
            "oidc: required claim hd not present in ID token"
        );
    }
}
