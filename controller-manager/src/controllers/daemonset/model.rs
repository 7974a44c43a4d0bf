//! What a daemon set says: limits of its updates, and the pod it wants on a node.

use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetSpec};
use k8s_openapi::api::core::v1::{
    NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec, PodTemplateSpec,
    Toleration,
};

use crate::util::revisions::POD_HASH;
use crate::util::{meta, pod_control, pods, values};

/// Annotation and label that told templates apart before there were hashes.
const GENERATION: &str = "deprecated.daemonset.template.generation";
const GENERATION_LABEL: &str = "pod-template-generation";
const NAME_FIELD: &str = "metadata.name";

/// Taints that never keep a daemon pod away.
const TOLERATED: &[(&str, &str)] = &[
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
/// One more, for pods that need no pod network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// The spec; every stored set has one.
pub fn spec(ds: &DaemonSet) -> DaemonSetSpec {
    ds.spec.clone().unwrap_or_default()
}

pub fn min_ready(ds: &DaemonSet) -> i32 {
    ds.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

pub fn is_rolling(ds: &DaemonSet) -> bool {
    let strategy = ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
    strategy.and_then(|s| s.type_.as_deref()) == Some("RollingUpdate")
}

/// How many pods may be there twice (first), and how many missing (second), when `nodes` nodes are to have one. Both
/// zero would never move, so that becomes (0, 1).
pub fn limits(ds: &DaemonSet, nodes: i32) -> (i32, i32) {
    let rolling = ds.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
    let scaled = |v| values::scaled(v, nodes, true).unwrap_or(0);
    let surge = rolling.and_then(|r| r.max_surge.as_ref()).map_or(0, scaled);
    let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).map_or(0, scaled);
    if surge == 0 && unavailable == 0 && nodes > 0 { (0, 1) } else { (surge, unavailable) }
}

/// Whether a node may have an old and a new pod at once.
pub fn surges(ds: &DaemonSet) -> bool {
    is_rolling(ds) && limits(ds, 1).0 > 0
}

fn generation(ds: &DaemonSet) -> Option<i64> {
    meta::annotation(&ds.metadata, GENERATION)?.parse().ok()
}

/// Whether a pod was made of the present template.
pub fn is_new(ds: &DaemonSet, pod: &Pod, hash: &str) -> bool {
    let label = |key: &str| pod.metadata.labels.as_ref().and_then(|l| l.get(key));
    label(POD_HASH).is_some_and(|h| h == hash)
        || generation(ds).is_some_and(|g| label(GENERATION_LABEL) == Some(&g.to_string()))
}

/// Adds the tolerations that every daemon pod has.
pub fn tolerate(spec: &mut PodSpec) {
    let network = spec.host_network == Some(true);
    let all = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.iter().copied().chain(network.then_some(NETWORK)) {
        let new = Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some(effect.into()),
            ..Toleration::default()
        };
        let same = |t: &Toleration| {
            t.key == new.key
                && t.effect == new.effect
                && t.operator.as_deref().unwrap_or("Equal") == "Exists"
                && t.value.as_deref().unwrap_or_default().is_empty()
        };
        match all.iter_mut().find(|t| same(t)) {
            Some(there) => *there = new,
            None => all.push(new),
        }
    }
}

/// The template of the set's pods, but for the node.
pub fn pod_template(ds: &DaemonSet, hash: &str) -> PodTemplateSpec {
    let mut template = spec(ds).template;
    tolerate(template.spec.get_or_insert_default());
    let labels = template.metadata.get_or_insert_default().labels.get_or_insert_default();
    if let Some(generation) = generation(ds) {
        labels.insert(GENERATION_LABEL.into(), generation.to_string());
    }
    labels.insert(POD_HASH.into(), hash.into());
    template
}

/// The pod for a node: it may be scheduled there and nowhere else.
pub fn pod(ds: &DaemonSet, template: &PodTemplateSpec, node: &str) -> Pod {
    let mut pod = pod_control::from_template(template, meta::name(&ds.metadata), meta::controller_ref(ds));
    let affinity = pod.spec.get_or_insert_default().affinity.get_or_insert_default();
    let name = NodeSelectorRequirement {
        key: NAME_FIELD.into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![name]), match_expressions: None };
    affinity
        .node_affinity
        .get_or_insert_with(NodeAffinity::default)
        .required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
    pod
}

/// The node a pod is for, scheduled or not.
pub fn node_of(pod: &Pod) -> Option<&str> {
    let scheduled = pods::node(pod);
    if !scheduled.is_empty() {
        return Some(scheduled);
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let required = affinity.required_during_scheduling_ignored_during_execution.as_ref()?;
    let mut fields = required.node_selector_terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    let name = fields.find(|f| f.key == NAME_FIELD && f.operator == "In")?;
    match name.values.as_deref()? {
        [one] => Some(one),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::{DaemonSetUpdateStrategy, RollingUpdateDaemonSet};
    use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

    #[test]
    fn pods_are_for_one_node_and_tolerate_its_troubles() {
        let mut ds = DaemonSet { spec: Some(DaemonSetSpec::default()), ..DaemonSet::default() };
        ds.metadata.annotations = Some([(GENERATION.to_owned(), "7".to_owned())].into());
        let template = pod_template(&ds, "hash");
        let p = pod(&ds, &template, "n1");
        assert_eq!(node_of(&p), Some("n1"));
        assert!(is_new(&ds, &p, "hash"));
        assert!(is_new(&ds, &p, "another"), "by its generation");
        let spec = p.spec.unwrap_or_default();
        assert_eq!(spec.tolerations.as_ref().map(Vec::len), Some(6));
        let mut again = spec;
        again.host_network = Some(true);
        tolerate(&mut again);
        assert_eq!(again.tolerations.as_ref().map(Vec::len), Some(7));
        assert_eq!(node_of(&Pod::default()), None);
    }

    #[test]
    fn limits_are_scaled_and_never_stuck() {
        let with = |surge: Option<&str>, unavailable: Option<&str>| {
            let value = |v: &str| IntOrString::String(v.into());
            let mut ds = DaemonSet { spec: Some(DaemonSetSpec::default()), ..DaemonSet::default() };
            ds.spec.get_or_insert_default().update_strategy = Some(DaemonSetUpdateStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDaemonSet {
                    max_surge: surge.map(value),
                    max_unavailable: unavailable.map(value),
                }),
            });
            ds
        };
        assert_eq!(limits(&with(Some("10%"), None), 11), (2, 0));
        assert_eq!(limits(&with(None, Some("10%")), 11), (0, 2));
        assert_eq!(limits(&with(Some("0%"), Some("0%")), 5), (0, 1));
        assert!(surges(&with(Some("1%"), None)) && !surges(&with(None, Some("50%"))));
    }
}
