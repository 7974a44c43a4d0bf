//! What every controller loop is made of: a deduplicating work queue, shared informers with indexes, expectations,
//! leader election by Lease and an event recorder.
//!
//! The pieces sit between the API client and a daemon's reconcile functions: informers turn watches into store
//! updates and keys, the queue hands each key to one worker at a time, the worker reads stores and writes through the
//! client. Nothing here knows any particular kind.

pub mod correlate;
pub mod events;
pub mod expectations;
pub mod informer;
pub mod leader;
pub mod queue;
mod raw;
pub mod watching;
