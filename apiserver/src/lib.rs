//! `kube-apiserver`: the Kubernetes API over the embedded store.
pub mod admission;
pub mod field;
pub mod registry;
pub mod request;
pub mod status;
pub mod store;
