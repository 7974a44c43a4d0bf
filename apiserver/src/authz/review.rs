//! The review resources: objects that are answered, never stored. Each takes the posted object and returns it
//! with its status.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::review_selectors::{self, Selectors};
use super::rules::Rule;
use super::{Attributes, Authorizer};
use crate::field::{Error, ErrorList, Path};
use crate::lookup::{items, text};
use crate::request::UserInfo;
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "authorization.k8s.io";

/// The rules of a user, as far as the authorizers can enumerate them.
#[derive(Debug, Default)]
pub struct UserRules {
    pub rules: Vec<Rule>,
    pub errors: Vec<String>,
    pub incomplete: bool,
}

/// Answers a `SubjectAccessReview`.
pub async fn subject_access(authorizer: &Authorizer, review: Value) -> ApiResult<Value> {
    let mut errors = validate_spec(&review);
    validate_empty_metadata(&review, false, &mut errors);
    refuse(&errors)?;
    Ok(answer(authorizer, review, None).await)
}

/// Answers a `LocalSubjectAccessReview` posted to `namespace`.
pub async fn local_subject_access(
    authorizer: &Authorizer,
    namespace: &str,
    mut review: Value,
) -> ApiResult<Value> {
    let mut errors = validate_spec(&review);
    if text(&review, "/metadata/namespace").is_empty() {
        review["metadata"]["namespace"] = namespace.into();
    }
    validate_empty_metadata(&review, true, &mut errors);
    let spec = Path::new("spec");
    let asked = text(&review, "/spec/resourceAttributes/namespace");
    if set(&review, "/spec/resourceAttributes") && asked != text(&review, "/metadata/namespace") {
        errors.push(Error::invalid(
            &spec.child("resourceAttributes").child("namespace"),
            asked,
            "must match metadata.namespace",
        ));
    }
    if set(&review, "/spec/nonResourceAttributes") {
        errors.push(Error::invalid(
            &spec.child("nonResourceAttributes"),
            shown_path(&review),
            "disallowed on this kind of request",
        ));
    }
    refuse(&errors)?;
    if asked != namespace {
        return Err(ApiError::bad_request(format!(
            "spec.resourceAttributes.namespace must match namespace: {namespace}"
        )));
    }
    Ok(answer(authorizer, review, None).await)
}

/// Answers a `SelfSubjectAccessReview` of `user`.
pub async fn self_subject_access(
    authorizer: &Authorizer,
    user: &UserInfo,
    review: Value,
) -> ApiResult<Value> {
    let mut errors = ErrorList::new();
    validate_kind(&review, &mut errors);
    validate_selectors(&review, &mut errors);
    validate_empty_metadata(&review, false, &mut errors);
    refuse(&errors)?;
    Ok(answer(authorizer, review, Some(user)).await)
}

/// Answers a `SelfSubjectRulesReview` of `user`.
pub fn self_subject_rules(authorizer: &Authorizer, user: &UserInfo, mut review: Value) -> ApiResult<Value> {
    let namespace = text(&review, "/spec/namespace").to_owned();
    if namespace.is_empty() {
        return Err(ApiError::bad_request("no namespace on request"));
    }
    let found = authorizer.rules_for(user, &namespace);
    let mut resource_rules = Vec::new();
    let mut url_rules = Vec::new();
    for r in &found.rules {
        if !r.resources.is_empty() {
            let mut rule = r.clone();
            rule.non_resource_urls = Box::default();
            resource_rules.push(rule.to_json());
        }
        if !r.non_resource_urls.is_empty() {
            url_rules.push(json!({"verbs": r.verbs, "nonResourceURLs": r.non_resource_urls}));
        }
    }
    // Nothing of what was sent comes back.
    review["metadata"] = json!({});
    review["spec"] = json!({});
    review["status"] = json!({
        "resourceRules": resource_rules, "nonResourceRules": url_rules, "incomplete": found.incomplete,
    });
    if !found.errors.is_empty() {
        review["status"]["evaluationError"] = found.errors.join(", ").into();
    }
    Ok(review)
}

/// Answers a `SelfSubjectReview`: who the server takes the client for.
pub fn self_subject(user: &UserInfo, mut review: Value) -> Value {
    review["metadata"]["creationTimestamp"] = crate::authn::now_rfc3339().into();
    review["status"] = json!({"userInfo": user_json(user)});
    review
}

/// A user as `authentication/v1` `UserInfo`.
pub fn user_json(user: &UserInfo) -> Value {
    let mut out = json!({"username": user.name});
    if !user.uid.is_empty() {
        out["uid"] = user.uid.as_str().into();
    }
    if !user.groups.is_empty() {
        out["groups"] = json!(user.groups);
    }
    if !user.extra.is_empty() {
        out["extra"] = json!(user.extra);
    }
    out
}

/// Upstream names no kind in these errors.
fn refuse(errors: &ErrorList) -> ApiResult<()> {
    if errors.is_empty() { Ok(()) } else { Err(ApiError::invalid(GROUP, "", "", errors)) }
}

fn set(review: &Value, pointer: &str) -> bool {
    review.pointer(pointer).is_some_and(|v| !v.is_null())
}

fn validate_spec(review: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    validate_kind(review, &mut errors);
    if text(review, "/spec/user").is_empty() && items(review, "/spec/groups").is_empty() {
        errors.push(Error::invalid(
            &Path::new("spec").child("user"),
            text(review, "/spec/user"),
            "at least one of user or group must be specified",
        ));
    }
    validate_selectors(review, &mut errors);
    errors
}

/// Upstream shows its internal form.
fn shown_path(review: &Value) -> Value {
    json!({
        "Path": text(review, "/spec/nonResourceAttributes/path"),
        "Verb": text(review, "/spec/nonResourceAttributes/verb"),
    })
}

fn validate_selectors(review: &Value, errors: &mut ErrorList) {
    if let Some(attrs) = review.pointer("/spec/resourceAttributes") {
        review_selectors::validate(attrs, errors);
    }
}

fn validate_kind(review: &Value, errors: &mut ErrorList) {
    let spec = Path::new("spec");
    let resource = set(review, "/spec/resourceAttributes");
    let other = set(review, "/spec/nonResourceAttributes");
    if resource && other {
        errors.push(Error::invalid(
            &spec.child("nonResourceAttributes"),
            shown_path(review),
            "cannot be specified in combination with resourceAttributes",
        ));
    }
    if !resource && !other {
        errors.push(Error::invalid(
            &spec.child("resourceAttributes"),
            Value::Null,
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
}

fn validate_empty_metadata(review: &Value, namespaced: bool, errors: &mut ErrorList) {
    let Some(metadata) = review.get("metadata").and_then(Value::as_object) else { return };
    let given = metadata.iter().any(|(k, v)| {
        let free = matches!(k.as_str(), "managedFields" | "creationTimestamp");
        let free = free || (namespaced && k == "namespace");
        !free && !v.is_null() && v != "" && *v != json!({})
    });
    if given {
        let why = if namespaced { "must be empty except for namespace" } else { "must be empty" };
        errors.push(Error::invalid(&Path::new("metadata"), Value::Object(metadata.clone()), why));
    }
}

fn strings(v: &Value, pointer: &str) -> Vec<String> {
    items(v, pointer).iter().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn asked_user(review: &Value) -> UserInfo {
    let extra: BTreeMap<String, Vec<String>> = review
        .pointer("/spec/extra")
        .and_then(Value::as_object)
        .map(|m| m.iter().map(|(k, v)| (k.to_lowercase(), strings(v, ""))).collect())
        .unwrap_or_default();
    UserInfo {
        name: text(review, "/spec/user").to_owned(),
        uid: text(review, "/spec/uid").to_owned(),
        groups: strings(review, "/spec/groups"),
        extra,
    }
}

async fn answer(authorizer: &Authorizer, mut review: Value, user: Option<&UserInfo>) -> Value {
    let asked;
    let user = match user {
        Some(u) => u,
        None => {
            asked = asked_user(&review);
            &asked
        }
    };
    let mut errors: Vec<String> = Vec::new();
    let decision = if let Some(a) = review.pointer("/spec/resourceAttributes").filter(|v| !v.is_null()) {
        let selectors = Selectors::of(a);
        errors.extend(selectors.errors.iter().map(|e| (*e).to_owned()));
        let version = text(a, "/version");
        let asked = Attributes {
            user,
            verb: text(a, "/verb"),
            api_group: text(a, "/group"),
            api_version: if version.is_empty() { "*" } else { version },
            namespace: text(a, "/namespace"),
            resource: text(a, "/resource"),
            subresource: text(a, "/subresource"),
            name: text(a, "/name"),
            path: "",
            is_resource: true,
            field_selector: selectors.fields,
            label_selector: selectors.labels,
        };
        authorizer.authorize(&asked).await
    } else {
        let mut a = Attributes::resource(user, text(&review, "/spec/nonResourceAttributes/verb"), "", "", "");
        a.is_resource = false;
        a.path = text(&review, "/spec/nonResourceAttributes/path");
        authorizer.authorize(&a).await
    };
    if !decision.error().is_empty() {
        errors.insert(0, decision.error().to_owned());
    }
    let mut status = json!({"allowed": decision.is_allowed()});
    if decision.is_denied() {
        status["denied"] = true.into();
    }
    if !decision.reason().is_empty() {
        status["reason"] = decision.reason().into();
    }
    if !errors.is_empty() {
        status["evaluationError"] = errors.join("; ").into();
    }
    review["status"] = status;
    review
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authz::rbac::Kind;

    fn authorizer() -> Authorizer {
        let a = Authorizer::new(&["RBAC".to_owned()]).unwrap();
        a.rbac().upsert(
            Kind::ClusterRole,
            &json!({"metadata":{"name":"r"},"rules":[{"verbs":["get"],"apiGroups":[""],"resources":["pods"]},
                {"verbs":["get"],"nonResourceURLs":["/version"]}]}),
        );
        a.rbac().upsert(
            Kind::ClusterRoleBinding,
            &json!({"metadata":{"name":"b"},"roleRef":{"kind":"ClusterRole","name":"r"},
                "subjects":[{"kind":"Group","name":"g"}]}),
        );
        a
    }

    #[test]
    fn access_reviews() {
        let a = authorizer();
        let ask = |spec: Value| {
            let answer = futures::executor::block_on(subject_access(&a, json!({"spec":spec})));
            answer.map(|v| v["status"].clone())
        };
        let s = ask(
            json!({"user":"u","groups":["g"],"resourceAttributes":{"verb":"get","resource":"pods","namespace":"n"}}),
        );
        assert_eq!(
            s.unwrap(),
            json!({"allowed":true,"reason":"RBAC: allowed by ClusterRoleBinding \"b\" of ClusterRole \"r\" to Group \"g\""})
        );
        let s = ask(json!({"user":"u","resourceAttributes":{"verb":"get","resource":"pods"}}));
        assert_eq!(s.unwrap(), json!({"allowed":false}));
        let s = ask(json!({"groups":["g"],"nonResourceAttributes":{"verb":"get","path":"/version"}}));
        assert_eq!(s.unwrap()["allowed"], true);
        let e = ask(json!({"user":"u"})).unwrap_err();
        assert_eq!((e.code, e.reason), (422, "Invalid"));
        assert!(ask(json!({"resourceAttributes":{"verb":"get","resource":"pods"}})).is_err());
    }

    #[test]
    fn own_rules() {
        let a = authorizer();
        let u = UserInfo { name: "u".into(), groups: vec!["g".into()], ..UserInfo::default() };
        let r = self_subject_rules(&a, &u, json!({"spec":{"namespace":"n"}})).unwrap();
        assert_eq!(
            r["status"]["resourceRules"],
            json!([{"verbs":["get"],"apiGroups":[""],"resources":["pods"]}])
        );
        assert_eq!(
            r["status"]["nonResourceRules"],
            json!([{"verbs":["get"],"nonResourceURLs":["/version"]}])
        );
        assert!(self_subject_rules(&a, &u, json!({})).is_err());
        let me = self_subject(&u, json!({}));
        assert_eq!(me["status"]["userInfo"], json!({"username":"u","groups":["g"]}));
    }
}
