//! Issues service-account tokens: the `serviceaccounts/token` subresource.

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Value, json};

use super::keys::SigningKey;
use super::service_account::USER_PREFIX;
use super::{rfc3339, unix};
use crate::admission::plugins::service_account::TOKEN_SECONDS;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::validate::text as rules;
use crate::lookup::{self, ObjectLookup, items, text};
use crate::status::{ApiError, ApiResult};

const GROUP: &str = "authentication.k8s.io";
const KIND: &str = "TokenRequest";
const DEFAULT_SECONDS: i64 = 3600;
const MIN_SECONDS: i64 = 600;
const MAX_SECONDS: i64 = 1 << 32;
/// How long the extended tokens of pods live whose clients may not reload them.
const EXTENDED_SECONDS: i64 = 365 * 24 * 3600;

/// Signs tokens.
pub struct Issuer {
    /// First `--service-account-issuer`.
    pub issuer: String,
    /// Of `--service-account-signing-key-file`.
    pub key: SigningKey,
    /// `--api-audiences`.
    pub api_audiences: Vec<String>,
    /// `--service-account-max-token-expiration` in seconds; zero sets no limit.
    pub max_seconds: i64,
    /// `--service-account-extend-token-expiration`.
    pub extend: bool,
    pub objects: Arc<dyn ObjectLookup>,
}

/// The object that a token is bound to.
#[derive(Default)]
struct Bound {
    /// Claim name and reference.
    claims: Vec<(&'static str, Value)>,
    pod: bool,
}

impl Issuer {
    /// Names the request after its account and refuses what cannot be: run before admission.
    pub async fn prepare(&self, namespace: &str, name: &str, request: &mut Value) -> ApiResult<()> {
        let metadata = Path::new("metadata");
        for (field, want) in [("name", name), ("namespace", namespace)] {
            let given = text(request, &format!("/metadata/{field}"));
            if !given.is_empty() && given != want {
                let message = format!("must match the service account {field} if specified");
                let errors = vec![Error::invalid(&metadata.child(field), given, message)];
                return Err(ApiError::invalid(GROUP, KIND, name, &ErrorList::from(errors)));
            }
        }
        let account = self
            .objects
            .get(lookup::SERVICE_ACCOUNTS, namespace, name)
            .await?
            .ok_or_else(|| ApiError::not_found("", "serviceaccounts", name))?;
        let uid = text(&account, "/metadata/uid").to_owned();
        let sent = text(request, "/metadata/uid");
        if !sent.is_empty() && sent != uid {
            return Err(ApiError::conflict(
                GROUP,
                KIND,
                name,
                format!(
                    "the UID in the token request ({sent}) does not match the UID of the service account ({uid})"
                ),
            ));
        }
        if request.pointer("/spec/expirationSeconds").is_none_or(Value::is_null) {
            request["spec"]["expirationSeconds"] = DEFAULT_SECONDS.into();
        }
        request["metadata"]["name"] = name.into();
        request["metadata"]["namespace"] = namespace.into();
        request["metadata"]["uid"] = uid.into();
        if let Some(o) = request.as_object_mut() {
            o.remove("status");
        }
        let seconds = seconds(request);
        let path = Path::new("spec").child("expirationSeconds");
        let problem = if seconds < MIN_SECONDS {
            "may not specify a duration less than 10 minutes"
        } else if seconds > MAX_SECONDS {
            "may not specify a duration larger than 2^32 seconds"
        } else {
            return Ok(());
        };
        let errors = ErrorList::from(vec![Error::invalid(&path, seconds, problem)]);
        Err(ApiError::invalid(GROUP, KIND, "", &errors))
    }

    /// Signs the token that a prepared request asks for. Returns the request with its status, and warnings.
    pub async fn issue(
        &self,
        namespace: &str,
        name: &str,
        mut request: Value,
        now: SystemTime,
    ) -> ApiResult<(Value, Vec<String>)> {
        let bound = self.bound(namespace, name, &request).await?;
        // Not before admission, which must see what the client asked for.
        if items(&request, "/spec/audiences").is_empty() {
            request["spec"]["audiences"] = json!(self.api_audiences);
        }
        let mut warnings = Vec::new();
        let mut asked = seconds(&request);
        if self.max_seconds > 0 && asked > self.max_seconds {
            warnings.push(format!(
                "requested expiration of {asked} seconds shortened to {} seconds",
                self.max_seconds
            ));
            asked = self.max_seconds;
            request["spec"]["expirationSeconds"] = asked.into();
        }
        let audiences = items(&request, "/spec/audiences");
        let ours = audiences.iter().all(|a| self.api_audiences.iter().any(|x| a.as_str() == Some(x)));
        let now = unix(now);
        let mut private = json!({
            "namespace": namespace,
            "serviceaccount": {"name": name, "uid": text(&request, "/metadata/uid")},
        });
        for (kind, reference) in bound.claims {
            private[kind] = reference;
        }
        let mut lifetime = asked;
        if self.extend && bound.pod && asked == TOKEN_SECONDS && ours {
            private["warnafter"] = (now + asked).into();
            lifetime = if self.max_seconds > 0 { self.max_seconds } else { EXTENDED_SECONDS };
        }
        let claims = json!({
            "aud": audiences, "exp": now + lifetime, "iat": now, "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(), "kubernetes.io": private, "nbf": now,
            "sub": format!("{USER_PREFIX}{namespace}:{name}"),
        });
        let token = self
            .key
            .sign(&claims)
            .map_err(|e| ApiError::internal(format!("failed to generate token: {e}")))?;
        request["apiVersion"] = "authentication.k8s.io/v1".into();
        request["kind"] = KIND.into();
        request["metadata"]["creationTimestamp"] = rfc3339(now).into();
        request["status"] = json!({"token": token, "expirationTimestamp": rfc3339(now + asked)});
        Ok((request, warnings))
    }

    async fn bound(&self, namespace: &str, account: &str, request: &Value) -> ApiResult<Bound> {
        let Some(reference) = request.pointer("/spec/boundObjectRef").filter(|r| !r.is_null()) else {
            return Ok(Bound::default());
        };
        let (kind, name) = (text(reference, "/kind"), text(reference, "/name"));
        let (group, version) = group_version(text(reference, "/apiVersion"));
        let (resource, scope) = match (group, kind) {
            ("", "Pod") => (lookup::PODS, namespace),
            ("", "Node") => (lookup::NODES, ""),
            ("", "Secret") => (lookup::SECRETS, namespace),
            _ => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token to object of type {group}/{version}, Kind={kind}"
                )));
            }
        };
        if name.is_empty() {
            return Err(ApiError::bad_request("Name parameter required."));
        }
        let wrong = rules::path_segment(name, false);
        if !wrong.is_empty() {
            let why = wrong.join(";");
            return Err(ApiError::bad_request(format!("Name parameter invalid: {name:?}: {why}")));
        }
        let object = self
            .objects
            .get(resource, scope, name)
            .await?
            .ok_or_else(|| ApiError::not_found("", resource.resource, name))?;
        let mut out = Bound::default();
        if kind == "Pod" {
            out.pod = true;
            if text(&object, "/spec/serviceAccountName") != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount \"{account}\" to pod running with different serviceaccount name."
                )));
            }
            let node = text(&object, "/spec/nodeName");
            if !node.is_empty() {
                let found = self.objects.get(lookup::NODES, "", node).await?;
                let mut claim = json!({"name": node});
                if let Some(n) = found {
                    claim["uid"] = text(&n, "/metadata/uid").into();
                }
                out.claims.push(("node", claim));
            }
        }
        let uid = text(&object, "/metadata/uid");
        let sent = text(reference, "/uid");
        if !sent.is_empty() && sent != uid {
            return Err(ApiError::conflict(
                "",
                kind,
                name,
                format!(
                    "the UID in the bound object reference ({sent}) does not match the UID in record. The object might have been deleted and then recreated"
                ),
            ));
        }
        let claim = match kind {
            "Pod" => "pod",
            "Node" => "node",
            _ => "secret",
        };
        out.claims.push((claim, json!({"name": name, "uid": uid})));
        Ok(out)
    }
}

fn seconds(request: &Value) -> i64 {
    request.pointer("/spec/expirationSeconds").and_then(Value::as_i64).unwrap_or_default()
}
/// Group and version of an API version; both empty where it is malformed.
fn group_version(api_version: &str) -> (&str, &str) {
    match api_version.split_once('/') {
        None => ("", api_version),
        Some((_, version)) if version.contains('/') => ("", ""),
        Some(both) => both,
    }
}
