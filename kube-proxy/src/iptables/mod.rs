//! iptables mode: rules under upstream's chain names, written through `iptables-restore`.
//!
//! - [`names`]: chain names and their hashes.
//! - [`rules`]: the rules of one service, and the rules that are always there. Pure.
//! - [`script`]: what to feed to `iptables-restore` to get from what is installed to what should be. Pure.
//! - [`backend`]: runs the tools.

pub mod backend;
pub mod names;
pub mod rules;
pub mod script;
