//! How the objects of one resource are written down: protobuf in upstream's envelope for built-in kinds, JSON for
//! custom resources.

use bytes::Bytes;
use serde_json::Value;

use crate::cache::Indexer;
use crate::store::Revision;

/// One way to write objects down. The [`Indexer`] part makes of stored bytes what the watch cache keeps.
pub trait Form: Indexer {
    /// Stored bytes with the resourceVersion in them: what clients read.
    fn served(&self, stored: &[u8], revision: Revision) -> Result<Bytes, String>;

    /// The stored bytes behind what [`Self::served`] gave. None: they cannot be told from that.
    fn unserved(&self, _served: &[u8]) -> Option<Bytes> {
        None
    }

    /// The value in stored bytes, with apiVersion and kind, without resourceVersion.
    fn decode(&self, stored: &[u8]) -> Result<Value, String>;

    /// A value that has at least the fields on these dotted paths, as far as the object has them.
    fn pick(&self, stored: &[u8], _paths: &[&str]) -> Result<Value, String> {
        self.decode(stored)
    }

    /// Whether two stored objects are known to have the same in the fields on these dotted paths.
    fn alike(&self, _a: &[u8], _b: &[u8], _paths: &[&str]) -> bool {
        false
    }

    /// The stored object with the fields on these dotted paths as `o` has them, which is what [`Self::pick`] gave for at
    /// least these, changed.
    fn replace(&self, _stored: &[u8], o: &Value, _paths: &[&str]) -> Result<Bytes, String> {
        self.encode(o)
    }

    /// The bytes to store for a value; a resourceVersion is left out.
    fn encode(&self, o: &Value) -> Result<Bytes, String>;

    /// The value in what [`Self::served`] gave.
    fn value(&self, served: &[u8]) -> Result<Value, String>;
}
