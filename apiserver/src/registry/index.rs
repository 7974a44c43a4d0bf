//! The protobuf form of built-in kinds: what is stored, the bytes that clients get, and what selectors look at.

use bytes::Bytes;
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
    /// The kind has selectable fields beside name and namespace.
    own_fields: bool,
}

impl ObjectIndexer {
    pub fn new(
        schema: TypeRef,
        group: &'static str,
        resource: &'static str,
        api_version: String,
        kind: &'static str,
    ) -> Self {
        let own_fields = crate::kinds::has_own_fields(group, resource);
        Self { schema, group, resource, api_version, kind, own_fields }
    }
}

impl Indexer for ObjectIndexer {
    fn index(&self, kv: &KeyValue) -> Result<Indexed, String> {
        let env = proto::envelope::unwrap(&kv.value).map_err(|e| e.to_string())?;
        let meta = proto::wire::metadata(env.raw).map_err(|e| e.to_string())?;
        let fields: Pairs = if self.own_fields {
            let v = proto::wire::from_proto(env.raw, &self.schema).map_err(|e| e.to_string())?;
            crate::kinds::selectable_fields(self.group, self.resource, &v).into_iter().collect()
        } else {
            [("metadata.name", &meta.name), ("metadata.namespace", &meta.namespace)].into_iter().collect()
        };
        Ok(Indexed {
            bytes: self.served(&kv.value, kv.mod_revision)?,
            labels: meta.labels.iter().map(|(k, v)| (k, v)).collect(),
            fields,
        })
    }
}

impl Form for ObjectIndexer {
    fn served(&self, stored: &[u8], revision: Revision) -> Result<Bytes, String> {
        let env = proto::envelope::unwrap(stored).map_err(|e| e.to_string())?;
        let raw =
            proto::wire::with_resource_version(env.raw, &revision.to_string()).map_err(|e| e.to_string())?;
        Ok(proto::envelope::wrap(&self.api_version, self.kind, &raw).into())
    }

    fn decode(&self, stored: &[u8]) -> Result<Value, String> {
        let mut v = codec::decode_stored(&self.schema, stored)?;
        object::set_type(&mut v, &self.api_version, self.kind);
        Ok(v)
    }

    fn encode(&self, o: &Value) -> Result<Bytes, String> {
        codec::encode_stored(&self.schema, &self.api_version, self.kind, o)
    }

    fn value(&self, served: &[u8]) -> Result<Value, String> {
        self.decode(served)
    }
}
