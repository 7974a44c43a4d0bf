//! Webhooks and admission policies.

pub mod policy;
pub mod webhook;
