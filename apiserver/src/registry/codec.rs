//! Between bytes and objects: request bodies to values, values to what is stored, and back.

use bytes::Bytes;
use proto::json::{DecodeError, Strictness};
use proto::schema::TypeDef;
use serde_json::Value;

use super::options::FieldValidation;
use super::resource::{Resource, api_version};
use super::{convert, object};
use crate::http::negotiate::Format;
use crate::status::{ApiError, ApiResult};

/// Decodes a request body as an object of `r`'s kind, in the version of the request.
pub fn decode_body(
    r: &Resource,
    body: &[u8],
    format: Format,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> ApiResult<Value> {
    if let Some(c) = &r.custom {
        return c.body(body, format, validation, warnings);
    }
    decode_as(&r.schema, (r.group, r.version, r.kind), body, format, validation, warnings)
}

/// Decodes a request body as an object of the given type; a body without apiVersion and kind is taken for one.
pub fn decode_as(
    schema: &TypeDef,
    gvk: (&str, &str, &str),
    body: &[u8],
    format: Format,
    validation: FieldValidation,
    warnings: &mut Vec<String>,
) -> ApiResult<Value> {
    let (group, version, kind) = gvk;
    let yaml;
    let json = match format {
        Format::Protobuf => return decode_protobuf(schema, gvk, body),
        Format::Json => body,
        Format::Yaml => {
            yaml = super::yaml::to_json(body, kind)?;
            &yaml
        }
    };
    let fail = |e: &DecodeError, v: &str, k: &str| ApiError::bad_request(e.message(kind, v, k, body));
    let (sent_version, sent_kind) = proto::json::interpret(json).map_err(|e| fail(&e, "", ""))?;
    if sent_version.matches('/').count() > 1 {
        let why = DecodeError::Mismatch(format!("unexpected GroupVersion string: {sent_version}"));
        return Err(fail(&why, "", ""));
    }
    check_kind(schema, gvk, &sent_version, &sent_kind)?;
    let strictness = match validation {
        FieldValidation::Ignore => Strictness::Ignore,
        FieldValidation::Warn => Strictness::Warn,
        FieldValidation::Strict => Strictness::Strict,
    };
    let decoded = proto::json::decode(json, schema, strictness).map_err(|e| fail(&e, version, kind))?;
    if let Some(why) = strict_error(body, format, validation, decoded.strict_errors, warnings) {
        return Err(ApiError::bad_request(proto::json::cannot_be_handled(kind, version, kind, &why)));
    }
    let mut value = decoded.value;
    object::set_type(&mut value, &api_version(group, version), kind);
    Ok(value)
}

/// What is wrong with a body under strict validation; otherwise what is worth a warning is warned of. `errors` are
/// those of its fields, beside which YAML may repeat keys.
pub fn strict_error(
    body: &[u8],
    format: Format,
    validation: FieldValidation,
    mut errors: Vec<String>,
    warnings: &mut Vec<String>,
) -> Option<String> {
    if validation == FieldValidation::Ignore {
        return None;
    }
    let repeated = if format == Format::Yaml { super::yaml::repeated_keys(body) } else { Vec::new() };
    if validation == FieldValidation::Warn {
        warnings.extend(repeated);
        warnings.extend(errors);
        return None;
    }
    if let Some(e) = super::yaml::error(&repeated) {
        errors.insert(0, e);
    }
    (!errors.is_empty()).then(|| proto::json::strict_error(&errors))
}

fn decode_protobuf(schema: &TypeDef, gvk: (&str, &str, &str), body: &[u8]) -> ApiResult<Value> {
    let (group, version, kind) = gvk;
    let bad = |e: String| {
        let head = proto::json::summary(body);
        ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {e} ({head})"
        ))
    };
    let env = proto::envelope::unwrap(body).map_err(|e| bad(e.to_string()))?;
    check_kind(schema, gvk, env.api_version, env.kind)?;
    let mut value = proto::wire::from_proto(env.raw, schema).map_err(|e| bad(e.to_string()))?;
    object::set_type(&mut value, &api_version(group, version), kind);
    Ok(value)
}

/// The body must be of the kind and version that the endpoint takes.
fn check_kind(
    schema: &TypeDef,
    (group, version, kind): (&str, &str, &str),
    sent_version: &str,
    sent_kind: &str,
) -> ApiResult<()> {
    if sent_version.is_empty() && sent_kind.is_empty() {
        return Ok(());
    }
    let expected = api_version(group, version);
    // What one of the two leaves out is taken from the endpoint.
    let sent_version = if sent_version.is_empty() { expected.as_str() } else { sent_version };
    let sent_kind = if sent_kind.is_empty() { kind } else { sent_kind };
    if sent_version == expected && sent_kind == kind {
        return Ok(());
    }
    let (g, v) = proto::resources::split_api_version(sent_version);
    let handled =
        |why: String| Err(ApiError::bad_request(proto::json::cannot_be_handled(sent_kind, v, kind, &why)));
    let Some(sent) = proto::schema::by_gvk(g, v, sent_kind) else {
        return handled(format!(
            "no kind \"{sent_kind}\" is registered for version \"{sent_version}\" in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        ));
    };
    if g == group && sent_kind == kind {
        return Err(ApiError::bad_request(format!(
            "the API version in the data ({sent_version}) does not match the expected API version ({expected})"
        )));
    }
    let package = if group.is_empty() { "core" } else { group.split('.').next().unwrap_or(group) };
    handled(format!("converting ({}) to ({package}.{}): unknown conversion", sent.go, schema.short()))
}

/// Brings a value in `r`'s version to the storage version.
pub fn to_storage(r: &Resource, o: &mut Value) -> ApiResult<()> {
    if let Some(s) = &r.storage
        && !r.is_hub_version()
    {
        convert::convert(r.group, r.resource, r.version, s.version, o)?;
        object::set_type(o, &s.api_version, s.kind);
    }
    Ok(())
}

/// Brings a value in the storage version to `r`'s version.
pub fn from_storage(r: &Resource, o: &mut Value) -> ApiResult<()> {
    if let Some(s) = &r.storage
        && !r.is_hub_version()
    {
        convert::convert(r.group, r.resource, s.version, r.version, o)?;
        object::set_type(o, &r.api_version(), r.kind);
    }
    Ok(())
}

/// The value in stored bytes; without apiVersion and kind.
pub fn decode_stored(schema: &TypeDef, bytes: &[u8]) -> Result<Value, String> {
    let env = proto::envelope::unwrap(bytes).map_err(|e| e.to_string())?;
    proto::wire::from_proto(env.raw, schema).map_err(|e| e.to_string())
}

/// The bytes that are stored for a value: no resourceVersion is among them.
pub fn encode_stored(schema: &TypeDef, api_version: &str, kind: &str, o: &Value) -> Result<Bytes, String> {
    let cleaned;
    let o = if object::meta(o).contains_key("resourceVersion") {
        let mut c = o.clone();
        object::meta_mut(&mut c).remove("resourceVersion");
        cleaned = c;
        &cleaned
    } else {
        o
    };
    let raw = proto::wire::to_proto(o, schema).map_err(|e| e.to_string())?;
    Ok(Bytes::from(proto::envelope::wrap(api_version, kind, &raw)))
}

/// A wire message of a `meta/v1` kind (`Status`, …) where the kind has one.
pub fn meta_to_wire(api_version: &str, kind: &str, o: &Value) -> Option<Vec<u8>> {
    let schema = proto::schema::by_name(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{kind}"))?;
    let raw = proto::wire::to_proto(o, schema).ok()?;
    Some(proto::envelope::wrap(api_version, kind, &raw))
}
