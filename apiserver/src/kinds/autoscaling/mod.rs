//! Horizontal pod autoscalers, in both of their versions.

pub mod defaults;
pub mod strategy;
pub mod validation;
