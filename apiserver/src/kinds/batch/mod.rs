//! Kinds of the `batch` group: work that ends.

pub mod cronjob;
pub mod job;
pub mod validation;
