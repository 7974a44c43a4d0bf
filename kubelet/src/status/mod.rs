//! Pod status: generated as a pure function of what is known, and written to the API server when it changed.

pub mod conditions;
pub mod generate;
pub mod manager;
pub mod phase;
mod resources;
pub mod terminations;

pub use manager::StatusWriter;
