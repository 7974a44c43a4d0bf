//! Members of a group talk over gRPC with mutual TLS, on a port of their own: `proto/peer.proto`.
//!
//! | file | what |
//! | --- | --- |
//! | `config.rs` | who the members are, and how they prove it |
//! | `client.rs` | to the others: raft's messages, snapshots, writes of followers |
//! | `server.rs` | from the others |
//! | `wire.rs` | between the wire's types and the engine's |

mod client;
mod config;
mod server;
mod wire;

/// The protocol.
#[allow(missing_docs, clippy::all, clippy::unwrap_used)]
pub mod proto {
    tonic::include_proto!("coxswain.store.v1");
}

pub use self::client::{Peers, describe_any};
pub use self::config::{GroupConfig, TlsFiles, check_expected, member_id};
pub use self::server::{Served, serve};
pub use self::wire::told as members_told;
