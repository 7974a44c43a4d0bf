//! Kinds of the core group.

pub mod config;
pub mod endpoints;
pub mod event;
pub mod limits;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod pod_template;
pub mod service;
pub mod service_account;
pub mod volume;
