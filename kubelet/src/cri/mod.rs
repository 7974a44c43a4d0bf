//! The container runtime as the kubelet sees it: a gRPC client, the label vocabulary, the observed state of
//! one pod, and the sources of change events. Nothing above this folder talks gRPC.

pub mod client;
pub mod events;
pub mod labels;
pub mod observe;
pub mod view;

pub use client::{Cri, CriError};
pub use view::{Container, ContainerState, PodRuntime, Sandbox};
