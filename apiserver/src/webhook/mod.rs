//! Calls to servers outside of the cluster's own: admission and conversion webhooks, authentication and
//! authorization webhooks, aggregated API servers.
//!
//! A [`ClientConfig`] says who is called: a URL or a service, and the authorities it is trusted by. [`Clients`] keeps
//! one [`Client`] with its connection pool per configuration. Services are resolved when a connection is made, from
//! the watch cache ([`services`]): a call over a pooled connection looks nothing up.
//!
//! | file | what |
//! | --- | --- |
//! | `config.rs` | who is called, from objects of the API |
//! | `kubeconfig.rs` | with which credentials, from kubeconfig files |
//! | `tls.rs` | trust and identity |
//! | `services.rs` | from a service to an address |
//! | `connect.rs` | connections |
//! | `client.rs` | calls and what can go wrong with them |

pub mod client;
pub mod config;
pub mod connect;
pub mod kubeconfig;
pub mod services;
pub mod tls;

#[cfg(test)]
mod tests;

pub use client::{CallError, Client, Clients};
pub use config::{ClientConfig, Target};
pub use kubeconfig::{Credentials, Identities};
pub use services::{Resolve, ServiceResolver};
