//! Probes: one task per probe of a running container. Results go to the pod's worker, which alone decides.

pub mod exec;
pub mod grpc;
pub mod handler;
pub mod http;
pub mod policy;
pub mod worker;

pub use worker::Probers;
