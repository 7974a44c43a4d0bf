//! The resources of a pod: of each container and of the pod as a whole.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Pod, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity,
};
use serde::{Deserialize, Deserializer, Serialize};

use crate::pod::{
    resources::{self, number},
    spec::{self, containers, containers_mut},
};

/// What can be resized.
pub const RESIZABLE: [&str; 2] = ["cpu", "memory"];

/// Resources of one pod, in the form of upstream's checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PodResources {
    /// By container, init containers with the rest.
    #[serde(rename = "ContainerResources", default, deserialize_with = "null_is_empty")]
    pub containers: BTreeMap<String, ResourceRequirements>,
    /// Pod-level resources (KEP-2837).
    #[serde(rename = "PodLevelResources", default)]
    pub pod: Option<ResourceRequirements>,
}

fn null_is_empty<'de, D: Deserializer<'de>>(
    d: D,
) -> Result<BTreeMap<String, ResourceRequirements>, D::Error> {
    Ok(Option::deserialize(d)?.unwrap_or_default())
}

type List = Option<BTreeMap<String, Quantity>>;

fn same_list(a: &List, b: &List) -> bool {
    let (a, b) = (a.iter().flatten(), b.iter().flatten());
    a.clone().count() == b.clone().count()
        && a.zip(b).all(|((n, x), (m, y))| n == m && (x == y || number(n, x) == number(m, y)))
}

/// Equal in meaning: `1` is `1000m`, an empty list is none.
pub fn same(a: &ResourceRequirements, b: &ResourceRequirements) -> bool {
    same_list(&a.requests, &b.requests)
        && same_list(&a.limits, &b.limits)
        && a.claims.iter().flatten().eq(b.claims.iter().flatten())
}

fn same_or_none(a: Option<&ResourceRequirements>, b: Option<&ResourceRequirements>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => same(a, b),
        (None, None) => true,
        (Some(r), None) | (None, Some(r)) => same(r, &ResourceRequirements::default()),
    }
}

impl PodResources {
    /// What the pod's spec says.
    pub fn of(pod: &Pod) -> Self {
        let s = spec::spec(pod);
        Self {
            containers: containers(s)
                .map(|c| (c.name.clone(), c.resources.clone().unwrap_or_default()))
                .collect(),
            pod: s.resources.clone(),
        }
    }

    /// Whether the pod's spec says otherwise. Containers that are not known here do not count.
    pub fn differs(&self, pod: &Pod) -> bool {
        let s = spec::spec(pod);
        !same_or_none(self.pod.as_ref(), s.resources.as_ref())
            || containers(s).any(|c| {
                self.containers.get(&c.name).is_some_and(|r| !same_or_none(Some(r), c.resources.as_ref()))
            })
    }

    /// The pod with these resources in its spec.
    pub fn fill(&self, pod: &Arc<Pod>) -> Arc<Pod> {
        if !self.differs(pod) {
            return pod.clone();
        }
        let mut pod = Pod::clone(pod);
        if let Some(s) = &mut pod.spec {
            s.resources = self.pod.clone();
            for c in containers_mut(s) {
                if let Some(r) = self.containers.get(&c.name) {
                    c.resources = Some(r.clone());
                }
            }
        }
        Arc::new(pod)
    }

    /// The pod with all that it may hold: of each CPU and memory number the larger of its spec's and this one's.
    /// `running` says of which containers this is still true.
    pub fn held(&self, pod: &Arc<Pod>, running: impl Fn(&str) -> bool) -> Arc<Pod> {
        let mut larger = Self::of(pod);
        for (name, r) in &mut larger.containers {
            if let Some(other) = self.containers.get(name).filter(|_| running(name)) {
                raise(r, other);
            }
        }
        if let (Some(r), Some(other)) = (&mut larger.pod, &self.pod) {
            raise(r, other);
        }
        larger.fill(pod)
    }
}

/// Gives `to` what `from` has of one resource, nothing included.
pub fn copy(name: &str, from: &ResourceRequirements, to: &mut ResourceRequirements) {
    for (from, to) in [(&from.requests, &mut to.requests), (&from.limits, &mut to.limits)] {
        match from.as_ref().and_then(|l| l.get(name)) {
            Some(q) => drop(to.get_or_insert_default().insert(name.to_owned(), q.clone())),
            None => drop(to.as_mut().and_then(|l| l.remove(name))),
        }
    }
}

fn raise(r: &mut ResourceRequirements, other: &ResourceRequirements) {
    for name in RESIZABLE {
        for (mine, theirs) in [(&mut r.requests, &other.requests), (&mut r.limits, &other.limits)] {
            let Some(q) = theirs.as_ref().and_then(|l| l.get(name)) else { continue };
            let now = mine.as_ref().and_then(|l| l.get(name)).map(|q| number(name, q));
            if now.is_none_or(|n| n < number(name, q)) {
                mine.get_or_insert_default().insert(name.to_owned(), q.clone());
            }
        }
    }
}

/// Whether `wanted` requests more CPU or memory than `allocated`.
pub fn increases(allocated: &Pod, wanted: &Pod) -> bool {
    let (old, new) = (spec::spec(allocated), spec::spec(wanted));
    RESIZABLE.iter().any(|n| resources::pod_request(new, n) > resources::pod_request(old, n))
}

/// One number of a container that a change of the spec changes: resource, `requests` or `limits`, and what becomes
/// of it; labels of a metric.
pub type Operation = (&'static str, &'static str, &'static str);

/// What a changed spec asks of the pod's containers.
pub fn operations(old: &Pod, new: &Pod) -> Vec<Operation> {
    let before = PodResources::of(old);
    let mut out = Vec::new();
    for c in containers(spec::spec(new)) {
        let Some(b) = before.containers.get(&c.name) else { continue };
        let r = c.resources.as_ref();
        for name in ["memory", "cpu"] {
            let get = |q: Option<&Quantity>| q.map_or(0, |q| number(name, q));
            let numbers = [
                ("requests", get(resources::request(Some(b), name)), get(resources::request(r, name))),
                ("limits", get(resources::limit(Some(b), name)), get(resources::limit(r, name))),
            ];
            for (requirement, old, new) in numbers {
                let operation = match (old, new) {
                    (a, b) if a == b => continue,
                    (_, 0) => "remove",
                    (0, _) => "add",
                    (a, b) if b < a => "decrease",
                    _ => "increase",
                };
                out.push((name, requirement, operation));
            }
        }
    }
    out
}

/// Whether the spec wants other resources than before, of containers or of the pod as a whole.
pub fn resized(old: &Pod, new: &Pod) -> bool {
    PodResources::of(old).differs(new)
}
