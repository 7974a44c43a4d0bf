//! kube-scheduler: watches for pods without a node and gives them one.
//!
//! The path of a pod: a watch ([`run::watches`]) converts it ([`model::convert`]) and hands it to the core
//! ([`run::core`]), which puts it into the queue ([`queue`]). Its turn come, [`decide`] checks and scores the nodes
//! of the [`cache`] with the plugins of the pod's profile ([`framework`], [`plugins`]). With a node found, the pod
//! is assumed in the cache and bound in the background ([`run::api`]); without one, [`preempt`] looks for pods to
//! evict, and the pod waits until something changes that may help it. Everything but [`run`] is free of I/O.

pub mod cache;
pub mod config;
pub mod daemon;
pub mod decide;
pub mod dra;
pub mod explain;
pub mod framework;
pub mod metrics;
pub mod model;
pub mod options;
pub mod plugins;
pub mod preempt;
pub mod queue;
pub mod run;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
