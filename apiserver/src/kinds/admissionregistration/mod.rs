//! Webhooks and admission policies.

pub mod expressions;
pub mod params;
pub mod policy;
pub mod validation;
pub mod webhook;
