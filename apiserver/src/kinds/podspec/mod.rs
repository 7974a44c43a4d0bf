//! The pod spec, shared by pods and by every workload that holds a template of one.

pub mod defaults;
pub mod image;
pub mod resources;
pub mod volume_defaults;
