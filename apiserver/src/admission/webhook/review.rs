//! `AdmissionReview`: what a webhook is asked, and whether its answer is one.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::hook::ReviewVersion;
use crate::request::UserInfo;

/// Group, version and kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Kind {
    pub group: String,
    pub version: String,
    pub kind: String,
}

/// Group, version and resource.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Resource {
    pub group: String,
    pub version: String,
    pub resource: String,
}

#[derive(Serialize)]
struct User<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    username: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    uid: &'a str,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    groups: &'a [String],
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    extra: &'a BTreeMap<String, Vec<String>>,
}

/// What is asked.
pub struct Question<'a> {
    pub uid: &'a str,
    pub kind: &'a Kind,
    pub resource: &'a Resource,
    pub request_kind: &'a Kind,
    pub request_resource: &'a Resource,
    pub subresource: &'a str,
    pub name: &'a str,
    pub namespace: &'a str,
    pub operation: &'static str,
    pub user: &'a UserInfo,
    pub object: Option<&'a Value>,
    pub old: Option<&'a Value>,
    pub dry_run: bool,
    pub options: Option<&'a Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Request<'a> {
    uid: &'a str,
    kind: &'a Kind,
    resource: &'a Resource,
    #[serde(skip_serializing_if = "str::is_empty")]
    sub_resource: &'a str,
    request_kind: &'a Kind,
    request_resource: &'a Resource,
    #[serde(skip_serializing_if = "str::is_empty")]
    request_sub_resource: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    name: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    namespace: &'a str,
    operation: &'a str,
    user_info: User<'a>,
    /// These three are `null` where there is nothing.
    object: Option<&'a Value>,
    old_object: Option<&'a Value>,
    dry_run: bool,
    options: Option<&'a Value>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Review<'a> {
    kind: &'static str,
    api_version: &'static str,
    request: Request<'a>,
}

/// The body of a call.
pub fn encode(version: ReviewVersion, q: &Question<'_>) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Review {
        kind: "AdmissionReview",
        api_version: version.api_version(),
        request: Request {
            uid: q.uid,
            kind: q.kind,
            resource: q.resource,
            sub_resource: q.subresource,
            request_kind: q.request_kind,
            request_resource: q.request_resource,
            request_sub_resource: q.subresource,
            name: q.name,
            namespace: q.namespace,
            operation: q.operation,
            user_info: User {
                username: &q.user.name,
                uid: &q.user.uid,
                groups: &q.user.groups,
                extra: &q.user.extra,
            },
            object: q.object,
            old_object: q.old,
            dry_run: q.dry_run,
            options: q.options,
        },
    })
}

/// What a webhook answered.
#[derive(Debug, Default, PartialEq)]
pub struct Answer {
    pub allowed: bool,
    /// The text of a JSON patch; empty for none.
    pub patch: Vec<u8>,
    pub patch_type: String,
    /// `Status`, as given.
    pub result: Option<Map<String, Value>>,
    pub annotations: Vec<(String, String)>,
    pub warnings: Vec<String>,
}

/// Go's form of a kind in messages.
fn gvk_text(api_version: &str, kind: &str) -> String {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    format!("{group}/{version}, Kind={kind}")
}

/// Reads and checks an answer to the question `uid`.
///
/// # Errors
/// The outer error: it is no `AdmissionReview` at all (the call failed). The inner one: what is wrong with it.
pub fn decode(
    version: ReviewVersion,
    uid: &str,
    mutating: bool,
    body: &[u8],
) -> Result<Result<Answer, String>, String> {
    let review: Value = serde_json::from_slice(body)
        .map_err(|e| format!("couldn't get version/kind; json parse error: {e}"))?;
    let api_version = review.get("apiVersion").and_then(Value::as_str).unwrap_or_default();
    let kind = review.get("kind").and_then(Value::as_str).unwrap_or_default();
    // Before v1 nothing was checked, and there are answers without version and kind.
    let named = !api_version.is_empty() || !kind.is_empty();
    let known = kind == "AdmissionReview"
        && matches!(api_version, "admission.k8s.io/v1" | "admission.k8s.io/v1beta1");
    if named && !known {
        return Err(format!("no kind \"{kind}\" is registered for version \"{api_version}\" in scheme"));
    }
    Ok(check(version, uid, mutating, &review, (api_version, kind)))
}

fn check(
    version: ReviewVersion,
    uid: &str,
    mutating: bool,
    review: &Value,
    (api_version, kind): (&str, &str),
) -> Result<Answer, String> {
    let response = review.get("response").and_then(Value::as_object).ok_or("webhook response was absent")?;
    let text = |f: &str| response.get(f).and_then(Value::as_str);
    let patch = STANDARD
        .decode(text("patch").unwrap_or_default())
        .map_err(|e| format!("response.patch is no base64: {e}"))?;
    let mut patch_type = text("patchType").map(str::to_owned);
    if version == ReviewVersion::V1 {
        let got = text("uid").unwrap_or_default();
        if got != uid {
            return Err(format!("expected response.uid={uid:?}, got {got:?}"));
        }
        if api_version != version.api_version() || kind != "AdmissionReview" {
            return Err(format!(
                "expected webhook response of {}, got {}",
                gvk_text(version.api_version(), "AdmissionReview"),
                gvk_text(api_version, kind)
            ));
        }
        match (mutating, patch.is_empty(), &patch_type) {
            (true, false, None) => {
                return Err("webhook returned response.patch but not response.patchType".to_owned());
            }
            (true, true, Some(_)) => {
                return Err("webhook returned response.patchType but not response.patch".to_owned());
            }
            (true, false, Some(t)) if t.is_empty() => {
                return Err("webhook returned invalid response.patchType of \"\"".to_owned());
            }
            (false, false, _) => return Err("validating webhook may not return response.patch".to_owned()),
            (false, true, Some(_)) => {
                return Err("validating webhook may not return response.patchType".to_owned());
            }
            _ => {}
        }
    } else {
        patch_type = (mutating && !patch.is_empty()).then(|| "JSONPatch".to_owned());
    }
    Ok(Answer {
        allowed: response.get("allowed") == Some(&Value::Bool(true)),
        patch: if mutating { patch } else { Vec::new() },
        patch_type: patch_type.unwrap_or_default(),
        result: response.get("status").and_then(Value::as_object).cloned(),
        annotations: response
            .get("auditAnnotations")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), v.as_str()?.to_owned())))
            .collect(),
        warnings: response
            .get("warnings")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|w| w.as_str().map(str::to_owned))
            .collect(),
    })
}

/// The `Status` with which the webhook `name` refuses, made from what it gave.
pub fn refusal(name: &str, result: Option<Map<String, Value>>) -> Value {
    let mut s = Map::new();
    // Only what a Status has, each of its type: the rest never reaches the client.
    for (k, v) in result.unwrap_or_default() {
        let fits = match k.as_str() {
            "status" | "message" | "reason" => v.is_string(),
            "code" => v.is_i64(),
            "metadata" | "details" => v.is_object(),
            _ => false,
        };
        if fits {
            s.insert(k, v);
        }
    }
    let text = |f: &str| s.get(f).and_then(Value::as_str).unwrap_or_default();
    let denied = format!("admission webhook {name:?} denied the request");
    let message = match (text("message"), text("reason")) {
        ("", "") => format!("{denied} without explanation"),
        ("", why) | (why, _) => format!("{denied}: {why}"),
    };
    let status = match text("status") {
        "" | "Success" => "Failure".to_owned(),
        other => other.to_owned(),
    };
    let code = s.get("code").and_then(Value::as_i64).unwrap_or(0).clamp(400, 599);
    s.insert("message".to_owned(), message.into());
    s.insert("status".to_owned(), status.into());
    s.insert("code".to_owned(), code.into());
    s.insert("kind".to_owned(), "Status".into());
    s.insert("apiVersion".to_owned(), "v1".into());
    s.entry("metadata").or_insert_with(|| json!({}));
    Value::Object(s)
}
