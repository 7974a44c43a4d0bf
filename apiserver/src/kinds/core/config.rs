//! ConfigMaps and Secrets: named data for pods.

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1 as api;

use crate::kinds::semantic::fill;
use crate::registry::strategy::Strategy;

/// Rules of ConfigMaps.
pub struct ConfigMap;

impl Strategy for ConfigMap {
    type Object = api::ConfigMap;
}

/// Rules of Secrets.
pub struct Secret;

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
}
