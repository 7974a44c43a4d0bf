//! Kinds that are alone in their group.

pub mod api_service;
pub mod certificate;
pub mod crd;
pub mod crd_validation;
pub mod lease;
pub mod priority_class;
pub mod runtime_class;
