//! kube-proxy: makes services reachable from this node.
//!
//! Watches ([`run`]) feed [`model::state`]; for every service that changed, a backend ([`iptables`] or
//! [`nftables`]) makes the rules from service and endpoints — a pure function — compares them with what it has
//! installed, and writes the difference in one transaction. Rules stay when the process ends, and a new process
//! takes them over.

pub mod config;
pub mod conntrack;
pub mod daemon;
pub mod health;
pub mod iptables;
pub mod metrics;
pub mod model;
pub mod nftables;
pub mod options;
pub mod run;
pub mod sync;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
