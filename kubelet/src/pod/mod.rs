//! Pods: where they come from, what they should be, and the worker that brings each about.
//!
//! [`manager`] gives every pod a [`worker`]; the worker asks [`machine`] what to do, carries it out with
//! [`ops`], and publishes the status. Everything named `spec`, `env`, `security`, … is pure.

pub mod actuate;
pub mod admission;
pub mod allocation;
pub mod api_source;
pub mod backoff;
pub mod container;
pub mod dns;
pub mod env;
mod env_file;
pub mod expand;
pub mod fields;
pub mod file_source;
pub mod gate;
pub mod hooks;
pub mod machine;
pub mod manager;
pub mod mirror;
pub mod ops;
pub mod orphans;
pub mod resize;
pub mod resources;
pub mod sandbox;
pub mod security;
pub mod service_env;
pub mod shared;
pub mod spec;
pub mod worker;

pub use manager::PodManager;
