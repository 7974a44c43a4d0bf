//! Kinds of the core group.

pub mod claim_validation;
pub mod config;
pub mod endpoints;
pub mod event;
mod key_pair;
pub mod limits;
pub mod namespace;
pub mod node;
pub mod node_validation;
pub mod pod;
pub mod pod_template;
pub mod quota;
pub mod service;
pub mod service_account;
pub mod service_validation;
pub mod volume;
pub mod volume_validation;
