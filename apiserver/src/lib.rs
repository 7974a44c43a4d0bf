//! `kube-apiserver`: the Kubernetes API over the embedded store.
pub mod admission;
pub mod allocate;
pub mod authn;
pub mod authz;
pub mod bootstrap;
pub mod field;
pub mod kinds;
pub mod lookup;
pub mod registry;
pub mod request;
pub mod status;
pub mod store;
