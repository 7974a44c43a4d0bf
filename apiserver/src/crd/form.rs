//! How custom resources are written down: as JSON, in the version that is the storage version when they are
//! written. What is read is brought to the form of today's schema of that version, so that readers and the watch
//! cache see objects as if they had been written under it.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;

use super::definition::Definition;
use super::fields;
use super::schema::meta::Malformed;
use crate::cache::{Indexed, Indexer, Pairs};
use crate::lookup::text;
use crate::registry::form::Form;
use crate::registry::object;
use crate::store::{KeyValue, Revision};

/// The form of the resources of one definition.
pub struct JsonForm(pub Arc<Definition>);

impl JsonForm {
    fn with_revision(&self, stored: &[u8], revision: Revision) -> Result<Value, String> {
        let mut v = self.decode(stored)?;
        object::set_revision(&mut v, revision);
        Ok(v)
    }
}

impl Form for JsonForm {
    fn served(&self, stored: &[u8], revision: Revision) -> Result<Bytes, String> {
        self.with_revision(stored, revision).map(|v| text_of(&v))
    }

    fn decode(&self, stored: &[u8]) -> Result<Value, String> {
        let mut v: Value = serde_json::from_slice(stored).map_err(|e| e.to_string())?;
        let api_version = text(&v, "/apiVersion");
        let Some(version) = self.0.of_api_version(api_version) else {
            return Err(format!("request to convert CR from an invalid group/version: {api_version}"));
        };
        // Objects of before there were checks are served without what is malformed.
        version.schema.decode(&mut v, Malformed::Drop, false)?;
        let generation = object::meta(&v).get("generation").and_then(Value::as_i64).unwrap_or(0);
        if generation == 0 {
            object::meta_mut(&mut v).insert("generation".to_owned(), 1.into());
        }
        version.schema.default(&mut v);
        Ok(v)
    }

    fn encode(&self, o: &Value) -> Result<Bytes, String> {
        if !object::meta(o).contains_key("resourceVersion") {
            return Ok(text_of(o));
        }
        let mut o = o.clone();
        object::meta_mut(&mut o).remove("resourceVersion");
        Ok(text_of(&o))
    }

    fn value(&self, served: &[u8]) -> Result<Value, String> {
        serde_json::from_slice(served).map_err(|e| e.to_string())
    }
}

impl Indexer for JsonForm {
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String> {
        let v = self.with_revision(&kv.value, kv.mod_revision)?;
        let labels = object::meta(&v).get("labels").and_then(Value::as_object);
        let labels: Pairs =
            labels.into_iter().flatten().map(|(k, v)| (k.as_str(), v.as_str().unwrap_or_default())).collect();
        Ok(Indexed { bytes: text_of(&v), labels, fields: fields::of(&self.0, &v) })
    }
}

/// The object's text: `apiVersion` and `kind` first, where [`retyped`] finds them.
pub fn text_of(o: &Value) -> Bytes {
    let mut out = Vec::with_capacity(512);
    out.extend_from_slice(b"{\"apiVersion\":");
    let quote = |out: &mut Vec<u8>, v: &Value| {
        // Writing to memory cannot fail.
        let _ = serde_json::to_writer(out, v);
    };
    quote(&mut out, o.get("apiVersion").unwrap_or(&Value::String(String::new())));
    out.extend_from_slice(b",\"kind\":");
    quote(&mut out, o.get("kind").unwrap_or(&Value::String(String::new())));
    for (k, v) in o.as_object().into_iter().flatten() {
        if k == "apiVersion" || k == "kind" {
            continue;
        }
        out.push(b',');
        let _ = serde_json::to_writer(&mut out, k);
        out.push(b':');
        quote(&mut out, v);
    }
    out.push(b'}');
    out.into()
}

/// The version in which [`text_of`] wrote an object.
pub fn version_in<'d>(d: &'d Definition, text: &[u8]) -> Option<&'d super::definition::Version> {
    let rest = text.strip_prefix(b"{\"apiVersion\":\"")?;
    let length = rest.iter().position(|b| *b == b'"')?;
    d.of_api_version(std::str::from_utf8(&rest[..length]).ok()?)
}

/// The same text with another `apiVersion`; None where [`text_of`] did not write it.
pub fn retyped(text: &[u8], api_version: &str) -> Option<Bytes> {
    const HEAD: &[u8] = b"{\"apiVersion\":\"";
    let rest = text.strip_prefix(HEAD)?;
    let end = rest.iter().position(|b| *b == b'"')?;
    let mut out = Vec::with_capacity(text.len() + api_version.len());
    out.extend_from_slice(HEAD);
    // Group and version are names of the DNS: nothing in them is escaped.
    out.extend_from_slice(api_version.as_bytes());
    out.extend_from_slice(&rest[end..]);
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn type_comes_first_and_can_be_changed() {
        let o =
            json!({"a": 1, "apiVersion": "g.io/v1", "kind": "Foo", "metadata": {"name": "x"}, "Z": "é\""});
        let text = text_of(&o);
        assert!(text.starts_with(b"{\"apiVersion\":\"g.io/v1\",\"kind\":\"Foo\","));
        assert_eq!(serde_json::from_slice::<Value>(&text).expect("JSON"), o);
        let other: Value =
            serde_json::from_slice(&retyped(&text, "g.io/v1beta1").expect("text")).expect("JSON");
        assert_eq!((other["apiVersion"].as_str(), &other["Z"]), (Some("g.io/v1beta1"), &o["Z"]));
        assert!(retyped(b"{}", "v").is_none());
    }
}
