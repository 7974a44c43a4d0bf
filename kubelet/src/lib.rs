//! The kubelet: runs the pods that are bound to its node, through a CRI runtime, and reports on them.
//!
//! Flow: a [`pod`] source (API watch or manifest folder) hands a pod to the manager, which gives it a worker.
//! The worker observes the runtime ([`cri`]), asks the pure state machine what to do, sets up [`volume`]s and [`dra`] devices,
//! [`cgroup`]s and [`image`]s, runs [`probe`]s, and publishes the [`status`]. [`node`] keeps the Node object and its
//! lease; [`server`] answers logs, exec, statistics. Nothing here keeps state that the runtime or the API
//! server does not have: a restart re-adopts what runs.

pub mod cgroup;
pub mod context;
pub mod cri;
pub mod daemon;
pub mod dra;
pub mod events;
pub mod eviction;
pub mod gc;
pub mod image;
pub mod metrics;
pub mod network;
pub mod node;
pub mod objects;
pub mod options;
pub mod plugins;
pub mod pod;
pub mod probe;
pub mod run;
pub mod server;
pub mod status;
pub mod util;
pub mod volume;
