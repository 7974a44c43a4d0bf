//! Why a pod is not on a node, node by node and in full: every objection, not the first alone, and what would have
//! to change for it to go away. For people (`ctl why pod`); decisions do not come through here.

use crate::cache::{Cache, NodeInfo};
use crate::framework::{Check, Cycle, Filter, Profile, Rejection};
use crate::model::{Effect, Op, PodInfo, Requirement};

/// One objection of one plugin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Objection {
    pub plugin: &'static str,
    /// In the words of the scheduler's events.
    pub reason: String,
    /// What would have to change; empty where the reason says it all.
    pub change: String,
}

/// What stands between a pod and a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub node: String,
    /// Empty when the pod fits.
    pub objections: Vec<Objection>,
}

/// What stands between a pod and all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The pod may not be scheduled yet.
    pub held_back: Vec<Objection>,
    /// What makes it unfit for any node.
    pub everywhere: Vec<Objection>,
    pub nodes: Vec<Verdict>,
}

/// Holds a pod against every node.
#[must_use]
pub fn explain(cache: &Cache, profile: &Profile, pod: &PodInfo) -> Explanation {
    let cx = Cycle { cache, pod };
    let mut out = Explanation::default();
    for p in profile.pre_enqueue() {
        if let Err(reason) = p.pre_enqueue(pod, cache) {
            let change = match p.name() {
                "SchedulingGates" => "whoever set the gates has to remove them from spec.schedulingGates",
                _ => "",
            };
            let change = change.into();
            out.held_back.push(Objection { plugin: p.name(), reason, change });
        }
    }
    let mut checks: Vec<Check<'_>> = Vec::new();
    for p in profile.filters() {
        match p.filter(cx) {
            Ok(Filter::Skip) => {}
            Ok(Filter::Check(c) | Filter::Narrow(_, c)) => checks.push(c),
            Err(r) => out.everywhere.extend(plain(r)),
        }
    }
    for n in cache.nodes() {
        let refused = checks.iter().filter_map(|c| c(n).err());
        let objections = refused.flat_map(|r| objections(r, n, pod)).collect();
        out.nodes.push(Verdict { node: n.name.to_string(), objections });
    }
    out
}

fn plain(r: Rejection) -> Vec<Objection> {
    let plugin = r.plugin;
    r.reasons
        .into_iter()
        .map(|reason| Objection { plugin, reason: reason.into_owned(), change: String::new() })
        .collect()
}

fn objections(r: Rejection, n: &NodeInfo, pod: &PodInfo) -> Vec<Objection> {
    let mut out = plain(r);
    for o in &mut out {
        o.change = match o.plugin {
            "NodeUnschedulable" => "set spec.unschedulable of the node to false (it is cordoned)".into(),
            "TaintToleration" => taints(n, pod),
            "NodeAffinity" => labels(n, pod),
            "NodePorts" => ports(n, pod),
            "NodeResourcesFit" => room(&o.reason, n, pod),
            "NodeDeclaredFeatures" => {
                let names: Vec<&str> = pod.want().features.iter().map(AsRef::as_ref).collect();
                format!("switch on the kubelet's feature {}", names.join(", "))
            }
            "PodTopologySpread" => spreading(n, pod),
            "InterPodAffinity" => {
                "change the labels or the affinity of this pod or of those it meets in the node's topology"
                    .into()
            }
            _ => String::new(),
        };
    }
    out
}

fn taints(n: &NodeInfo, pod: &PodInfo) -> String {
    let hard = [Effect::NoSchedule, Effect::NoExecute];
    let all = n.facts().taints.iter().filter(|t| pod.untolerated(std::slice::from_ref(*t), &hard).is_some());
    let all: Vec<String> = all
        .map(|t| {
            let value = if t.value.is_empty() { String::new() } else { format!("={}", t.value) };
            format!("{}{value}:{:?}", t.key, t.effect)
        })
        .collect();
    format!("remove from the node, or tolerate: {}", all.join(", "))
}

fn requirement(r: &Requirement) -> String {
    let values = r.values.join(", ");
    match (r.op, r.values.len()) {
        (Op::In, 1) => format!("{}={values}", r.key),
        (Op::In, _) => format!("{} in ({values})", r.key),
        (Op::NotIn, _) => format!("{} not in ({values})", r.key),
        (Op::Exists, _) => format!("{} set", r.key),
        (Op::DoesNotExist, _) => format!("{} not set", r.key),
        (Op::Gt, _) => format!("{} > {values}", r.key),
        (Op::Lt, _) => format!("{} < {values}", r.key),
    }
}

fn labels(n: &NodeInfo, pod: &PodInfo) -> String {
    let (f, w) = (n.facts(), pod.want());
    let unmet = |list: &[Requirement]| -> Vec<String> {
        list.iter().filter(|r| !r.matches(&f.labels)).map(requirement).collect()
    };
    let mut parts = Vec::new();
    let missing = unmet(&w.node_selector);
    if !missing.is_empty() {
        parts.push(format!("label the node as nodeSelector asks: {}", missing.join(", ")));
    }
    if let Some(s) = w.required_nodes.as_ref().filter(|s| !s.matches(&n.name, &f.labels)) {
        let alternatives = s.0.iter().map(|t| {
            let names = t.fields.iter().filter(|r| !r.matches_value(Some(&n.name))).map(requirement);
            unmet(&t.labels).into_iter().chain(names).collect::<Vec<_>>().join(", ")
        });
        let alternatives: Vec<String> = alternatives.collect();
        parts.push(format!("make the node match the affinity: {}", alternatives.join(" or ")));
    }
    parts.join("; ")
}

fn ports(n: &NodeInfo, pod: &PodInfo) -> String {
    let holders = n.pods.iter().flat_map(|p| {
        let taken = p.ports.iter().filter(|used| pod.ports.iter().any(|x| x.conflicts(used)));
        taken.map(|x| format!("{}/{} (held by {})", x.port, x.protocol, p.key())).collect::<Vec<_>>()
    });
    format!("free host port {}", holders.collect::<Vec<_>>().join(", "))
}

/// An amount for people: millicores as CPUs, bytes with a binary unit.
fn amount(resource: &str, v: i64) -> String {
    if resource == "cpu" {
        return if v % 1000 == 0 { (v / 1000).to_string() } else { format!("{v}m") };
    }
    if resource == "memory" || resource == "ephemeral-storage" {
        for (shift, unit) in [(30, "Gi"), (20, "Mi"), (10, "Ki")] {
            if v >= 1 << shift {
                return format!("{:.1}{unit}", v as f64 / f64::from(1u32 << shift));
            }
        }
    }
    v.to_string()
}

fn room(reason: &str, n: &NodeInfo, pod: &PodInfo) -> String {
    let f = n.facts();
    let Some(name) = reason.strip_prefix("Insufficient ") else {
        return format!("remove a pod from the node: it runs {} of at most {}", n.pods.len(), f.max_pods);
    };
    let (ask, has) = (pod.requests.asked.get(name), f.allocatable.get(name));
    let free = has - n.requested.get(name);
    let (a, h, fr) = (amount(name, ask), amount(name, has), amount(name, free.max(0)));
    if ask > has {
        return format!(
            "ask for less {name} or use a larger node: the pod asks for {a}, the whole node has {h}"
        );
    }
    format!("free {} of {name}: the pod asks for {a}, {fr} of {h} are free", amount(name, ask - free))
}

fn spreading(n: &NodeInfo, pod: &PodInfo) -> String {
    let keys = pod.want().spread.iter().filter(|c| c.hard);
    let parts = keys.map(|c| match n.label(&c.topology_key) {
        None => format!("label the node with {}", c.topology_key),
        Some(v) => format!(
            "{}={v} may have at most {} more matching pods than the emptiest",
            c.topology_key, c.max_skew
        ),
    });
    parts.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{cluster, node, node_with, on, pod, profile, sized};

    #[test]
    fn every_objection_of_a_node_is_told_with_what_would_have_to_change() {
        let taint = json!({"taints": [{"key": "k", "value": "v", "effect": "NoSchedule"}]});
        let mut c = cluster([node_with("a", json!({}), taint), node("b", json!({"disk": "ssd"}))]);
        c.set_pod(on(&sized("old", "3", "1Gi"), "a"));
        let p = pod(
            "new",
            json!({"nodeSelector": {"disk": "ssd"},
                "containers": [{"name": "c", "resources": {"requests": {"cpu": "1500m"}}}]}),
        );
        let e = explain(&c, &profile(json!({})), &p);
        assert_eq!(e.everywhere, []);
        let changes: Vec<&str> = e.nodes[0].objections.iter().map(|o| o.change.as_str()).collect();
        assert_eq!(
            changes,
            [
                "remove from the node, or tolerate: k=v:NoSchedule",
                "label the node as nodeSelector asks: disk=ssd",
                "free 500m of cpu: the pod asks for 1500m, 1 of 4 are free",
            ]
        );
        assert_eq!(e.nodes[1], Verdict { node: "b".into(), objections: Vec::new() });
    }

    #[test]
    fn gates_and_missing_claims_are_told_apart_from_nodes() {
        let c = cluster([node("a", json!({}))]);
        let p = pod(
            "new",
            json!({"schedulingGates": [{"name": "x"}],
                "volumes": [{"name": "v", "persistentVolumeClaim": {"claimName": "gone"}}]}),
        );
        let e = explain(&c, &profile(json!({})), &p);
        assert_eq!(e.held_back[0].reason, "waiting for scheduling gates: [x]");
        assert_eq!(e.everywhere[0].reason, "persistentvolumeclaim \"gone\" not found");
    }
}
