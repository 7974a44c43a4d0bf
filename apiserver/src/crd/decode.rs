//! Objects as clients send them: parsed without a type table, then brought to the form of the version's schema, with
//! what it does not know named for `fieldValidation`.

use proto::json::{DecodeError, Strictness};
use serde_json::Value;

use super::Served;
use super::schema::meta::Malformed;
use crate::http::negotiate::{self, Format};
use crate::registry::options::FieldValidation;
use crate::status::{ApiError, ApiResult};

/// How strictly the readers of bodies look.
pub fn strictness(v: FieldValidation) -> Strictness {
    match v {
        FieldValidation::Ignore => Strictness::Ignore,
        FieldValidation::Warn => Strictness::Warn,
        FieldValidation::Strict => Strictness::Strict,
    }
}

impl Served {
    /// Decodes a request body as an object of this version.
    pub fn body(
        &self,
        body: &[u8],
        format: Format,
        validation: FieldValidation,
        warnings: &mut Vec<String>,
    ) -> ApiResult<Value> {
        let kind = self.definition.names.kind.as_str();
        let yaml;
        let json = match format {
            Format::Protobuf => return Err(negotiate::unsupported()),
            Format::Json => body,
            Format::Yaml => {
                yaml = crate::registry::yaml::to_json(body, kind)?;
                &yaml
            }
        };
        let fail = |e: &DecodeError| ApiError::bad_request(e.message(kind, "", "", body));
        let (sent_version, sent_kind) = proto::json::interpret(json).map_err(|e| fail(&e))?;
        self.check_kind(&sent_version, &sent_kind, json)?;
        let strictness = strictness(validation);
        let decoded = proto::json::decode_any(json, strictness).map_err(|e| fail(&e))?;
        let (mut o, mut strict) = (decoded.value, decoded.strict_errors);
        let unknown = self.coerce(&mut o, strictness).map_err(|why| {
            let (_, version) = proto::resources::split_api_version(&sent_version);
            ApiError::bad_request(proto::json::cannot_be_handled(&sent_kind, version, kind, &why))
        })?;
        strict.extend(unknown);
        if let Some(why) = crate::registry::codec::strict_error(body, format, validation, strict, warnings) {
            let (_, version) = proto::resources::split_api_version(&sent_version);
            return Err(ApiError::bad_request(proto::json::cannot_be_handled(
                &sent_kind, version, kind, &why,
            )));
        }
        Ok(o)
    }

    /// Brings an object that a client sent, or that came out of its patch, to form. Says what was dropped, unless
    /// that is not asked for.
    ///
    /// # Errors
    /// What does not fit metadata's types.
    pub fn coerce(&self, o: &mut Value, strictness: Strictness) -> Result<Vec<String>, String> {
        self.version().schema.decode(o, Malformed::Refuse, strictness != Strictness::Ignore)
    }

    /// Bodies must say what they are: there is no type to take them for.
    fn check_kind(&self, sent_version: &str, sent_kind: &str, body: &[u8]) -> ApiResult<()> {
        let kind = &self.definition.names.kind;
        for (what, sent) in [("Kind", sent_kind), ("apiVersion", sent_version)] {
            if sent.is_empty() {
                return Err(ApiError::bad_request(format!(
                    "the object provided is unrecognized (must be of type {kind}): Object '{what}' is missing in '{}' ({})",
                    String::from_utf8_lossy(body),
                    proto::json::summary(body)
                )));
            }
        }
        let expected = &self.version().api_version;
        if sent_version != expected {
            return Err(ApiError::bad_request(format!(
                "the API version in the data ({sent_version}) does not match the expected API version ({expected})"
            )));
        }
        Ok(())
    }

    /// The warning that every request to a deprecated version gets.
    pub fn warning(&self) -> Option<&str> {
        self.version().warning.as_deref()
    }
}
