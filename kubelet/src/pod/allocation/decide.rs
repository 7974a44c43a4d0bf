//! Whether the node can give a pod what its spec wants now, and who is asked first.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};

use super::model::PodResources;
use crate::pod::{admission, spec};

/// What becomes of a wanted change.
#[derive(Clone, Debug, PartialEq)]
pub enum Verdict {
    /// The pod has what it wants.
    Same,
    Allocate,
    /// Not beside the other pods at present: admission's reason and message.
    Defer(String, String),
}

/// Judges one pod. `others` hold what they hold; what the node can *never* give is refused by the API server already
/// (its `PodResizeValidator`), and kinds of pods that cannot be resized are those of CPU and memory managers with a
/// static policy and of swap, which this kubelet has not.
pub fn decide(
    wanted: &Pod,
    allocated: Option<&PodResources>,
    others: &[&Pod],
    node: Option<&Node>,
    capacity: &admission::Capacity<'_>,
) -> Verdict {
    if allocated.is_none_or(|a| !a.differs(wanted)) {
        return Verdict::Same;
    }
    match admission::admit(wanted, others, node, capacity) {
        Ok(()) => Verdict::Allocate,
        Err((reason, message)) => Verdict::Defer(reason, message),
    }
}

/// Where a pod stands among those that wait: the least is first. What does not grow goes first, for it always fits;
/// then pods of higher priority, then guaranteed ones, then who has waited longest.
pub fn rank(wanted: &Pod, increases: bool, since: Option<Timestamp>) -> impl Ord + use<> {
    let priority = spec::spec(wanted).priority.unwrap_or(0);
    let guaranteed = spec::qos_class(wanted) == "Guaranteed";
    (increases, std::cmp::Reverse(priority), !guaranteed, since.unwrap_or(Timestamp::MAX))
}
