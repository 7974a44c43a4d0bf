//! Kinds of the core group.

pub mod config;
pub mod namespace;
pub mod node;
pub mod pod;
pub mod service;
pub mod service_account;
