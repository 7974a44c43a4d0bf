//! Webhooks and admission policies.

pub mod policy;
pub mod validation;
pub mod webhook;
