//! The Kubernetes v1.36 API as one table, and everything that table drives: the JSON codec with strict field
//! checks, the protobuf codec of the storage and wire form, and the facts that patching, routing and
//! discovery need.
//!
//! In flight an object is a `serde_json::Value`; at rest it is protobuf bytes. A custom resource definition
//! compiles to the same [`schema::TypeDef`] at run time, so all kinds go through one path.

pub mod envelope;
pub mod json;
pub mod quantity;
pub mod resources;
pub mod schema;
mod tables;
pub mod time;
pub mod wire;

pub use resources::{Column, Resource, Subresource, resource, resources, table_columns};
