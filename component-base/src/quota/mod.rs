//! What counts against a `ResourceQuota`: the rules that admission (which charges a write) and the quota controller
//! (which counts what is there) share. Objects are JSON values; nothing here reads or writes any.

pub mod pods;
pub mod scope;
mod usage;

pub use usage::Tracked;

/// The kind that an object count names: `count/deployments.apps` is about `deployments` of the group `apps`.
pub fn counted_kind(name: &str) -> Option<(&str, &str)> {
    let kind = name.strip_prefix("count/")?;
    let (resource, group) = kind.split_once('.').unwrap_or((kind, ""));
    (!resource.is_empty()).then_some((group, resource))
}
