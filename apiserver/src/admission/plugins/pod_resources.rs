//! What a pod asks for in total, as quotas and limit ranges count it.

pub use component_base::quota::pods::*;
