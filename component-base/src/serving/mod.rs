//! Serving HTTPS: the listener that daemons share, who the client is, whether it may, and the standard
//! endpoints (`/healthz`, `/livez`, `/readyz`, `/metrics`, `/configz`).
//!
//! - [`tls`]: server configurations from files or from a self-signed certificate.
//! - [`listener`]: accepts connections and feeds requests to a handler, with HTTP/1.1, HTTP/2 and upgrades.
//! - [`identity`]: user and groups of a client certificate.
//! - [`delegated`]: authentication and authorization by asking the API server.
//! - [`health`]: the standard endpoints of a daemon.
//! - [`profiles`][]: `/debug/pprof/`.

pub mod delegated;
pub mod health;
pub mod identity;
pub mod listener;
pub mod profiles;
pub mod tls;
