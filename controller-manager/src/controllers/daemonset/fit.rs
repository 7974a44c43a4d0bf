//! Pure part: which nodes are to have a pod.

use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, PodSpec, Taint};

use super::model;
use crate::util::selector::Selector;
use crate::util::{meta, node_selector, taints};

/// What a node means to a daemon set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// A pod is to run there.
    pub run: bool,
    /// A pod that runs there may stay.
    pub stay: bool,
}

const NO: Fit = Fit { run: false, stay: false };

/// A daemon set's conditions, read once for many nodes.
pub struct Conditions {
    spec: PodSpec,
    selector: Selector,
}

impl Conditions {
    pub fn of(ds: &DaemonSet) -> Self {
        let mut spec = ds.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
        model::tolerate(&mut spec);
        let selector = Selector::from_map(spec.node_selector.as_ref());
        Self { spec, selector }
    }

    /// Judges a node: its name, labels and taints. Resources and ports do not count: a pod that can't be placed waits.
    pub fn judge(&self, node: &Node) -> Fit {
        let named = self.spec.node_name.as_deref().filter(|n| !n.is_empty());
        if named.is_some_and(|n| n != meta::name(&node.metadata))
            || !self.selector.matches(node.metadata.labels.as_ref())
        {
            return NO;
        }
        let affinity = self.spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
        let required = affinity.and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref());
        if required.is_some_and(|r| !node_selector::matches(r, node)) {
            return NO;
        }
        let tolerations = self.spec.tolerations.as_deref().unwrap_or_default();
        let kept_away = |effects: &[&str]| {
            let matter = |t: &&Taint| effects.contains(&t.effect.as_str());
            let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
            taints.filter(matter).any(|taint| !tolerations.iter().any(|t| taints::tolerates(t, taint)))
        };
        Fit { run: !kept_away(&["NoSchedule", taints::NO_EXECUTE]), stay: !kept_away(&[taints::NO_EXECUTE]) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::apps::v1::DaemonSetSpec;
    use k8s_openapi::api::core::v1::NodeSpec;

    fn fit(change: impl FnOnce(&mut PodSpec), taints: &[(&str, &str)]) -> Fit {
        let mut node = Node::default();
        node.metadata.name = Some("n".into());
        node.metadata.labels = Some([("disk".to_owned(), "ssd".to_owned())].into());
        let taint = |(key, effect): &(&str, &str)| Taint {
            key: (*key).into(),
            effect: (*effect).into(),
            ..Taint::default()
        };
        let taints = Some(taints.iter().map(taint).collect());
        node.spec = Some(NodeSpec { taints, ..NodeSpec::default() });
        let mut ds = DaemonSet { spec: Some(DaemonSetSpec::default()), ..DaemonSet::default() };
        change(ds.spec.get_or_insert_default().template.spec.get_or_insert_default());
        Conditions::of(&ds).judge(&node)
    }

    #[test]
    fn names_labels_and_taints() {
        let yes = Fit { run: true, stay: true };
        assert_eq!(fit(|_| {}, &[]), yes);
        assert_eq!(fit(|s| s.node_name = Some("other".into()), &[]), NO);
        let on = |v: &str| Some([("disk".to_owned(), v.to_owned())].into());
        assert_eq!(fit(|s| s.node_selector = on("ssd"), &[]), yes);
        assert_eq!(fit(|s| s.node_selector = on("tape"), &[]), NO);
        assert_eq!(fit(|_| {}, &[("node.kubernetes.io/unschedulable", "NoSchedule")]), yes);
        assert_eq!(fit(|_| {}, &[("own", "NoSchedule")]), Fit { run: false, stay: true });
        assert_eq!(fit(|_| {}, &[("own", "NoExecute")]), NO);
        assert_eq!(fit(|_| {}, &[("own", "PreferNoSchedule")]), yes);
        assert!(!fit(|_| {}, &[("node.kubernetes.io/network-unavailable", "NoSchedule")]).run);
        let host = |s: &mut PodSpec| s.host_network = Some(true);
        assert_eq!(fit(host, &[("node.kubernetes.io/network-unavailable", "NoSchedule")]), yes);
    }
}
