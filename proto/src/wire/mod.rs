//! Protobuf in and out, driven by the schema table: the form that objects have at rest and on the wire
//! between components. See [`crate::envelope`] for what goes around an object's bytes.
//!
//! Input is never trusted: lengths, nesting and wire types are checked, and garbage is an error.

mod cursor;
mod meta;
mod read;
mod replace;
mod transcode;
mod write;

pub(crate) use cursor::{Cursor, Wire};
pub use meta::{Metadata, OwnerRef, metadata, with_resource_version};
pub use read::{alike, from_proto, pick};
pub use replace::replace;
pub use transcode::proto_to_json;
pub use write::to_proto;
pub(crate) use write::{put_bytes, put_int, put_message};

/// Messages nested deeper are refused.
pub(crate) const MAX_DEPTH: usize = 100;

/// Why bytes are no object, or a value has no bytes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The message ends inside a field.
    #[error("unexpected EOF")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("proto: integer overflow")]
    Overflow,
    /// A field number or wire type that protobuf does not have.
    #[error("proto: illegal tag or wire type {0}")]
    IllegalTag(u64),
    /// A known field has another wire type.
    #[error("proto: wrong wireType for field {0}")]
    WireType(&'static str),
    /// Too deeply nested.
    #[error("proto: message is nested too deeply")]
    Depth,
    /// Bytes that should hold JSON do not.
    #[error("field {0} does not hold valid JSON: {1}")]
    Json(&'static str, String),
    /// A value in flight does not fit its type.
    #[error("field {field} does not hold a {wanted}")]
    Type {
        /// JSON name of the field.
        field: String,
        /// Name of the type it should have.
        wanted: String,
    },
    /// The type has no protobuf form.
    #[error(
        "object {0} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NoForm(&'static str),
    /// There is no such field.
    #[error("there is no field {0} with bytes of its own")]
    NoField(String),
    /// A message that may be there once is there again.
    #[error("proto: field {0} comes twice")]
    Twice(&'static str),
    /// Not the envelope that starts with `k8s\0`.
    #[error("provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]")]
    NoEnvelope,
    /// The envelope names a kind that is not in the table.
    #[error("no kind {kind:?} is registered for version {api_version:?}")]
    UnknownKind {
        /// As the envelope has it.
        api_version: String,
        /// As the envelope has it.
        kind: String,
    },
}
