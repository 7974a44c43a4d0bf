//! ConfigMaps and Secrets: named data for pods.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{fill, text};
use crate::kinds::validate::{immutable, invalid_each, text as rules};
use crate::registry::strategy::{Context, Strategy};

/// Bytes of all values together.
const SIZE_MAX: usize = 1 << 20;
const FROZEN: &str = "field is immutable when `immutable` is set";

/// Rules of ConfigMaps.
pub struct ConfigMap;

fn key(name: &str, path: &Path, errors: &mut ErrorList) {
    errors.extend(invalid_each(&path.key(name), name, rules::config_key(name)));
}

/// Once frozen, an object stays frozen with all its data.
fn frozen(old: Option<bool>, new: Option<bool>, same: &[(&str, bool)], errors: &mut ErrorList) {
    if old != Some(true) {
        return;
    }
    if new != Some(true) {
        errors.push(Error::forbidden(&Path::new("immutable"), FROZEN));
    }
    for (field, _) in same.iter().filter(|(_, same)| !same) {
        errors.push(Error::forbidden(&Path::new(field), FROZEN));
    }
}

fn same_map<T: PartialEq>(a: Option<&BTreeMap<String, T>>, b: Option<&BTreeMap<String, T>>) -> bool {
    let blank = BTreeMap::new();
    a.unwrap_or(&blank) == b.unwrap_or(&blank)
}

impl Strategy for ConfigMap {
    type Object = api::ConfigMap;

    fn validate(&self, _cx: &mut Context, c: &api::ConfigMap) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut size = 0;
        let at = Path::new("data");
        for (k, v) in c.data.iter().flatten() {
            key(k, &at, &mut errors);
            if c.binary_data.as_ref().is_some_and(|b| b.contains_key(k)) {
                errors.push(Error::invalid(&at.key(k), k, "duplicate of key present in binaryData"));
            }
            size += v.len();
        }
        for (k, v) in c.binary_data.iter().flatten() {
            key(k, &Path::new("binaryData"), &mut errors);
            size += v.0.len();
        }
        if size > SIZE_MAX {
            errors.push(Error::too_long(&Path::new(""), SIZE_MAX as i64));
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, c: &api::ConfigMap, old: &api::ConfigMap) -> ErrorList {
        let mut errors = ErrorList::new();
        let same = [
            ("data", same_map(c.data.as_ref(), old.data.as_ref())),
            ("binaryData", same_map(c.binary_data.as_ref(), old.binary_data.as_ref())),
        ];
        frozen(old.immutable, c.immutable, &same, &mut errors);
        errors
    }
}

/// Rules of Secrets.
pub struct Secret;

/// Keys that a type of secret must have.
fn typed_keys(s: &api::Secret, errors: &mut ErrorList) {
    let at = Path::new("data");
    let has = |k: &str| s.data.as_ref().is_some_and(|d| d.contains_key(k));
    let mut require = |k: &str| errors.push(Error::required(&at.key(k), ""));
    match text(&s.type_) {
        "kubernetes.io/service-account-token" => {
            let account = "kubernetes.io/service-account.name";
            let named = s.metadata.annotations.as_ref().and_then(|a| a.get(account));
            if named.is_none_or(String::is_empty) {
                let at = Path::new("metadata").child("annotations").key(account);
                errors.push(Error::required(&at, ""));
            }
        }
        "kubernetes.io/dockercfg" => json_key(s, ".dockercfg", &at, errors),
        "kubernetes.io/dockerconfigjson" => json_key(s, ".dockerconfigjson", &at, errors),
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => {
            require("username");
            require("password");
        }
        "kubernetes.io/ssh-auth" => {
            let name = "ssh-privatekey";
            if s.data.as_ref().and_then(|d| d.get(name)).is_none_or(|v| v.0.is_empty()) {
                require(name);
            }
        }
        "kubernetes.io/tls" => {
            for k in ["tls.crt", "tls.key"].into_iter().filter(|k| !has(k)) {
                require(k);
            }
        }
        _ => {}
    }
}

/// A key that holds a JSON object. What it holds is never told.
fn json_key(s: &api::Secret, name: &str, at: &Path, errors: &mut ErrorList) {
    let Some(value) = s.data.as_ref().and_then(|d| d.get(name)) else {
        errors.push(Error::required(&at.key(name), ""));
        return;
    };
    let why = match proto::json::decode_any(&value.0, proto::json::Strictness::Ignore) {
        Err(e) => e.to_string(),
        Ok(read) => {
            let found = match read.value {
                serde_json::Value::Object(_) | serde_json::Value::Null => return,
                serde_json::Value::Array(_) => "array",
                serde_json::Value::String(_) => "string",
                serde_json::Value::Bool(_) => "bool",
                serde_json::Value::Number(_) => "number",
            };
            format!("json: cannot unmarshal {found} into Go value of type map[string]interface {{}}")
        }
    };
    errors.push(Error::invalid(&at.key(name), "<secret contents redacted>", why));
}

impl Strategy for Secret {
    type Object = api::Secret;

    fn default(&self, secret: &mut api::Secret) {
        fill(&mut secret.type_, "Opaque");
        // `stringData` is a convenience for writers: it lands in `data` and is never shown.
        if let Some(plain) = secret.string_data.take().filter(|m| !m.is_empty()) {
            let data = secret.data.get_or_insert_with(Default::default);
            data.extend(plain.into_iter().map(|(k, v)| (k, ByteString(v.into_bytes()))));
        }
    }

    fn validate(&self, cx: &mut Context, s: &api::Secret) -> ErrorList {
        let mut errors = ErrorList::new();
        let at = Path::new("data");
        let mut size = 0;
        for (k, v) in s.data.iter().flatten() {
            key(k, &at, &mut errors);
            size += v.0.len();
        }
        if size > SIZE_MAX {
            errors.push(Error::too_long(&at, SIZE_MAX as i64));
        }
        typed_keys(s, &mut errors);
        if text(&s.type_) == "kubernetes.io/tls" {
            let of =
                |k: &str| s.data.as_ref().and_then(|d| d.get(k)).map(|v| v.0.as_slice()).unwrap_or_default();
            cx.warnings.extend(super::key_pair::wrong_with(of("tls.crt"), of("tls.key")));
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, s: &api::Secret, old: &api::Secret) -> ErrorList {
        let mut errors = immutable(&s.type_, &old.type_, &Path::new("type"));
        let same = [("data", same_map(s.data.as_ref(), old.data.as_ref()))];
        frozen(old.immutable, s.immutable, &same, &mut errors);
        errors
    }
}
