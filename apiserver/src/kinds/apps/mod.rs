//! Kinds of the `apps` group: workloads made of pods from a template.

pub mod deployment;
pub mod replicaset;
