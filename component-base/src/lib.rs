//! What every Coxswain daemon shares: start-up and shutdown, logs, configuration files, TLS and kubeconfigs,
//! the health and metrics server, and the controller machinery.
//!
//! A daemon's `main` parses flags, then calls [`process::run`], which sets up logging, the runtime and signals
//! and hands over a [`process::Shutdown`]. Nothing here knows what a daemon does.

pub mod config;
pub mod controller;
pub mod cron;
pub mod der;
pub mod duration;
pub mod file_watch;
pub mod flags;
pub mod http2;
pub mod json;
pub mod keys;
pub mod kubeconfig;
pub mod logs;
pub mod memory;
pub mod metrics;
pub mod pki;
pub mod process;
pub mod quantity;
pub mod quota;
pub mod serving;
pub mod streaming;
pub mod version;
pub mod yaml;
