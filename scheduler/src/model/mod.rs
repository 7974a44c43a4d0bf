//! What the scheduler remembers of API objects: compact, already parsed, cheap to compare.
//!
//! The wire objects are converted at the edge ([`convert`]) and dropped. Nothing in here does I/O.

pub mod affinity;
pub mod convert;
pub mod labels;
pub mod node;
pub mod pod;
pub mod quantity;
pub mod requests;
pub mod resources;
pub mod volume;

pub use affinity::{AffinityTerm, PodTerms};
pub use labels::{Labels, Op, Requirement, Selector, Str};
pub use node::{Effect, NodeFacts, NodeSelector, NodeTerm, Taint, Toleration};
pub use pod::{HostPort, Owner, PodInfo, SpreadConstraint, VolumeUse, Want};
pub use resources::Resources;
