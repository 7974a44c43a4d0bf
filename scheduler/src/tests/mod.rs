//! Decisions over whole clusters, plugin by plugin.

mod affinity;
mod basics;
mod memo;
mod preemption;
mod profiles;
mod spreading;
mod volumes;
