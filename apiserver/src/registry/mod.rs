//! Generic storage of API objects: one set of handlers for every kind.

pub mod strategy;
