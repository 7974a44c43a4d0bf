//! Conversion webhooks: `ConversionReview` out and in, and what is checked of objects that come back.
//!
//! A webhook may change anything but who the object is: name, namespace, UID and the rest of its metadata stay, only
//! labels and annotations may differ.

use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use serde_json::{Value, json};

use super::controller::{Conversions, RetypeOnly};
use super::convert::{Conversion, Converter};
use super::metrics::{Failure, Metrics};
use crate::field::{ErrorList, Path, go_type};
use crate::lookup::{items, text};
use crate::registry::{meta, object};
use crate::webhook::client::Call;
use crate::webhook::{Client, ClientConfig, Clients};

/// How long a webhook may take.
const DEADLINE: Duration = Duration::from_secs(30);

/// Conversions as definitions ask for them, webhooks included.
pub struct Webhooks {
    pub clients: Arc<Clients>,
    pub metrics: Metrics,
}

impl Conversions for Webhooks {
    fn of(&self, crd: &Value) -> Result<Conversion, String> {
        if text(crd, "/spec/conversion/strategy") != "Webhook" {
            return RetypeOnly.of(crd);
        }
        let config = crd.pointer("/spec/conversion/webhook/clientConfig").unwrap_or(&Value::Null);
        let config = ClientConfig::from_value(config)?;
        let client = self.clients.get(&config).map_err(|e| e.to_string())?;
        let versions = items(crd, "/spec/conversion/webhook/conversionReviewVersions");
        let review = versions.iter().filter_map(Value::as_str).find(|v| ["v1", "v1beta1"].contains(v));
        let review = review.ok_or("no supported conversion review versions")?;
        Ok(Conversion::Webhook(Arc::new(Webhook {
            client,
            review: review.to_owned(),
            group: text(crd, "/spec/group").to_owned(),
            crd: text(crd, "/metadata/name").to_owned(),
            metrics: self.metrics.clone(),
        })))
    }
}

/// The webhook of one definition.
struct Webhook {
    client: Arc<Client>,
    /// Version of the review that it reads.
    review: String,
    group: String,
    crd: String,
    metrics: Metrics,
}

/// `g.io/v1, Kind=Foo`
fn shown(o: &Value) -> String {
    format!("{}, Kind={}", text(o, "/apiVersion"), text(o, "/kind"))
}

/// The version of an `apiVersion`.
fn version(api_version: &str) -> &str {
    api_version.rsplit('/').next().unwrap_or_default()
}

#[async_trait]
impl Converter for Webhook {
    async fn convert(&self, objects: Vec<Value>, api_version: &str) -> Result<Vec<Value>, String> {
        let Some(first) = objects.first() else { return Ok(Vec::new()) };
        let from = version(text(first, "/apiVersion")).to_owned();
        let started = Instant::now();
        let done = self.ask(&objects, api_version).await;
        let failure = done.as_ref().err().map(|(f, _)| *f);
        self.metrics.observe(&self.crd, &from, version(api_version), started.elapsed(), failure);
        done.map_err(|(_, why)| why)
    }
}

impl Webhook {
    /// One call for all objects, of which there is at least one.
    async fn ask(&self, objects: &[Value], api_version: &str) -> Result<Vec<Value>, (Failure, String)> {
        let what = objects.first().map(shown).unwrap_or_default();
        let uid = uuid::Uuid::new_v4().to_string();
        let request = json!({
            "kind": "ConversionReview",
            "apiVersion": format!("apiextensions.k8s.io/{}", self.review),
            "request": {"uid": uid, "desiredAPIVersion": api_version, "objects": objects},
        });
        let failed =
            |kind: Failure, why: String| (kind, format!("conversion webhook for {what} failed: {why}"));
        let body = serde_json::to_vec(&request).map_err(|e| failed(Failure::Call, e.to_string()))?;
        let call = Call::new(body, DEADLINE);
        let answer = self.client.post(call).await.map_err(|e| failed(Failure::Call, e.to_string()))?;
        let answer: Value =
            serde_json::from_slice(&answer).map_err(|e| failed(Failure::Call, e.to_string()))?;
        let converted = accepted(answer, &uid, &self.review).map_err(|e| failed(Failure::Malformed, e))?;
        if converted.len() != objects.len() {
            let kind = if converted.is_empty() { Failure::NoObjects } else { Failure::Partial };
            let why = format!(
                "conversion webhook for {what} returned {} objects, expected {}",
                converted.len(),
                objects.len()
            );
            return Err((kind, why));
        }
        let wanted = format!("{}/{}", self.group, version(api_version));
        let mut out = Vec::with_capacity(converted.len());
        for (i, (original, new)) in objects.iter().zip(converted).enumerate() {
            let new = checked(original, new, &wanted).map_err(|wrong| {
                let (part, why) = match wrong {
                    Wrong::Object(why) => ("converted object", why),
                    Wrong::Metadata(why) => ("metadata in object", why),
                };
                let why =
                    format!("conversion webhook for {what} returned invalid {part} at index {i}: {why}");
                (Failure::InvalidObject, why)
            })?;
            out.push(new);
        }
        Ok(out)
    }
}

/// The objects of an answer that says it succeeded and is one to our request.
fn accepted(mut answer: Value, uid: &str, review: &str) -> Result<Vec<Value>, String> {
    if review == "v1" {
        let (version, kind) = (text(&answer, "/apiVersion"), text(&answer, "/kind"));
        if (version, kind) != ("apiextensions.k8s.io/v1", "ConversionReview") {
            let (g, v) = proto::resources::split_api_version(version);
            return Err(format!(
                "expected webhook response of apiextensions.k8s.io/v1, Kind=ConversionReview, got {g}/{v}, Kind={kind}"
            ));
        }
    }
    let Some(response) = answer.get_mut("response").filter(|r| r.is_object()) else {
        return Err("no response provided".to_owned());
    };
    if review == "v1" && text(response, "/uid") != uid {
        return Err(format!("expected response.uid={uid:?}, got {:?}", text(response, "/uid")));
    }
    let status = text(response, "/result/status");
    if status != "Success" {
        return Err(match text(response, "/result/message") {
            "" => format!("response.result.status was '{status}', not 'Success'"),
            message => message.to_owned(),
        });
    }
    match response.get_mut("convertedObjects").map(Value::take) {
        Some(Value::Array(a)) => Ok(a),
        _ => Ok(Vec::new()),
    }
}

/// What is wrong with an object that came back.
#[derive(Debug, PartialEq)]
enum Wrong {
    Object(String),
    Metadata(String),
}

/// The converted object with the metadata of the original, but for labels and annotations.
fn checked(original: &Value, mut new: Value, api_version: &str) -> Result<Value, Wrong> {
    let got = text(&new, "/apiVersion");
    if got != api_version {
        return Err(Wrong::Object(format!("invalid groupVersion (expected {api_version}, received {got})")));
    }
    let kind = text(original, "/kind");
    if text(&new, "/kind") != kind {
        let got = text(&new, "/kind");
        return Err(Wrong::Object(format!("invalid kind (expected {kind}, received {got})")));
    }
    for (what, field) in [("name", "name"), ("namespace", "namespace"), ("UID", "uid")] {
        let (a, b) = (object::meta_str(original, field), object::meta_str(&new, field));
        if a != b {
            return Err(Wrong::Object(format!("must have the same {what}: {a} != {b}")));
        }
    }
    let sent = match new.get_mut("metadata").map(Value::take) {
        None => return Err(Wrong::Metadata("missing metadata in converted object".to_owned())),
        Some(Value::Object(m)) => m,
        Some(other) => {
            return Err(Wrong::Metadata(format!(
                "invalid metadata of type {} in converted object",
                go_type(&other)
            )));
        }
    };
    let mut meta = object::meta(original).clone();
    for field in ["labels", "annotations"] {
        match sent.get(field) {
            None | Some(Value::Null) => {
                meta.remove(field);
            }
            Some(Value::Object(m)) => {
                for (k, v) in m {
                    if !v.is_string() {
                        return Err(Wrong::Metadata(format!(
                            "metadata.{field}[{k}] must be a string, but is {} in converted object",
                            go_type(v)
                        )));
                    }
                }
                let new = Value::Object(m.clone());
                if meta.get(field) != Some(&new) {
                    let mut errors = ErrorList::new();
                    let path = Path::new("metadata");
                    match field {
                        "labels" => meta::labels(Some(&new), &path.child("labels"), &mut errors),
                        _ => meta::annotations(Some(&new), &path.child("annotation"), &mut errors),
                    }
                    if !errors.is_empty() {
                        return Err(Wrong::Metadata(errors.aggregate()));
                    }
                }
                meta.insert(field.to_owned(), new);
            }
            Some(other) => {
                let got = go_type(other);
                return Err(Wrong::Metadata(format!(
                    "invalid metadata.{field} of type {got} in converted object"
                )));
            }
        }
    }
    object::root_mut(&mut new).insert("metadata".to_owned(), Value::Object(meta));
    Ok(new)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn foo(version: &str) -> Value {
        json!({
            "apiVersion": format!("g.io/{version}"), "kind": "Foo",
            "metadata": {"name": "a", "uid": "1", "resourceVersion": "5", "labels": {"x": "1"}}, "spec": {},
        })
    }

    #[test]
    fn only_labels_and_annotations_may_change() {
        let mut new = foo("v2");
        new["metadata"] = json!({"name": "a", "uid": "1", "resourceVersion": "9", "annotations": {"k": "v"}});
        new["spec"] = json!({"n": 1});
        let done = checked(&foo("v1"), new, "g.io/v2").expect("a conversion");
        let meta = json!({"name": "a", "uid": "1", "resourceVersion": "5", "annotations": {"k": "v"}});
        assert_eq!((&done["metadata"], &done["spec"]["n"]), (&meta, &json!(1)));
    }

    #[test]
    fn another_object_is_refused() {
        let with = |pointer: &str, v: Value| {
            let mut new = foo("v2");
            *new.pointer_mut(pointer).expect("a field") = v;
            checked(&foo("v1"), new, "g.io/v2").expect_err("refused")
        };
        let object = |s: &str| Wrong::Object(s.to_owned());
        assert_eq!(with("/metadata/uid", json!("2")), object("must have the same UID: 1 != 2"));
        assert_eq!(with("/metadata/name", json!("b")), object("must have the same name: a != b"));
        assert_eq!(with("/kind", json!("Bar")), object("invalid kind (expected Foo, received Bar)"));
        let version = with("/apiVersion", json!("g.io/v1"));
        assert_eq!(version, object("invalid groupVersion (expected g.io/v2, received g.io/v1)"));
        let label = with("/metadata/labels/x", json!(1));
        let why = "metadata.labels[x] must be a string, but is int64 in converted object";
        assert_eq!(label, Wrong::Metadata(why.to_owned()));
    }

    #[test]
    fn answers_must_be_to_the_request() {
        let answer = |uid: &str, result: Value| {
            json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "ConversionReview",
                   "response": {"uid": uid, "result": result, "convertedObjects": [{}]}})
        };
        assert_eq!(accepted(answer("u", json!({"status": "Success"})), "u", "v1").map(|o| o.len()), Ok(1));
        let said = |v: Value| accepted(v, "u", "v1").expect_err("refused");
        assert_eq!(said(answer("x", json!({"status": "Success"}))), "expected response.uid=\"u\", got \"x\"");
        assert_eq!(said(answer("u", json!({"status": "Failure", "message": "no"}))), "no");
        assert_eq!(said(answer("u", json!({}))), "response.result.status was '', not 'Success'");
        assert!(said(json!({})).starts_with("expected webhook response of"));
    }
}
