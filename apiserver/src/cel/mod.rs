//! The expression language (see [`expressions`]), with the API server's answers to what the `authorizer` library asks.

pub mod authority;

pub use expressions::*;
