//! Patches as requests carry them: which kind, applied to each version of the object that is tried.

use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use proto::json::Strictness;
use proto::schema::TypeRef;
use serde_json::Value;

use super::options::{FieldValidation, WriteOptions};
use super::resource::{Resource, api_version};
use super::{managed, object};
use crate::crd::Served;
use crate::patch::apply::Writer;
use crate::patch::{self, PatchType};
use crate::status::{ApiError, ApiResult};

/// The kind of patch that the request carries.
pub fn kind_of(headers: &HeaderMap) -> ApiResult<PatchType> {
    let raw = headers.get(http::header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    PatchType::from_content_type(raw).ok_or_else(|| {
        let mut e = ApiError::unsupported_media_type("415: Unsupported Media Type");
        e.details = Some(Box::default());
        e
    })
}

/// A patch of objects of one type.
pub struct Patch {
    pub kind: PatchType,
    body: Bytes,
    /// The object of a server-side apply.
    applied: Value,
    /// Whether its body may hold a key more than once.
    may_repeat: bool,
    schema: TypeRef,
    custom: Option<Arc<Served>>,
    api_version: String,
    object_kind: &'static str,
    strictness: Strictness,
    force: bool,
}

impl Patch {
    /// Takes a patch of `r`'s objects.
    pub fn parse(r: &Resource, kind: PatchType, body: Bytes, options: &WriteOptions) -> ApiResult<Self> {
        let patch = Self::parse_as(r.schema.clone(), (r.group, r.version, r.kind), kind, body, options)?;
        Ok(Self { custom: r.custom.clone(), ..patch })
    }

    /// Takes a patch of objects of the given type.
    pub fn parse_as(
        schema: TypeRef,
        (group, version, object_kind): (&str, &str, &'static str),
        kind: PatchType,
        body: Bytes,
        options: &WriteOptions,
    ) -> ApiResult<Self> {
        let (applied, may_repeat) = match kind {
            PatchType::Apply => patch::apply::parse(&body)?,
            _ => (Value::Null, false),
        };
        Ok(Self {
            kind,
            body,
            applied,
            may_repeat,
            schema,
            custom: None,
            api_version: api_version(group, version),
            object_kind,
            strictness: match options.field_validation {
                FieldValidation::Ignore => Strictness::Ignore,
                FieldValidation::Warn => Strictness::Warn,
                FieldValidation::Strict => Strictness::Strict,
            },
            force: options.force.unwrap_or(false),
        })
    }

    /// The object after the patch, in the version of the request, as `live` is (none: the object is absent).
    pub fn apply(
        &self,
        r: &Resource,
        (manager, subresource): (&str, &str),
        live: Option<&Value>,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        if self.kind != PatchType::Apply {
            let Some(live) = live else { return Err(ApiError::not_found(r.group, r.resource, "")) };
            return self.patched(live, warnings);
        }
        let reset = managed::reset(r, subresource);
        self.lay_over(live, manager, subresource, &reset, warnings)
    }

    /// As [`Self::apply`], for an object that is only a view of another.
    pub fn apply_to_view(
        &self,
        live: &Value,
        (manager, subresource): (&str, &str),
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        if self.kind != PatchType::Apply {
            return self.patched(live, warnings);
        }
        self.lay_over(Some(live), manager, subresource, &patch::fields::Set::of(&[]), warnings)
    }

    fn patched(&self, live: &Value, warnings: &mut Vec<String>) -> ApiResult<Value> {
        if let Some(c) = &self.custom {
            let coerce = |o: &mut Value| c.coerce(o, self.strictness);
            let decoded = patch::patched_custom(self.kind, live, &self.body, self.strictness, coerce)?;
            warnings.extend(decoded.strict_errors);
            return Ok(decoded.value);
        }
        let decoded = patch::patched(self.kind, live, &self.body, Some(&self.schema), self.strictness)?;
        warnings.extend(decoded.strict_errors);
        let mut o = decoded.value;
        object::set_type(&mut o, &self.api_version, self.object_kind);
        Ok(o)
    }

    fn lay_over(
        &self,
        live: Option<&Value>,
        manager: &str,
        subresource: &str,
        reset: &patch::fields::Set,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        let now = object::now();
        let writer = Writer {
            def: Some(&self.schema),
            manager,
            api_version: &self.api_version,
            subresource,
            reset,
            now: &now,
        };
        let mut o = patch::apply::apply(live, &self.applied, &writer, self.force)?;
        self.check_fields(warnings)?;
        if let Some(c) = &self.custom {
            c.coerce(&mut o, Strictness::Ignore).map_err(ApiError::bad_request)?;
        }
        self.check_repeated_keys(warnings)?;
        object::set_type(&mut o, &self.api_version, self.object_kind);
        Ok(o)
    }

    /// Keys that the applied YAML repeats: warned of or refused.
    fn check_repeated_keys(&self, warnings: &mut Vec<String>) -> ApiResult<()> {
        if !self.may_repeat || self.strictness == Strictness::Ignore {
            return Ok(());
        }
        let repeated = super::yaml::repeated_keys(&self.body);
        if self.strictness == Strictness::Strict
            && let Some(e) = super::yaml::error(&repeated)
        {
            let why = format!("error strict decoding YAML: error converting YAML to JSON: {e}");
            return Err(ApiError::bad_request(why));
        }
        warnings.extend(repeated);
        Ok(())
    }

    /// Unknown fields of an applied object: warned of or refused.
    fn check_fields(&self, warnings: &mut Vec<String>) -> ApiResult<()> {
        // Undeclared fields of custom resources are refused by the apply itself.
        if self.strictness == Strictness::Ignore || self.custom.is_some() {
            return Ok(());
        }
        let Ok(decoded) = proto::json::normalize(&self.applied, &self.schema, self.strictness) else {
            // What does not fit the type at all is refused by the apply itself, with its own words.
            return Ok(());
        };
        if self.strictness == Strictness::Strict && !decoded.strict_errors.is_empty() {
            return Err(ApiError::bad_request(proto::json::strict_error(&decoded.strict_errors)));
        }
        warnings.extend(decoded.strict_errors);
        Ok(())
    }
}
