//! Sentences that warn of pods that are allowed but hardly meant. They reach the client as `Warning` headers.

mod overlaps;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, NodeSelectorTerm, PodAffinityTerm, PodSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::Path;
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::text as rules;

/// Labels of nodes that have newer names.
pub fn label_advice(key: &str) -> Option<&'static str> {
    Some(match key {
        "beta.kubernetes.io/arch" => "deprecated since v1.14; use \"kubernetes.io/arch\" instead",
        "beta.kubernetes.io/os" => "deprecated since v1.14; use \"kubernetes.io/os\" instead",
        "failure-domain.beta.kubernetes.io/region" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/region\" instead"
        }
        "failure-domain.beta.kubernetes.io/zone" => {
            "deprecated since v1.17; use \"topology.kubernetes.io/zone\" instead"
        }
        "beta.kubernetes.io/instance-type" => {
            "deprecated since v1.17; use \"node.kubernetes.io/instance-type\" instead"
        }
        "app.kubernetes.io/created-by" => "deprecated since v1.9",
        "scheduler.alpha.kubernetes.io/preferAvoidPods" => {
            "deprecated since v1.22; use Taints and Tolerations instead"
        }
        "node-role.kubernetes.io/master" => "use \"node-role.kubernetes.io/control-plane\" instead",
        _ => return None,
    })
}

/// Warnings of a pod (`root` empty) or of a template (`root` its path).
pub fn warnings(root: &Path, s: &PodSpec, meta: &ObjectMeta, out: &mut Vec<String>) {
    let spec = root.child("spec");
    for k in s.node_selector.iter().flatten().map(|(k, _)| k) {
        if let Some(m) = label_advice(k) {
            out.push(format!("{}: {m}", spec.child("nodeSelector").key(k)));
        }
    }
    if let Some(a) = s.affinity.as_ref().and_then(|a| a.node_affinity.as_ref()) {
        let at = spec.child("affinity").child("nodeAffinity");
        let required = a.required_during_scheduling_ignored_during_execution.as_ref();
        let terms = at.child("requiredDuringSchedulingIgnoredDuringExecution").child("nodeSelectorTerms");
        for (i, t) in required.iter().flat_map(|r| r.node_selector_terms.iter()).enumerate() {
            node_term(t, false, &terms.index(i), out);
        }
        let preferred = at.child("preferredDuringSchedulingIgnoredDuringExecution");
        for (i, t) in items(&a.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            node_term(&t.preference, true, &preferred.index(i).child("preference"), out);
        }
    }
    for (i, c) in items(&s.topology_spread_constraints).iter().enumerate() {
        let at = spec.child("topologySpreadConstraints").index(i);
        if let Some(m) = label_advice(&c.topology_key) {
            out.push(format!("{}: {} is {m}", at.child("topologyKey"), c.topology_key));
        }
        if c.label_selector.is_none() {
            out.push(null_selector(&at));
        }
    }
    annotations(root, meta, out);
    volumes(s, &spec, out);
    overlaps::warnings(items(&s.volumes), out);
    duplicates(s, &spec, out);
    for (c, at) in containers(s, &spec) {
        fractions(c, &at, out);
        hidden_variables(c, &at, out);
    }
    ports(s, &spec, out);
    if s.termination_grace_period_seconds.is_some_and(|n| n < 0) {
        out.push(format!(
            "{}: must be >= 0; negative values are invalid and will be treated as 1",
            spec.child("terminationGracePeriodSeconds")
        ));
    }
    affinity(s, &spec.child("affinity"), out);
}

/// Of a term that selects nodes: labels that have newer names and, where nothing else checks them, values that no
/// label has.
pub fn node_term(t: &NodeSelectorTerm, check_values: bool, at: &Path, out: &mut Vec<String>) {
    for (i, e) in items(&t.match_expressions).iter().enumerate() {
        let at = at.child("matchExpressions").index(i);
        if let Some(m) = label_advice(&e.key) {
            out.push(format!("{}: {} is {m}", at.child("key"), e.key));
        }
        for (j, v) in items(&e.values).iter().enumerate().filter(|_| check_values) {
            for why in rules::label_value(v) {
                out.push(format!("{}: {v} is invalid, {why}", at.child("values").index(j)));
            }
        }
    }
}

fn null_selector(at: &Path) -> String {
    format!("{}: a null labelSelector results in matching no pod", at.child("labelSelector"))
}

/// Init containers first, as upstream visits them.
fn containers<'a>(s: &'a PodSpec, spec: &Path) -> Vec<(&'a Container, Path)> {
    let of = |list: &'a [Container], name: &str| -> Vec<(&'a Container, Path)> {
        let at = spec.child(name);
        list.iter().enumerate().map(|(i, c)| (c, at.index(i))).collect()
    };
    let mut all = of(items(&s.init_containers), "initContainers");
    all.extend(of(&s.containers, "containers"));
    all
}

fn annotations(root: &Path, meta: &ObjectMeta, out: &mut Vec<String>) {
    for (key, m) in [
        (
            "scheduler.alpha.kubernetes.io/critical-pod",
            "non-functional in v1.16+; use the \"priorityClassName\" field instead",
        ),
        (
            "security.alpha.kubernetes.io/sysctls",
            "non-functional in v1.11+; use the \"sysctls\" field instead",
        ),
        (
            "security.alpha.kubernetes.io/unsafe-sysctls",
            "non-functional in v1.11+; use the \"sysctls\" field instead",
        ),
    ] {
        if meta.annotations.as_ref().is_some_and(|a| a.contains_key(key)) {
            out.push(format!("{}: {m}", root.child("metadata").child("annotations").key(key)));
        }
    }
}

fn volumes(s: &PodSpec, spec: &Path, out: &mut Vec<String>) {
    for (i, v) in items(&s.volumes).iter().enumerate() {
        let at = spec.child("volumes").index(i);
        for (given, field, m) in [
            (
                v.photon_persistent_disk.is_some(),
                "photonPersistentDisk",
                "deprecated in v1.11, non-functional in v1.16+",
            ),
            (v.git_repo.is_some(), "gitRepo", "deprecated in v1.11, and disabled by default in v1.33+"),
            (v.scale_io.is_some(), "scaleIO", "deprecated in v1.16, non-functional in v1.22+"),
            (v.flocker.is_some(), "flocker", "deprecated in v1.22, non-functional in v1.25+"),
            (v.storageos.is_some(), "storageOS", "deprecated in v1.22, non-functional in v1.25+"),
            (v.quobyte.is_some(), "quobyte", "deprecated in v1.22, non-functional in v1.25+"),
            (v.glusterfs.is_some(), "glusterfs", "deprecated in v1.25, non-functional in v1.26+"),
            (v.cephfs.is_some(), "cephfs", "deprecated in v1.28, non-functional in v1.31+"),
            (v.rbd.is_some(), "rbd", "deprecated in v1.28, non-functional in v1.31+"),
        ] {
            if given {
                out.push(format!("{}: {m}", at.child(field)));
            }
        }
    }
}

fn duplicates(s: &PodSpec, spec: &Path, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, a) in items(&s.host_aliases).iter().enumerate() {
        if !seen.insert(&a.ip) {
            let at = spec.child("hostAliases").index(i).child("ip");
            out.push(format!("{at}: duplicate ip {:?}", a.ip));
        }
    }
    let mut seen = BTreeSet::new();
    let secrets = items(&s.image_pull_secrets);
    let at = |i: usize| spec.child("imagePullSecrets").index(i).child("name");
    for (i, p) in secrets.iter().enumerate() {
        if !seen.insert(&p.name) {
            out.push(format!("{}: duplicate name {:?}", at(i), p.name));
        }
    }
    for (i, p) in secrets.iter().enumerate().filter(|(_, p)| p.name.is_empty()) {
        out.push(format!("{}: invalid empty name {:?}", at(i), p.name));
    }
}

/// Bytes come whole.
fn fractions(c: &Container, at: &Path, out: &mut Vec<String>) {
    let Some(r) = &c.resources else { return };
    for name in ["memory", "ephemeral-storage"] {
        for (field, list) in [("limits", &r.limits), ("requests", &r.requests)] {
            if let Some(q) = list.as_ref().and_then(|l| l.get(name))
                && !amount(q).is_whole()
            {
                out.push(format!(
                    "{}: fractional byte value {:?} is invalid, must be an integer",
                    at.child("resources").child(field).key(name),
                    q.0
                ));
            }
        }
    }
}

fn hidden_variables(c: &Container, at: &Path, out: &mut Vec<String>) {
    let mut seen = BTreeSet::new();
    for (i, v) in items(&c.env).iter().enumerate() {
        if seen.insert(&v.name) {
            continue;
        }
        // A variable that builds on the one before it is meant.
        let reference = format!("$({})", v.name);
        let value = text(&v.value);
        if v.value_from.is_some() || value == reference || !value.contains(&reference) {
            out.push(format!(
                "{}: hides previous definition of {:?}, which may be dropped when using apply",
                at.child("env").index(i),
                v.name
            ));
        }
    }
}

fn ports(s: &PodSpec, spec: &Path, out: &mut Vec<String>) {
    let all: Vec<(Path, &ContainerPort)> = containers(s, spec)
        .into_iter()
        .flat_map(|(c, at)| {
            let at = at.child("ports");
            items(&c.ports).iter().enumerate().map(move |(i, p)| (at.index(i), p))
        })
        .collect();
    let mut by_port: BTreeMap<(i32, &str), Vec<(&Path, &ContainerPort)>> = BTreeMap::new();
    for (at, p) in &all {
        let host = p.host_port.unwrap_or(0);
        let ip = text(&p.host_ip);
        if !ip.is_empty() && host == 0 {
            out.push(format!(
                "{at}: hostIP set without hostPort: {{Name:{} HostPort:0 ContainerPort:{} Protocol:{} HostIP:{ip}}}",
                text(&p.name),
                p.container_port,
                text(&p.protocol)
            ));
        }
        let others = by_port.entry((p.container_port, text(&p.protocol))).or_default();
        for (other_at, o) in others.iter() {
            let (other_host, other_ip) = (o.host_port.unwrap_or(0), text(&o.host_ip));
            let what = if ip == other_ip && host == other_host {
                "duplicate"
            } else if host == 0 || other_host == 0 {
                "overlapping"
            } else if host == other_host && ip.is_empty() != other_ip.is_empty() {
                "dangerously ambiguous"
            } else {
                continue;
            };
            out.push(format!("{at}: {what} port definition with {other_at}"));
        }
        others.push((at, p));
    }
    let mut names: BTreeMap<&str, &Path> = BTreeMap::new();
    for (at, p) in &all {
        let name = text(&p.name);
        if name.is_empty() {
            continue;
        }
        match names.get(name) {
            Some(other) => out.push(format!(
                "{at}: duplicate port name {name:?} with {other}, services and probes that select ports by \
                 name will use {other}"
            )),
            None => {
                names.insert(name, at);
            }
        }
    }
}

fn affinity(s: &PodSpec, path: &Path, out: &mut Vec<String>) {
    let Some(a) = &s.affinity else { return };
    let mut term = |t: &PodAffinityTerm, at: Path| {
        if t.label_selector.is_none() {
            out.push(null_selector(&at));
        }
    };
    let required = "requiredDuringSchedulingIgnoredDuringExecution";
    let preferred = "preferredDuringSchedulingIgnoredDuringExecution";
    if let Some(p) = &a.pod_affinity {
        let path = path.child("podAffinity");
        for (i, t) in items(&p.required_during_scheduling_ignored_during_execution).iter().enumerate() {
            term(t, path.child(required).index(i));
        }
        for (i, t) in items(&p.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            term(&t.pod_affinity_term, path.child(preferred).index(i).child("podAffinityTerm"));
        }
    }
    if let Some(p) = &a.pod_anti_affinity {
        let path = path.child("podAntiAffinity");
        for (i, t) in items(&p.required_during_scheduling_ignored_during_execution).iter().enumerate() {
            term(t, path.child(required).index(i));
        }
        for (i, t) in items(&p.preferred_during_scheduling_ignored_during_execution).iter().enumerate() {
            term(&t.pod_affinity_term, path.child(preferred).index(i).child("podAffinityTerm"));
        }
    }
}
