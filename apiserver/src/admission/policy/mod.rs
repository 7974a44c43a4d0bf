//! Admission policies: rules in CEL that the server itself evaluates, `ValidatingAdmissionPolicy` and
//! `MutatingAdmissionPolicy` with their bindings.
//!
//! Policies and bindings are followed ([`crate::follow`]) and compiled when they change, never per request. A request
//! takes the list as it is; without policies that costs one atomic load.
//!
//! | file | what |
//! | --- | --- |
//! | `compiled.rs` | policies and bindings, made ready from their objects |
//! | `cache.rs` | which of them are in force |
//! | `matching.rs` | whether a request is theirs, and in which version |
//! | `params.rs` | the objects that parametrize a binding |
//! | `context.rs` | what expressions see of one request |
//! | `validating.rs`, `decision.rs` | `ValidatingAdmissionPolicy` |
//! | `mutating.rs`, `patch.rs` | `MutatingAdmissionPolicy` |

mod cache;
mod compiled;
mod context;
mod decision;
mod matching;
pub mod metrics;
mod mutating;
mod params;
mod patch;
mod validating;

#[cfg(test)]
mod tests;

pub use cache::Policies;
pub use compiled::{apply_type, json_patch_type};
pub(crate) use mutating::build as build_mutating;
pub(crate) use validating::build as build_validating;

/// Sentences of errors that keep a policy from doing its work, as upstream words them.
fn configure(what: &str, why: &str) -> String {
    format!("failed to configure {what}: {why}")
}
