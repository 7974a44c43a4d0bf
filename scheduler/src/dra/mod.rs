//! Dynamic resource allocation (KEP-4381): which devices a pod's ResourceClaims get on a node.
//!
//! [`model`] holds what is kept of slices and classes, [`pools`] finds the devices a node can use, [`state`] what is
//! allocated already. [`request`] reads a claim, [`search`] finds devices for all claims of a pod at once, and
//! [`result`] words what was found as the API wants it. [`claims`] says which claims a pod has, [`binding`] whether an
//! allocation is ready for the pod, [`extended`] what claim a pod gets for its extended resources. None of it does I/O: [`crate::run::claims`] writes what was decided.

pub mod binding;
pub mod claims;
pub mod constraint;
pub mod extended;
pub mod model;
pub mod pools;
pub mod request;
pub mod result;
pub mod search;
pub mod shared;
pub mod state;
#[cfg(test)]
mod tests;

pub use claims::{ClaimRef, Claims};
pub use model::{Class, Slice};
pub use state::Dra;
