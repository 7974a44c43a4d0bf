//! Patches as requests carry them: which kind, decoded once, applied to each version of the object that is tried.

use http::HeaderMap;
use proto::schema::TypeDef;
use serde_json::Value;

use super::codec;
use super::object;
use super::options::{FieldValidation, WriteOptions};
use super::resource::{Resource, api_version};
use crate::http::negotiate::Format;
use crate::status::{ApiError, ApiResult};

/// The kinds of patch, by media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl Kind {
    /// From `Content-Type`.
    pub fn of(headers: &HeaderMap) -> ApiResult<Self> {
        let raw = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        Ok(match raw.split(';').next().unwrap_or("").trim() {
            "application/json-patch+json" => Self::Json,
            "application/merge-patch+json" => Self::Merge,
            "application/strategic-merge-patch+json" => Self::Strategic,
            "application/apply-patch+yaml" => Self::Apply,
            _ => {
                let mut e = ApiError::unsupported_media_type("415: Unsupported Media Type");
                e.details = Some(Box::default());
                return Err(e);
            }
        })
    }
}

/// A decoded patch.
pub struct Patch {
    kind: Kind,
    body: Value,
    schema: &'static TypeDef,
    group: String,
    version: String,
    object_kind: String,
    validation: FieldValidation,
}

impl Patch {
    /// Decodes a patch of `r`'s objects.
    pub fn parse(r: &Resource, kind: Kind, body: &[u8], options: &WriteOptions) -> ApiResult<Self> {
        Self::parse_as(r.schema, (r.group, r.version, r.kind), kind, body, options)
    }

    /// Decodes a patch of objects of the given type.
    pub fn parse_as(
        schema: &'static TypeDef,
        (group, version, object_kind): (&str, &str, &str),
        kind: Kind,
        body: &[u8],
        options: &WriteOptions,
    ) -> ApiResult<Self> {
        let value: Value = match kind {
            Kind::Apply => serde_yaml::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding YAML: {e}")))?,
            _ => serde_json::from_slice(body)
                .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?,
        };
        if matches!(kind, Kind::Merge | Kind::Strategic) && !value.is_object() {
            return Err(ApiError::bad_request("error decoding patch: the patch must be a JSON object"));
        }
        Ok(Self {
            kind,
            body: value,
            schema,
            group: group.to_owned(),
            version: version.to_owned(),
            object_kind: object_kind.to_owned(),
            validation: options.field_validation,
        })
    }

    /// The object after the patch, in the version of the request.
    pub fn apply(
        &self,
        _r: &Resource,
        _manager: &str,
        _subresource: &str,
        current: Option<&mut Value>,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        let Some(current) = current else {
            return Err(ApiError::not_found(&self.group, &self.object_kind, ""));
        };
        self.apply_plain(current, warnings)
    }

    /// The object after a patch that needs nothing but the object.
    pub fn apply_plain(&self, current: &mut Value, warnings: &mut Vec<String>) -> ApiResult<Value> {
        object::set_type(current, &api_version(&self.group, &self.version), &self.object_kind);
        match self.kind {
            Kind::Json => {
                let patch: json_patch::Patch = serde_json::from_value(self.body.clone())
                    .map_err(|e| ApiError::bad_request(format!("error decoding patch: {e}")))?;
                json_patch::patch(current, &patch).map_err(|_| {
                    let mut e = ApiError::new(
                        422,
                        "Invalid",
                        "the server rejected our request due to an error in our request",
                    );
                    e.details = Some(Box::default());
                    e
                })?;
            }
            Kind::Merge => json_patch::merge(current, &self.body),
            Kind::Strategic | Kind::Apply => {
                return Err(ApiError::unsupported_media_type(
                    "strategic merge patch and apply are not yet available in this server; send a merge patch",
                ));
            }
        }
        self.normalize(current, warnings)
    }

    /// Brings the patched object through its type, as a body would come.
    fn normalize(&self, patched: &Value, warnings: &mut Vec<String>) -> ApiResult<Value> {
        let bytes = serde_json::to_vec(patched).map_err(|e| ApiError::bad_request(e.to_string()))?;
        codec::decode_as(
            self.schema,
            (&self.group, &self.version, &self.object_kind),
            &bytes,
            Format::Json,
            self.validation,
            warnings,
        )
    }
}
