//! Resource quantities: what [`component_base::quantity`] has, under the name that the kinds' rules know.

pub use component_base::quantity::*;
