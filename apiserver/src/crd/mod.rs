//! Custom resources.
pub mod schema;
