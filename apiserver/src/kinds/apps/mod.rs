//! Kinds of the `apps` group: workloads made of pods from a template.

pub mod controller_revision;
pub mod daemonset;
pub mod deployment;
pub mod replicaset;
pub mod replication_controller;
pub mod statefulset;
pub mod validation;
