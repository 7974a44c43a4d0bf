//! Container images without a registry: making OCI archives from files on this machine ([`archive`]), and
//! importing archives into containerd ([`import`]).

pub mod archive;
pub mod import;
