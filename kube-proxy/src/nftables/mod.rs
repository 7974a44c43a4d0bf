//! nftables mode: one table `kube-proxy` per family, verdict maps from addresses to chains.
//!
//! - [`rules`]: map elements and chains of one service, and what is always there. Pure.
//! - [`script`]: transactions for `nft -f -`, whole or partial. Pure.
//! - [`backend`]: runs the tool.

pub mod backend;
pub mod rules;
pub mod script;
