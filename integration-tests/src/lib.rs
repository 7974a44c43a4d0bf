//! Real clusters for tests: [`TestCluster`] boots the built daemons with real containerd, each cluster in network
//! namespaces of its own and on free ports, and removes everything when dropped.
//!
//! Tests need root, the release binaries (`make build`) and the tools of `scripts/install-test-tools`; what is
//! missing fails the test with the way to mend it.

pub mod bare;
pub mod binaries;
pub mod cluster;
pub mod command;
pub mod group;
pub mod machine;
pub mod usage;
pub mod wait;

pub use cluster::{Config, TestCluster};
pub use command::Output;
pub use group::Group;
pub use machine::Machine;
pub use wait::eventually;
