//! Small pure helpers that several controllers use.

pub mod claim;
pub mod hash;
pub mod meta;
pub mod pods;
pub mod selector;
pub mod values;
