//! The store as the server sees it: the crate of that name, and encryption of values as a layer over any engine.

pub mod encryption;

pub use ::store::*;
