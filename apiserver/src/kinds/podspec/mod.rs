//! The pod spec, shared by pods and by every workload that holds a template of one.

pub mod defaults;
pub mod diff;
pub mod image;
pub mod resources;
pub mod validate;
pub mod volume_defaults;
pub mod warnings;

pub use validate::security::allow_privileged;
