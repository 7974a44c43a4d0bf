//! Small pure helpers that several controllers use.

pub mod cidr;
pub mod claim;
pub mod discovery;
pub mod errors;
pub mod eviction;
pub mod hash;
pub mod latest;
pub mod meta;
pub mod node_selector;
pub mod pending;
pub mod pod_control;
pub mod pods;
pub mod revisions;
pub mod selector;
pub mod services;
pub mod taints;
pub mod values;
pub mod volumes;
#[cfg(test)]
pub mod world;
pub mod written;
