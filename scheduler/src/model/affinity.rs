//! Terms of pod affinity and anti-affinity.

use super::labels::{Labels, Selector, Str};

/// One term: pods picked by namespace and selector, and the node label that says what "near" means.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct AffinityTerm {
    pub namespaces: Box<[Str]>,
    pub namespace_selector: Selector,
    pub selector: Selector,
    pub topology_key: Str,
}

impl AffinityTerm {
    /// Whether a pod is picked. `ns_labels` are the labels of the pod's namespace.
    #[must_use]
    pub fn matches(&self, ns: &str, labels: &Labels, ns_labels: Option<&Labels>) -> bool {
        let in_ns = self.namespaces.iter().any(|n| n.as_ref() == ns)
            || match (&self.namespace_selector, ns_labels) {
                (Selector::Nothing, _) => false,
                (s, Some(l)) => s.matches(l),
                (s, None) => s.is_empty(),
            };
        in_ns && self.selector.matches(labels)
    }
}

/// All inter-pod terms of one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodTerms {
    pub required: Box<[AffinityTerm]>,
    pub required_anti: Box<[AffinityTerm]>,
    pub preferred: Box<[(i32, AffinityTerm)]>,
    pub preferred_anti: Box<[(i32, AffinityTerm)]>,
}

impl PodTerms {
    /// True when there is no term at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.required.is_empty()
            && self.required_anti.is_empty()
            && self.preferred.is_empty()
            && self.preferred_anti.is_empty()
    }
}
