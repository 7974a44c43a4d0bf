//! The node object: registration, status, lease, and the watches of what the whole node needs.

pub mod lease;
pub mod machine;
pub mod register;
pub mod services;
pub mod status;
pub mod watch;
