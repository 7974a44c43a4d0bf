//! API Priority and Fairness (KEP-1040): every request is classified by the first FlowSchema that matches it, and
//! runs when its priority level has seats for it.
//!
//! | file | what |
//! | --- | --- |
//! | `classify.rs` | FlowSchemas as matchers |
//! | `level.rs` | what a PriorityLevelConfiguration says |
//! | `queueset.rs`, `shuffle.rs` | one level: queues, seats, fair dispatch; no I/O, time passed in |
//! | `borrow.rs` | how levels lend seats to each other |
//! | `timing.rs` | time-weighted statistics of a level |
//! | `estimate.rs`, `watchers.rs` | how many seats a request takes |
//! | `dropped.rs` | how long the refused are told to wait |
//! | `config.rs` | all levels and schemas together, rebuilt when an object changes |
//! | `control.rs` | the entry of requests: classification, waiting, permits |
//! | `feed.rs` | objects from the store; conditions back to it; the adjustment period |
//! | `dump.rs`, `metrics.rs` | debug tables and metrics |
//!
//! The way of a request that finds free seats: matching, two short critical sections on its level, one small
//! allocation for the debug tables. Nothing waits, nothing is spawned.

pub mod borrow;
pub mod classify;
pub mod config;
pub mod control;
pub mod dropped;
pub mod dump;
pub mod estimate;
pub mod feed;
pub mod level;
pub mod metrics;
pub mod queueset;
pub mod shuffle;
pub mod timing;
pub mod watchers;

#[cfg(test)]
mod tests;

pub use control::{Controller, Entry, Permit, Refused};

/// Nanoseconds since the server started.
pub type Time = u64;
