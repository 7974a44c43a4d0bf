//! API objects into the scheduler's own compact form.

use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::storage::v1::{CSIStorageCapacity, StorageClass};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

use super::affinity::{AffinityTerm, PodTerms};
use super::labels::{Labels, Op, Requirement, Selector, Str};
use super::node::{Effect, NodeFacts, NodeSelector, NodeTerm, Taint, Toleration, TolerationOp};
use super::pod::{HostPort, Owner, PodInfo, SpreadConstraint, VolumeUse, Want};
use super::resources::Resources;
use super::volume::{Capacity, Claim, Class, Volume};
use super::{quantity, requests};
use crate::dra::claims::{ClaimRef, Source};
use crate::dra::extended;

fn s(o: Option<&String>) -> Str {
    o.map_or_else(|| "".into(), |v| v.as_str().into())
}

fn seconds(t: Option<&Time>) -> Option<i64> {
    t.map(|t| t.0.as_second())
}

fn name_of(m: &ObjectMeta) -> Str {
    s(m.name.as_ref())
}

/// A pod.
#[must_use]
pub fn pod(p: &core::Pod) -> PodInfo {
    let m = &p.metadata;
    let empty_spec = core::PodSpec::default();
    let spec = p.spec.as_ref().unwrap_or(&empty_spec);
    let status = p.status.as_ref();
    let labels = Labels::new(m.labels.as_ref());
    let node: Option<Str> = spec.node_name.as_deref().filter(|n| !n.is_empty()).map(Into::into);
    let phase = status.and_then(|s| s.phase.as_deref()).unwrap_or("");
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let namespace = s(m.namespace.as_ref());
    let terms = pod_terms(spec, &namespace);
    let want = node.is_none().then(|| Box::new(want(p, spec, &labels, conditions)));
    PodInfo {
        uid: s(m.uid.as_ref()),
        name: name_of(m),
        generation: m.generation.unwrap_or(0),
        node,
        priority: spec.priority.unwrap_or(0),
        preempt_never: spec.preemption_policy.as_deref() == Some("Never"),
        finished: phase == "Succeeded" || phase == "Failed",
        deleting: m.deletion_timestamp.is_some(),
        disrupted: conditions.iter().any(|c| {
            c.type_ == "DisruptionTarget"
                && c.status == "True"
                && c.reason.as_deref() == Some("PreemptionByScheduler")
        }),
        created: seconds(m.creation_timestamp.as_ref()).unwrap_or(0),
        started: seconds(status.and_then(|s| s.start_time.as_ref())),
        requests: requests::of(p),
        ports: host_ports(spec),
        volumes: volumes(p, spec),
        terms: (!terms.is_empty()).then(|| Box::new(terms)),
        namespace,
        labels,
        want,
    }
}

fn want(p: &core::Pod, spec: &core::PodSpec, labels: &Labels, conditions: &[core::PodCondition]) -> Want {
    let node_affinity = spec.affinity.as_ref().and_then(|a| a.node_affinity.as_ref());
    let containers = || spec.init_containers.iter().flatten().chain(&spec.containers);
    let volume_images =
        spec.volumes.iter().flatten().filter_map(|v| v.image.as_ref().and_then(|i| i.reference.as_deref()));
    Want {
        scheduler: spec.scheduler_name.as_deref().unwrap_or("default-scheduler").into(),
        gates: spec.scheduling_gates.iter().flatten().map(|g| g.name.as_str().into()).collect(),
        tolerations: spec.tolerations.iter().flatten().filter_map(toleration).collect(),
        node_selector: match Selector::from_map(spec.node_selector.as_ref()) {
            Selector::All(r) => r,
            Selector::Nothing => Box::default(),
        },
        required_nodes: node_affinity
            .and_then(|a| a.required_during_scheduling_ignored_during_execution.as_ref())
            .map(node_selector),
        preferred_nodes: node_affinity
            .and_then(|a| a.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(|t| (t.weight, node_term(&t.preference)))
            .collect(),
        spread: spec.topology_spread_constraints.iter().flatten().map(|c| spread(c, labels)).collect(),
        images: containers()
            .filter_map(|c| c.image.as_deref())
            .chain(volume_images)
            .map(normalized_image)
            .collect(),
        containers: containers().count(),
        owner: p
            .metadata
            .owner_references
            .iter()
            .flatten()
            .find(|o| o.controller == Some(true))
            .map(|o| Owner { kind: o.kind.as_str().into(), name: o.name.as_str().into() }),
        nominated: p
            .status
            .as_ref()
            .and_then(|s| s.nominated_node_name.as_deref())
            .filter(|n| !n.is_empty())
            .map(Into::into),
        condition: conditions
            .iter()
            .find(|c| c.type_ == "PodScheduled" && c.status == "False")
            .map(|c| (c.reason.as_deref().unwrap_or("").into(), c.message.as_deref().unwrap_or("").into())),
        resource_claims: resource_claims(p, spec),
        extended: extended::asks(spec),
        grouped: spec.scheduling_group.is_some(),
        features: features(spec),
    }
}

/// The claims that a pod names. Those made from templates are named in its status.
fn resource_claims(p: &core::Pod, spec: &core::PodSpec) -> Box<[ClaimRef]> {
    let made = || p.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
    let of = |c: &core::PodResourceClaim| {
        let source = match (&c.resource_claim_name, &c.resource_claim_template_name) {
            (Some(name), _) => Source::Named(name.as_str().into()),
            (None, Some(_)) => match made().find(|s| s.name == c.name) {
                None => Source::Awaited,
                Some(s) => {
                    s.resource_claim_name.as_deref().map_or(Source::NotNeeded, |n| Source::Made(n.into()))
                }
            },
            (None, None) => Source::Unknown,
        };
        ClaimRef { name: c.name.as_str().into(), source }
    };
    spec.resource_claims.iter().flatten().map(of).collect()
}

/// Features of the kubelet that a pod cannot do without.
fn features(spec: &core::PodSpec) -> Box<[Str]> {
    let mut rules = spec
        .init_containers
        .iter()
        .flatten()
        .chain(&spec.containers)
        .flat_map(|c| c.restart_policy_rules.iter().flatten());
    let restarts_all = rules.any(|r| r.action == "RestartAllContainers");
    let own_users = spec.host_network == Some(true) && spec.host_users == Some(false);
    [(restarts_all, "RestartAllContainersOnContainerExits"), (own_users, "UserNamespacesHostNetworkSupport")]
        .into_iter()
        .filter(|x| x.0)
        .map(|x| Str::from(x.1))
        .collect()
}

/// A spread constraint of a pod with these labels.
#[must_use]
pub fn spread(c: &core::TopologySpreadConstraint, labels: &Labels) -> SpreadConstraint {
    let pinned = c
        .match_label_keys
        .iter()
        .flatten()
        .filter_map(|k| labels.get(k).map(|v| (Str::from(k.as_str()), v.clone())));
    SpreadConstraint {
        max_skew: c.max_skew,
        topology_key: c.topology_key.as_str().into(),
        hard: c.when_unsatisfiable != "ScheduleAnyway",
        selector: Selector::new(c.label_selector.as_ref()).with_equalities(pinned),
        min_domains: c.min_domains.unwrap_or(1),
        honor_affinity: c.node_affinity_policy.as_deref() != Some("Ignore"),
        honor_taints: c.node_taints_policy.as_deref() == Some("Honor"),
    }
}

fn toleration(t: &core::Toleration) -> Option<Toleration> {
    let op = match t.operator.as_deref() {
        None | Some("" | "Equal") => TolerationOp::Equal,
        Some("Exists") => TolerationOp::Exists,
        Some("Lt") => TolerationOp::Lt,
        Some("Gt") => TolerationOp::Gt,
        Some(_) => return None,
    };
    let effect = match t.effect.as_deref() {
        None | Some("") => None,
        Some(e) => Some(Effect::parse(e)?),
    };
    Some(Toleration { key: s(t.key.as_ref()), op, value: s(t.value.as_ref()), effect })
}

fn pod_terms(spec: &core::PodSpec, namespace: &Str) -> PodTerms {
    let Some(a) = &spec.affinity else { return PodTerms::default() };
    let term = |t: &core::PodAffinityTerm| affinity_term(t, namespace);
    let weighted =
        |t: &core::WeightedPodAffinityTerm| (t.weight, affinity_term(&t.pod_affinity_term, namespace));
    let (pa, paa) = (a.pod_affinity.as_ref(), a.pod_anti_affinity.as_ref());
    PodTerms {
        required: pa
            .and_then(|x| x.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(term)
            .collect(),
        required_anti: paa
            .and_then(|x| x.required_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(term)
            .collect(),
        preferred: pa
            .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(weighted)
            .collect(),
        preferred_anti: paa
            .and_then(|x| x.preferred_during_scheduling_ignored_during_execution.as_ref())
            .into_iter()
            .flatten()
            .map(weighted)
            .collect(),
    }
}

fn affinity_term(t: &core::PodAffinityTerm, namespace: &Str) -> AffinityTerm {
    let mut namespaces: Vec<Str> = t.namespaces.iter().flatten().map(|n| n.as_str().into()).collect();
    // Without namespaces and without a namespace selector a term is about the pod's own namespace.
    if namespaces.is_empty() && t.namespace_selector.is_none() {
        namespaces.push(namespace.clone());
    }
    namespaces.sort();
    AffinityTerm {
        namespaces: namespaces.into(),
        namespace_selector: Selector::new(t.namespace_selector.as_ref()),
        selector: Selector::new(t.label_selector.as_ref()),
        topology_key: t.topology_key.as_str().into(),
    }
}

/// A node selector of the API.
#[must_use]
pub fn node_selector(n: &core::NodeSelector) -> NodeSelector {
    NodeSelector(n.node_selector_terms.iter().map(node_term).collect())
}

fn node_term(t: &core::NodeSelectorTerm) -> NodeTerm {
    let reqs = |l: Option<&Vec<core::NodeSelectorRequirement>>| -> Option<Box<[Requirement]>> {
        l.into_iter()
            .flatten()
            .map(|r| {
                Some(Requirement {
                    key: r.key.as_str().into(),
                    op: Op::parse(&r.operator)?,
                    values: r.values.iter().flatten().map(|v| v.as_str().into()).collect(),
                })
            })
            .collect()
    };
    // A term with an operator nobody knows can't be satisfied: an empty term matches nothing.
    match (reqs(t.match_expressions.as_ref()), reqs(t.match_fields.as_ref())) {
        (Some(labels), Some(fields)) => NodeTerm { labels, fields },
        _ => NodeTerm::default(),
    }
}

fn host_ports(spec: &core::PodSpec) -> Box<[HostPort]> {
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .filter_map(|p| {
            Some(HostPort {
                ip: s(p.host_ip.as_ref()),
                protocol: p.protocol.as_deref().unwrap_or("TCP").into(),
                port: p.host_port.filter(|n| *n > 0)?,
            })
        })
        .collect()
}

fn volumes(p: &core::Pod, spec: &core::PodSpec) -> Box<[VolumeUse]> {
    let pod_name = p.metadata.name.as_deref().unwrap_or("");
    let disk = |id: String, shareable: Option<bool>| VolumeUse::Disk {
        id: id.into(),
        shareable: shareable == Some(true),
    };
    spec.volumes
        .iter()
        .flatten()
        .filter_map(|v| {
            if let Some(c) = &v.persistent_volume_claim {
                return Some(VolumeUse::Claim { name: c.claim_name.as_str().into(), ephemeral: false });
            }
            if v.ephemeral.is_some() {
                return Some(VolumeUse::Claim {
                    name: format!("{pod_name}-{}", v.name).into(),
                    ephemeral: true,
                });
            }
            if let Some(d) = &v.gce_persistent_disk {
                return Some(disk(format!("gce/{}", d.pd_name), d.read_only));
            }
            if let Some(d) = &v.aws_elastic_block_store {
                return Some(disk(format!("ebs/{}", d.volume_id), None));
            }
            if let Some(d) = &v.iscsi {
                return Some(disk(format!("iscsi/{}/{}", d.iqn, d.lun), d.read_only));
            }
            v.rbd.as_ref().map(|d| {
                let id = format!(
                    "rbd/{}/{}/{}",
                    d.monitors.join(","),
                    d.pool.as_deref().unwrap_or("rbd"),
                    d.image
                );
                disk(id, d.read_only)
            })
        })
        .collect()
}

/// The name under which a node reports an image: a missing tag is `latest`.
#[must_use]
pub fn normalized_image(name: &str) -> Str {
    if name.rfind(':') <= name.rfind('/') { format!("{name}:latest").into() } else { name.into() }
}

/// A node.
#[must_use]
pub fn node(n: &core::Node) -> NodeFacts {
    let labels = Labels::new(n.metadata.labels.as_ref());
    let spec = n.spec.as_ref();
    let status = n.status.as_ref();
    let allocatable = status.and_then(|s| s.allocatable.as_ref());
    let pick =
        |a: &str, b: &str| labels.get(a).or_else(|| labels.get(b)).map_or("", AsRef::as_ref).to_owned();
    let zone = format!(
        "{}:{}",
        pick("topology.kubernetes.io/region", "failure-domain.beta.kubernetes.io/region"),
        pick("topology.kubernetes.io/zone", "failure-domain.beta.kubernetes.io/zone")
    );
    NodeFacts {
        name: n.metadata.name.as_deref().unwrap_or("").into(),
        taints: spec
            .and_then(|s| s.taints.as_ref())
            .into_iter()
            .flatten()
            .filter_map(|t| {
                Some(Taint {
                    key: t.key.as_str().into(),
                    value: s(t.value.as_ref()),
                    effect: Effect::parse(&t.effect)?,
                })
            })
            .collect(),
        unschedulable: spec.and_then(|s| s.unschedulable).unwrap_or(false),
        allocatable: Resources::new(allocatable),
        max_pods: allocatable.and_then(|a| a.get("pods")).map_or(0, quantity::value),
        images: status
            .and_then(|s| s.images.as_ref())
            .into_iter()
            .flatten()
            .flat_map(|i| {
                let size = i.size_bytes.unwrap_or(0);
                i.names.iter().flatten().map(move |name| (Str::from(name.as_str()), size))
            })
            .collect(),
        features: status
            .and_then(|s| s.declared_features.as_ref())
            .into_iter()
            .flatten()
            .map(|f| f.as_str().into())
            .collect(),
        labels,
        zone,
    }
}

/// A claim.
#[must_use]
pub fn claim(c: &core::PersistentVolumeClaim) -> Claim {
    let m = &c.metadata;
    let spec = c.spec.as_ref();
    let annotation = |k: &str| m.annotations.as_ref().and_then(|a| a.get(k));
    Claim {
        namespace: s(m.namespace.as_ref()),
        name: name_of(m),
        uid: s(m.uid.as_ref()),
        owner_pod: m
            .owner_references
            .iter()
            .flatten()
            .find(|o| o.kind == "Pod" && o.controller == Some(true))
            .map(|o| o.uid.as_str().into()),
        volume: spec.and_then(|x| x.volume_name.as_deref()).filter(|v| !v.is_empty()).map(Into::into),
        bind_completed: annotation("pv.kubernetes.io/bind-completed").is_some(),
        class: annotation("volume.beta.kubernetes.io/storage-class")
            .or_else(|| spec.and_then(|x| x.storage_class_name.as_ref()))
            .map(|v| v.as_str().into()),
        lost: c.status.as_ref().and_then(|x| x.phase.as_deref()) == Some("Lost"),
        deleting: m.deletion_timestamp.is_some(),
        modes: modes(spec.and_then(|x| x.access_modes.as_ref())),
        block: spec.and_then(|x| x.volume_mode.as_deref()) == Some("Block"),
        selector: spec.and_then(|x| x.selector.as_ref()).map(|x| Selector::new(Some(x))),
        request: spec
            .and_then(|x| x.resources.as_ref())
            .and_then(|r| r.requests.as_ref())
            .and_then(|r| r.get("storage"))
            .map_or(0, quantity::value),
        selected_node: annotation("volume.kubernetes.io/selected-node").map(|v| v.as_str().into()),
    }
}

fn modes(m: Option<&Vec<String>>) -> Box<[Str]> {
    m.into_iter().flatten().map(|v| v.as_str().into()).collect()
}

/// A volume.
#[must_use]
pub fn volume(v: &core::PersistentVolume) -> Volume {
    let spec = v.spec.as_ref();
    Volume {
        name: name_of(&v.metadata),
        labels: Labels::new(v.metadata.labels.as_ref()),
        class: s(spec.and_then(|x| x.storage_class_name.as_ref())),
        modes: modes(spec.and_then(|x| x.access_modes.as_ref())),
        block: spec.and_then(|x| x.volume_mode.as_deref()) == Some("Block"),
        capacity: spec
            .and_then(|x| x.capacity.as_ref())
            .and_then(|c| c.get("storage"))
            .map_or(0, quantity::value),
        claim: spec.and_then(|x| x.claim_ref.as_ref()).map(|r| {
            (
                s(r.namespace.as_ref()),
                s(r.name.as_ref()),
                r.uid.as_deref().filter(|u| !u.is_empty()).map(Into::into),
            )
        }),
        available: v.status.as_ref().and_then(|x| x.phase.as_deref()) == Some("Available"),
        deleting: v.metadata.deletion_timestamp.is_some(),
        affinity: spec
            .and_then(|x| x.node_affinity.as_ref())
            .and_then(|a| a.required.as_ref())
            .map(node_selector),
        csi: spec
            .and_then(|x| x.csi.as_ref())
            .map(|c| (c.driver.as_str().into(), c.volume_handle.as_str().into())),
    }
}

/// How much a driver can still provision.
#[must_use]
pub fn capacity(c: &CSIStorageCapacity) -> Capacity {
    Capacity {
        class: c.storage_class_name.as_str().into(),
        limit: c.maximum_volume_size.as_ref().or(c.capacity.as_ref()).map(quantity::value),
        nodes: c.node_topology.as_ref().map(|s| Selector::new(Some(s))),
    }
}

/// A storage class.
#[must_use]
pub fn class(c: &StorageClass) -> Class {
    Class {
        name: name_of(&c.metadata),
        wait: c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"),
        provisioner: c.provisioner.as_str().into(),
        topologies: c
            .allowed_topologies
            .iter()
            .flatten()
            .map(|t| NodeTerm {
                labels: t
                    .match_label_expressions
                    .iter()
                    .flatten()
                    .map(|e| Requirement {
                        key: e.key.as_str().into(),
                        op: Op::In,
                        values: e.values.iter().map(|v| v.as_str().into()).collect(),
                    })
                    .collect(),
                fields: Box::default(),
            })
            .collect(),
    }
}
