//! The protobuf form of built-in kinds: what is stored, the bytes that clients get, and what selectors look at.

use std::borrow::Cow;

use bytes::Bytes;
use proto::json::Strictness;
use proto::schema::TypeRef;
use serde_json::Value;

use super::form::Form;
use super::{codec, object};
use crate::cache::{Indexed, Indexer, Pairs};
use crate::store::{KeyValue, Revision};

/// The form of one resource.
pub struct ObjectIndexer {
    pub schema: TypeRef,
    pub group: &'static str,
    pub resource: &'static str,
    pub api_version: String,
    pub kind: &'static str,
    /// Where the selectable fields are; none if the kind has but name and namespace.
    own_fields: Vec<&'static str>,
}

impl ObjectIndexer {
    pub fn new(
        schema: TypeRef,
        group: &'static str,
        resource: &'static str,
        api_version: String,
        kind: &'static str,
    ) -> Self {
        let own_fields = crate::kinds::selectable_paths(group, resource);
        Self { schema, group, resource, api_version, kind, own_fields }
    }
}

impl ObjectIndexer {
    /// Stored bytes as protobuf. Upstream's API servers keep custom resource definitions and API services as JSON, and
    /// everything where `--storage-media-type` says so.
    fn protobuf<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        if stored.first() != Some(&b'{') {
            return Ok(Cow::Borrowed(stored));
        }
        let mut current = Cow::Borrowed(stored);
        if self.kind == "CustomResourceDefinition" {
            let mut value = serde_json::from_slice(stored).map_err(|e| e.to_string())?;
            crate::crd::v1beta1::to_v1(&mut value);
            current = Cow::Owned(value.to_string().into_bytes());
        }
        let decoded =
            proto::json::decode(&current, &self.schema, Strictness::Ignore).map_err(|e| e.to_string())?;
        Ok(Cow::Owned(self.encode(&decoded.value)?.into()))
    }
}

impl Indexer for ObjectIndexer {
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String> {
        let value = self.protobuf(&kv.value)?;
        let env = proto::envelope::unwrap(&value).map_err(|e| e.to_string())?;
        let meta = proto::wire::metadata(env.raw).map_err(|e| e.to_string())?;
        let fields: Pairs = if self.own_fields.is_empty() {
            [("metadata.name", &meta.name), ("metadata.namespace", &meta.namespace)].into_iter().collect()
        } else {
            let v = proto::wire::pick(env.raw, &self.schema, &self.own_fields).map_err(|e| e.to_string())?;
            let all = crate::kinds::selectable_fields(self.group, self.resource, &v);
            // Selectors read what is not there as empty.
            all.into_iter().filter(|(_, value)| !value.is_empty()).collect()
        };
        Ok(Indexed {
            bytes: self.served(&value, kv.mod_revision)?,
            labels: meta.labels.iter().map(|(k, v)| (k, v)).collect(),
            fields,
        })
    }
}

impl Form for ObjectIndexer {
    fn served(&self, stored: &[u8], revision: Revision) -> Result<Bytes, String> {
        let stored = self.protobuf(stored)?;
        let env = proto::envelope::unwrap(&stored).map_err(|e| e.to_string())?;
        let raw =
            proto::wire::with_resource_version(env.raw, &revision.to_string()).map_err(|e| e.to_string())?;
        Ok(proto::envelope::wrap(&self.api_version, self.kind, &raw).into())
    }

    fn unserved(&self, served: &[u8]) -> Option<Bytes> {
        let env = proto::envelope::unwrap(served).ok()?;
        let raw = proto::wire::with_resource_version(env.raw, "").ok()?;
        Some(proto::envelope::wrap(&self.api_version, self.kind, &raw).into())
    }

    fn decode(&self, stored: &[u8]) -> Result<Value, String> {
        let mut v = codec::decode_stored(&self.schema, &self.protobuf(stored)?)?;
        object::set_type(&mut v, &self.api_version, self.kind);
        Ok(v)
    }

    fn pick(&self, stored: &[u8], paths: &[&str]) -> Result<Value, String> {
        let env = proto::envelope::unwrap(stored).map_err(|e| e.to_string())?;
        proto::wire::pick(env.raw, &self.schema, paths).map_err(|e| e.to_string())
    }

    fn replace(&self, stored: &[u8], o: &Value, paths: &[&str]) -> Result<Bytes, String> {
        let env = proto::envelope::unwrap(stored).map_err(|e| e.to_string())?;
        let raw = proto::wire::replace(env.raw, &self.schema, o, paths).map_err(|e| e.to_string())?;
        Ok(proto::envelope::wrap(&self.api_version, self.kind, &raw).into())
    }

    fn alike(&self, a: &[u8], b: &[u8], paths: &[&str]) -> bool {
        let raw = |stored| proto::envelope::unwrap(stored).map(|env| env.raw);
        let (Ok(a), Ok(b)) = (raw(a), raw(b)) else { return false };
        proto::wire::alike(a, b, &self.schema, paths).unwrap_or(false)
    }

    fn encode(&self, o: &Value) -> Result<Bytes, String> {
        codec::encode_stored(&self.schema, &self.api_version, self.kind, o)
    }

    fn value(&self, served: &[u8]) -> Result<Value, String> {
        self.decode(served)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_as_json_is_served_as_protobuf() {
        let schema = proto::schema::by_gvk("apiregistration.k8s.io", "v1", "APIService").unwrap();
        let form = ObjectIndexer::new(
            TypeRef::Static(schema),
            "apiregistration.k8s.io",
            "apiservices",
            "apiregistration.k8s.io/v1".to_owned(),
            "APIService",
        );
        let stored = br#"{"kind":"APIService","apiVersion":"apiregistration.k8s.io/v1","metadata":{"name":"v1.ex.io","labels":{"a":"b"}},"spec":{"group":"ex.io","version":"v1","groupPriorityMinimum":1000,"versionPriority":100},"status":{}}
"#;
        let kv = KeyValue {
            key: "/registry/apiregistration.k8s.io/apiservices/v1.ex.io".to_owned(),
            value: Bytes::from_static(stored),
            create_revision: 7,
            mod_revision: 9,
        };
        let indexed = form.index(&kv).unwrap();
        let value = form.value(&indexed.bytes).unwrap();
        assert_eq!(value["metadata"]["resourceVersion"], "9");
        assert_eq!(value["spec"]["groupPriorityMinimum"], 1000);
        assert_eq!(form.decode(stored).unwrap()["metadata"]["labels"]["a"], "b");
        assert!(form.decode(b"{\"kind\": ").is_err());
    }

    #[test]
    fn what_is_stored_is_told_from_what_is_served() {
        let schema = proto::schema::by_gvk("", "v1", "ConfigMap").unwrap();
        let form =
            ObjectIndexer::new(TypeRef::Static(schema), "", "configmaps", "v1".to_owned(), "ConfigMap");
        for metadata in [
            serde_json::json!({"name": "c", "namespace": "ns", "uid": "u", "labels": {"a": "b"}}),
            serde_json::json!({}),
        ] {
            let o = serde_json::json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata,
                "data": {"k": "v"}});
            let stored = form.encode(&o).unwrap();
            let served = form.served(&stored, 4711).unwrap();
            assert_ne!(served, stored);
            assert_eq!(form.unserved(&served), Some(stored));
        }
    }
}
