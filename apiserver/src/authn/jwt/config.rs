//! `AuthenticationConfiguration`: token issuers and who may come without credentials.
//!
//! Source: KEP-3331 "Structured Authentication Configuration", KEP-4633 "Anonymous auth configurable endpoints".

use std::collections::BTreeSet;

use serde::Deserialize;

use super::expression::{Expression, Scope};
use crate::authn::Anonymous;
use crate::config_file;
use crate::field::{Error, ErrorList, Path};

const KIND: &str = "AuthenticationConfiguration";
/// The issuers that one file may name.
const ISSUERS_MAX: usize = 64;

/// The file.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Configuration {
    pub jwt: Vec<Jwt>,
    pub anonymous: Option<AnonymousConfig>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnonymousConfig {
    pub enabled: bool,
    pub conditions: Vec<AnonymousCondition>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, serde::Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct AnonymousCondition {
    pub path: String,
}

/// One issuer and what its tokens mean.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Jwt {
    pub issuer: Issuer,
    pub claim_validation_rules: Vec<ClaimRule>,
    pub claim_mappings: Mappings,
    pub user_validation_rules: Vec<UserRule>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Issuer {
    pub url: String,
    #[serde(rename = "discoveryURL")]
    pub discovery_url: String,
    pub certificate_authority: String,
    pub audiences: Vec<String>,
    pub audience_match_policy: String,
    pub egress_selector_type: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ClaimRule {
    pub claim: String,
    pub required_value: String,
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct UserRule {
    pub expression: String,
    pub message: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Mappings {
    pub username: PrefixedClaim,
    pub groups: PrefixedClaim,
    pub uid: Claim,
    pub extra: Vec<Extra>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PrefixedClaim {
    pub claim: String,
    pub prefix: Option<String>,
    pub expression: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Claim {
    pub claim: String,
    pub expression: String,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Extra {
    pub key: String,
    pub value_expression: String,
}

impl AnonymousConfig {
    /// Who may come without credentials.
    pub fn rule(&self) -> Anonymous {
        match (self.enabled, self.conditions.is_empty()) {
            (false, _) => Anonymous::Nowhere,
            (true, true) => Anonymous::Everywhere,
            (true, false) => Anonymous::Paths(self.conditions.iter().map(|c| c.path.clone()).collect()),
        }
    }
}

impl Configuration {
    /// Reads and checks a file's contents. `own_issuers` are those of service-account tokens.
    pub fn parse(contents: &[u8], own_issuers: &[String]) -> Result<Self, String> {
        let versions = ["v1", "v1beta1", "v1alpha1"];
        let (_, config): (_, Self) = config_file::read(contents, config_file::GROUP, KIND, &versions)?;
        config.check(own_issuers)?;
        Ok(config)
    }

    /// Checks what was read from a file or made of flags.
    pub fn check(&self, own_issuers: &[String]) -> Result<(), String> {
        let errors = self.validate(own_issuers);
        if errors.is_empty() {
            Ok(())
        } else {
            Err(format!("invalid authentication configuration: {}", errors.aggregate()))
        }
    }

    fn validate(&self, own_issuers: &[String]) -> ErrorList {
        let mut errors = ErrorList::new();
        let root = Path::new("jwt");
        if self.jwt.len() > ISSUERS_MAX {
            errors.push(Error::too_many(&root, self.jwt.len(), ISSUERS_MAX));
            return errors;
        }
        for (i, j) in self.jwt.iter().enumerate() {
            let path = root.index(i);
            j.validate(own_issuers, &path, &mut errors);
            let before = &self.jwt[..i];
            let issuer = path.child("issuer");
            if before.iter().any(|b| b.issuer.url == j.issuer.url) {
                errors.push(Error::duplicate(&issuer.child("url"), &j.issuer.url));
            }
            let url = &j.issuer.discovery_url;
            if !url.is_empty() && before.iter().any(|b| b.issuer.discovery_url == *url) {
                errors.push(Error::duplicate(&issuer.child("discoveryURL"), url));
            }
        }
        if let Some(a) = &self.anonymous
            && !a.enabled
            && !a.conditions.is_empty()
        {
            errors.push(Error::invalid(
                &Path::new("anonymous").child("conditions"),
                &a.conditions,
                "enabled should be set to true when conditions are defined",
            ));
        }
        errors
    }
}

impl Jwt {
    fn validate(&self, own_issuers: &[String], path: &Path, errors: &mut ErrorList) {
        self.issuer.validate(own_issuers, &path.child("issuer"), errors);
        let mut verified = false;
        self.validate_claim_rules(&path.child("claimValidationRules"), &mut verified, errors);
        self.claim_mappings.validate(&path.child("claimMappings"), &mut verified, errors);
        let rules = path.child("userValidationRules");
        for (i, r) in self.user_validation_rules.iter().enumerate() {
            let field = rules.index(i).child("expression");
            if r.expression.is_empty() {
                errors.push(Error::required(&field, ""));
            } else if self.user_validation_rules[..i].iter().any(|b| b.expression == r.expression) {
                errors.push(Error::duplicate(&field, &r.expression));
            } else {
                compile(&r.expression, Scope::User, true, &field, errors);
            }
        }
    }

    fn validate_claim_rules(&self, path: &Path, verified: &mut bool, errors: &mut ErrorList) {
        for (i, r) in self.claim_validation_rules.iter().enumerate() {
            let (path, before) = (path.index(i), &self.claim_validation_rules[..i]);
            match (r.claim.is_empty(), r.expression.is_empty()) {
                (false, false) => {
                    errors.push(Error::invalid(&path, &r.claim, "claim and expression can't both be set"));
                }
                (true, true) => errors.push(Error::required(&path, "claim or expression is required")),
                (false, true) => {
                    if !r.message.is_empty() {
                        let why = "may not be specified when claim is set";
                        errors.push(Error::invalid(&path.child("message"), &r.message, why));
                    }
                    if before.iter().any(|b| b.claim == r.claim) {
                        errors.push(Error::duplicate(&path.child("claim"), &r.claim));
                    }
                }
                (true, false) => {
                    if !r.required_value.is_empty() {
                        let why = "may not be specified when expression is set";
                        errors.push(Error::invalid(&path.child("requiredValue"), &r.required_value, why));
                    }
                    let field = path.child("expression");
                    if before.iter().any(|b| b.expression == r.expression) {
                        errors.push(Error::duplicate(&field, &r.expression));
                    } else if let Some(e) = compile(&r.expression, Scope::Claims, true, &field, errors) {
                        *verified |= e.reads("email_verified");
                    }
                }
            }
        }
    }
}

fn compile(
    text: &str,
    scope: Scope,
    boolean: bool,
    field: &Path,
    errors: &mut ErrorList,
) -> Option<Expression> {
    match Expression::compile(text, scope, boolean) {
        Ok(e) => Some(e),
        Err(why) => {
            errors.push(Error::invalid(field, text, why));
            None
        }
    }
}

impl Issuer {
    fn validate(&self, own_issuers: &[String], path: &Path, errors: &mut ErrorList) {
        let field = path.child("url");
        if self.url.is_empty() {
            errors.push(Error::required(&field, ""));
        } else {
            validate_url(&self.url, own_issuers, &field, errors);
        }
        let field = path.child("discoveryURL");
        if !self.discovery_url.is_empty() {
            if self.url.trim_end_matches('/') == self.discovery_url.trim_end_matches('/') {
                let why = "discoveryURL must be different from URL";
                errors.push(Error::invalid(&field, &self.discovery_url, why));
            }
            validate_url(&self.discovery_url, &[], &field, errors);
        }
        self.validate_audiences(path, errors);
        if !self.certificate_authority.is_empty()
            && let Err(e) = crate::authn::x509::certificates("PEM", self.certificate_authority.as_bytes())
        {
            errors.push(Error::invalid(&path.child("certificateAuthority"), "<omitted>", e));
        }
        let field = path.child("egressSelectorType");
        match self.egress_selector_type.as_str() {
            "" => {}
            known @ ("controlplane" | "cluster") => errors.push(Error::invalid(
                &field,
                known,
                "this server has no egress selectors: leave it empty to connect directly",
            )),
            other => errors.push(Error::invalid(
                &field,
                other,
                "egress selector must be either controlplane or cluster",
            )),
        }
    }

    fn validate_audiences(&self, path: &Path, errors: &mut ErrorList) {
        let field = path.child("audiences");
        if self.audiences.is_empty() {
            errors.push(Error::required(&field, format!("at least one {field} is required")));
            return;
        }
        let mut seen = BTreeSet::new();
        for (i, a) in self.audiences.iter().enumerate() {
            if a.is_empty() {
                errors.push(Error::required(&field.index(i), ""));
            }
            if !seen.insert(a) {
                errors.push(Error::duplicate(&field.index(i), a));
            }
        }
        let policy = self.audience_match_policy.as_str();
        let field = path.child("audienceMatchPolicy");
        if self.audiences.len() > 1 && policy != "MatchAny" {
            let why = "audienceMatchPolicy must be MatchAny for multiple audiences";
            errors.push(Error::invalid(&field, policy, why));
        }
        if self.audiences.len() == 1 && !matches!(policy, "" | "MatchAny") {
            let why = "audienceMatchPolicy must be empty or MatchAny for single audience";
            errors.push(Error::invalid(&field, policy, why));
        }
    }
}

fn validate_url(text: &str, disallowed: &[String], path: &Path, errors: &mut ErrorList) {
    let mut bad = |why: String| errors.push(Error::invalid(path, text, why));
    if disallowed.iter().any(|d| d == text) {
        bad(format!("URL must not overlap with disallowed issuers: [{}]", disallowed.join(" ")));
    }
    let url = match url::Url::parse(text) {
        Ok(url) => url,
        // No scheme at all is upstream's commonest case, and it calls that a wrong one.
        Err(url::ParseError::RelativeUrlWithoutBase) => return bad("URL scheme must be https".to_owned()),
        Err(e) => return bad(format!("parse {text:?}: {e}")),
    };
    if url.scheme() != "https" {
        bad("URL scheme must be https".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        bad("URL must not contain a username or password".to_owned());
    }
    if url.query().is_some_and(|q| !q.is_empty()) {
        bad("URL must not contain a query".to_owned());
    }
    if url.fragment().is_some_and(|f| !f.is_empty()) {
        bad("URL must not contain a fragment".to_owned());
    }
}

impl Mappings {
    fn validate(&self, path: &Path, verified: &mut bool, errors: &mut ErrorList) {
        let mut email = false;
        let field = path.child("username");
        if let Some(e) = self.username.validate(true, &field, errors) {
            email = e.reads("email");
            *verified |= e.reads("email_verified");
        }
        self.groups.validate(false, &path.child("groups"), errors);
        let uid = path.child("uid");
        if !self.uid.claim.is_empty() && !self.uid.expression.is_empty() {
            errors.push(Error::invalid(&uid, "", "claim and expression can't both be set"));
        } else if !self.uid.expression.is_empty() {
            compile(&self.uid.expression, Scope::Claims, false, &uid.child("expression"), errors);
        }
        for (i, e) in self.extra.iter().enumerate() {
            let path = path.child("extra").index(i);
            let key = path.child("key");
            validate_extra_key(&e.key, &key, errors);
            if self.extra[..i].iter().any(|b| b.key == e.key) {
                errors.push(Error::duplicate(&key, &e.key));
                continue;
            }
            let field = path.child("valueExpression");
            if e.value_expression.is_empty() {
                errors.push(Error::required(&field, ""));
            } else if let Some(e) = compile(&e.value_expression, Scope::Claims, false, &field, errors) {
                *verified |= e.reads("email_verified");
            }
        }
        if email && !*verified {
            errors.push(Error::invalid(
                &field.child("expression"),
                &self.username.expression,
                "claims.email_verified must be used in claimMappings.username.expression or claimMappings.extra[*].valueExpression or claimValidationRules[*].expression when claims.email is used in claimMappings.username.expression",
            ));
        }
    }
}

impl PrefixedClaim {
    fn validate(&self, required: bool, path: &Path, errors: &mut ErrorList) -> Option<Expression> {
        match (self.claim.is_empty(), self.expression.is_empty()) {
            (false, false) => {
                errors.push(Error::invalid(path, "", "claim and expression can't both be set"));
            }
            (true, true) if required => {
                errors.push(Error::required(path, "claim or expression is required"));
            }
            (true, true) => {}
            (true, false) => {
                if let Some(p) = &self.prefix {
                    let why = "may not be specified when expression is set";
                    errors.push(Error::invalid(&path.child("prefix"), p, why));
                }
                return compile(&self.expression, Scope::Claims, false, &path.child("expression"), errors);
            }
            (false, true) if self.prefix.is_none() => errors.push(Error::required(
                &path.child("prefix"),
                "prefix is required when claim is set. It can be set to an empty string to disable prefixing",
            )),
            (false, true) => {}
        }
        None
    }
}

/// A domain, a slash and a path, all in lower case, outside of Kubernetes' own domains.
fn validate_extra_key(key: &str, path: &Path, errors: &mut ErrorList) {
    if key.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let (domain, rest) = match key.split_once('/') {
        Some((d, r)) if !d.is_empty() && !r.is_empty() => (d, r),
        _ => {
            errors.push(Error::invalid(
                path,
                key,
                "must be a domain-prefixed path (such as \"acme.io/foo\")",
            ));
            return;
        }
    };
    for why in crate::registry::names::dns1123_subdomain(domain).err().unwrap_or_default() {
        errors.push(Error::invalid(path, domain, why));
    }
    if !rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@/".contains(&b)) {
        errors.push(Error::invalid(path, rest, "Invalid path"));
    }
    if key != key.to_lowercase() {
        errors.push(Error::invalid(path, key, "must be lowercase"));
    }
    let reserved = |d: &str| domain == d || domain.ends_with(&format!(".{d}"));
    if reserved("kubernetes.io") || reserved("k8s.io") {
        let why = "k8s.io, kubernetes.io and their subdomains are reserved for Kubernetes use";
        errors.push(Error::invalid(path, key, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(body: &str) -> Result<Configuration, String> {
        let text = format!("apiVersion: apiserver.config.k8s.io/v1\nkind: {KIND}\n{body}\n");
        Configuration::parse(text.as_bytes(), &["https://own".to_owned()])
    }

    #[test]
    fn anonymous() {
        assert_eq!(parse("").unwrap().anonymous, None);
        let rule = |s: &str| parse(s).unwrap().anonymous.unwrap().rule();
        assert_eq!(rule("anonymous: {enabled: false}"), Anonymous::Nowhere);
        assert_eq!(rule("anonymous: {enabled: true}"), Anonymous::Everywhere);
        assert_eq!(
            rule("anonymous: {enabled: true, conditions: [{path: /livez}]}"),
            Anonymous::Paths(vec!["/livez".into()])
        );
        let e = parse("anonymous: {enabled: false, conditions: [{path: /livez}]}").unwrap_err();
        assert_eq!(
            e,
            "invalid authentication configuration: anonymous.conditions: Invalid value: [{\"path\":\"/livez\"}]: enabled should be set to true when conditions are defined"
        );
    }

    #[test]
    fn issuers() {
        let jwt = |issuer: &str, more: &str| {
            parse(&format!(
                "jwt: [{{issuer: {{{issuer}}}, claimMappings: {{username: {{claim: sub, prefix: ''}}}}, {more}}}]"
            ))
        };
        assert!(jwt("url: https://idp, audiences: [a]", "").is_ok());
        for (issuer, want) in [
            ("audiences: [a]", "jwt[0].issuer.url: Required value"),
            (
                "url: http://idp, audiences: [a]",
                "jwt[0].issuer.url: Invalid value: \"http://idp\": URL scheme must be https",
            ),
            (
                "url: https://own, audiences: [a]",
                "URL must not overlap with disallowed issuers: [https://own]",
            ),
            ("url: 'https://idp?x=y', audiences: [a]", "URL must not contain a query"),
            ("url: 'https://u:p@idp', audiences: [a]", "URL must not contain a username or password"),
            (
                "url: https://idp",
                "jwt[0].issuer.audiences: Required value: at least one jwt[0].issuer.audiences is required",
            ),
            (
                "url: https://idp, audiences: [a, b]",
                "audienceMatchPolicy must be MatchAny for multiple audiences",
            ),
            (
                "url: https://idp, audiences: [a], discoveryURL: https://idp/",
                "discoveryURL must be different from URL",
            ),
            ("url: https://idp, audiences: [a], certificateAuthority: x", "Invalid value: \"<omitted>\""),
            (
                "url: https://idp, audiences: [a], egressSelectorType: moon",
                "must be either controlplane or cluster",
            ),
        ] {
            let e = jwt(issuer, "").unwrap_err();
            assert!(e.contains(want), "{issuer}: {e}");
        }
        let rules =
            |r: &str| jwt("url: https://idp, audiences: [a]", &format!("claimValidationRules: [{r}]"));
        assert!(rules("{claim: hd, requiredValue: x}").is_ok());
        assert!(
            rules("{claim: hd}, {claim: hd}").unwrap_err().contains("[1].claim: Duplicate value: \"hd\"")
        );
        assert!(rules("{}").unwrap_err().contains("claim or expression is required"));
        assert!(
            rules("{claim: hd, message: m}").unwrap_err().contains("may not be specified when claim is set")
        );
    }

    #[test]
    fn mappings() {
        let map = |m: &str| {
            parse(&format!("jwt: [{{issuer: {{url: https://idp, audiences: [a]}}, claimMappings: {{{m}}}}}]"))
        };
        for (m, want) in [
            ("", "jwt[0].claimMappings.username: Required value: claim or expression is required"),
            (
                "username: {claim: sub}",
                "jwt[0].claimMappings.username.prefix: Required value: prefix is required",
            ),
            ("username: {claim: sub, expression: x, prefix: ''}", "claim and expression can't both be set"),
            (
                "username: {claim: sub, prefix: ''}, uid: {claim: a, expression: b}",
                "claimMappings.uid: Invalid value",
            ),
            ("username: {claim: sub, prefix: ''}, extra: [{key: foo}]", "must be a domain-prefixed path"),
            ("username: {claim: sub, prefix: ''}, extra: [{key: k8s.io/foo}]", "reserved for Kubernetes use"),
            ("username: {claim: sub, prefix: ''}, extra: [{key: a.b/Foo}]", "must be lowercase"),
            ("username: {claim: sub, prefix: ''}, nope: 1", "strict decoding error"),
        ] {
            let e = map(m).unwrap_err();
            assert!(e.contains(want), "{m}: {e}");
        }
    }
}
