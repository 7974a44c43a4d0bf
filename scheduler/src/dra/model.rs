//! What is kept of ResourceSlices and DeviceClasses.

use std::collections::BTreeMap;
use std::sync::Arc;

use expressions::device::{self as cel, Attribute};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::api::resource::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use proto::quantity::{Format, Quantity};

use crate::model::{Labels, NodeSelector, Str, convert};

/// Names a device in the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DeviceId {
    pub driver: Str,
    pub pool: Str,
    pub device: Str,
}

impl DeviceId {
    /// The device of a result.
    #[must_use]
    pub fn of(r: &api::DeviceRequestAllocationResult) -> Self {
        Self {
            driver: r.driver.as_str().into(),
            pool: r.pool.as_str().into(),
            device: r.device.as_str().into(),
        }
    }
}

impl std::fmt::Display for DeviceId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}/{}", self.driver, self.pool, self.device)
    }
}

/// Driver and name of a pool.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId {
    pub driver: Str,
    pub pool: Str,
}

impl std::fmt::Display for PoolId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.driver, self.pool)
    }
}

/// The nodes that a slice or a device is for.
#[derive(Clone, Debug, PartialEq)]
pub enum Nodes {
    One(Str),
    All,
    /// What matches; and the same as it is written.
    Matching(NodeSelector, Box<core::NodeSelector>),
    /// Nothing is said.
    None,
}

impl Nodes {
    fn new(name: Option<&str>, all: Option<bool>, selector: Option<&core::NodeSelector>) -> Self {
        match (name.filter(|n| !n.is_empty()), all, selector) {
            (Some(n), ..) => Self::One(n.into()),
            (_, Some(true), _) => Self::All,
            (.., Some(s)) => Self::Matching(convert::node_selector(s), Box::new(s.clone())),
            _ => Self::None,
        }
    }

    /// Whether a node with this name and these labels is among them.
    #[must_use]
    pub fn has(&self, name: &str, labels: &Labels) -> bool {
        match self {
            Self::One(n) => n.as_ref() == name,
            Self::All => true,
            Self::Matching(s, _) => s.matches(name, labels),
            Self::None => false,
        }
    }
}

/// How much of something a device has, and how it is given out (KEP-5075).
#[derive(Clone, Debug, PartialEq)]
pub struct Capacity {
    pub value: Quantity,
    pub policy: Option<Policy>,
}

/// What requests for a capacity may be.
#[derive(Clone, Debug, PartialEq)]
pub struct Policy {
    pub default: Option<Quantity>,
    pub values: Box<[Quantity]>,
    pub range: Option<Range>,
}

/// Smallest request, largest, and the step between.
#[derive(Clone, Debug, PartialEq)]
pub struct Range {
    pub min: Quantity,
    pub max: Option<Quantity>,
    pub step: Option<Quantity>,
}

/// A taint of a device that keeps claims away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taint {
    pub key: Str,
    pub value: Str,
    pub effect: Str,
}

/// Amounts by name.
pub type Amounts = BTreeMap<Str, Quantity>;

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    pub name: Str,
    pub attributes: BTreeMap<Str, Attribute>,
    pub capacity: BTreeMap<Str, Capacity>,
    /// Its own nodes, where the slice leaves that to its devices.
    pub nodes: Nodes,
    /// What it takes of the pool's counter sets, by set.
    pub consumes: Box<[(Str, Amounts)]>,
    /// Those with an effect on scheduling.
    pub taints: Box<[Taint]>,
    /// Several claims can have it.
    pub multiple: bool,
    pub binds_to_node: bool,
    pub binding: Option<Vec<String>>,
    pub binding_failure: Option<Vec<String>>,
    /// As selectors see it.
    pub seen: cel::Device,
}

/// A ResourceSlice.
#[derive(Clone, Debug)]
pub struct Slice {
    pub name: Str,
    pub pool: PoolId,
    pub generation: i64,
    /// How many slices the pool has.
    pub count: i64,
    pub nodes: Nodes,
    /// Each device says for itself where it is.
    pub per_device: bool,
    pub devices: Vec<Device>,
    /// Counter sets of the pool.
    pub counters: Vec<(Str, Amounts)>,
}

/// A DeviceClass.
#[derive(Clone, Debug, PartialEq)]
pub struct Class {
    pub name: Str,
    /// Expressions; none where the kind of selector is not known.
    pub selectors: Vec<Option<Str>>,
    pub config: Vec<api::DeviceClassConfiguration>,
    /// The extended resource that it stands for.
    pub extended: Option<Str>,
    /// Seconds since the epoch.
    pub created: i64,
}

/// A quantity of the API. What the API server let through and this cannot read is nothing.
#[must_use]
pub fn quantity(q: &Text) -> Quantity {
    q.0.parse().unwrap_or(Quantity::from_value(0, Format::DecimalSi))
}

fn str_of(s: Option<&String>) -> Str {
    s.map_or("", String::as_str).into()
}

fn attribute(a: &api::DeviceAttribute) -> Attribute {
    match a {
        api::DeviceAttribute { int: Some(n), .. } => Attribute::Int(*n),
        api::DeviceAttribute { bool: Some(b), .. } => Attribute::Bool(*b),
        api::DeviceAttribute { string: Some(s), .. } => Attribute::Text(s.as_str().into()),
        api::DeviceAttribute { version: Some(v), .. } => Attribute::Version(v.as_str().into()),
        _ => Attribute::Unsupported,
    }
}

fn capacity(c: &api::DeviceCapacity) -> Capacity {
    let policy = c.request_policy.as_ref().map(|p| Policy {
        default: p.default.as_ref().map(quantity),
        values: p.valid_values.iter().flatten().map(quantity).collect(),
        range: p.valid_range.as_ref().map(|r| Range {
            min: quantity(&r.min),
            max: r.max.as_ref().map(quantity),
            step: r.step.as_ref().map(quantity),
        }),
    });
    Capacity { value: quantity(&c.value), policy }
}

fn amounts(of: &BTreeMap<String, api::Counter>) -> Amounts {
    of.iter().map(|(name, c)| (name.as_str().into(), quantity(&c.value))).collect()
}

/// Whether an effect of a taint keeps claims away; others are for people to read.
fn keeps_away(effect: &str) -> bool {
    matches!(effect, "NoSchedule" | "NoExecute")
}

fn device(d: &api::Device, driver: &str) -> Device {
    let attributes: BTreeMap<Str, Attribute> =
        d.attributes.iter().flatten().map(|(n, a)| (n.as_str().into(), attribute(a))).collect();
    let has: BTreeMap<Str, Capacity> =
        d.capacity.iter().flatten().map(|(n, c)| (n.as_str().into(), capacity(c))).collect();
    let multiple = d.allow_multiple_allocations.unwrap_or(false);
    let seen = cel::Device::new(
        driver,
        multiple,
        attributes.iter().map(|(n, a)| (n.as_ref(), a)),
        has.iter().map(|(n, c)| (n.as_ref(), c.value)),
    );
    Device {
        name: d.name.as_str().into(),
        attributes,
        capacity: has,
        nodes: Nodes::new(d.node_name.as_deref(), d.all_nodes, d.node_selector.as_ref()),
        consumes: d
            .consumes_counters
            .iter()
            .flatten()
            .map(|c| (c.counter_set.as_str().into(), amounts(&c.counters)))
            .collect(),
        taints: d
            .taints
            .iter()
            .flatten()
            .filter(|t| keeps_away(&t.effect))
            .map(|t| Taint {
                key: t.key.as_str().into(),
                value: str_of(t.value.as_ref()),
                effect: t.effect.as_str().into(),
            })
            .collect(),
        multiple,
        binds_to_node: d.binds_to_node.unwrap_or(false),
        binding: d.binding_conditions.clone(),
        binding_failure: d.binding_failure_conditions.clone(),
        seen,
    }
}

/// A slice.
#[must_use]
pub fn slice(s: &api::ResourceSlice) -> Arc<Slice> {
    let spec = &s.spec;
    Arc::new(Slice {
        name: str_of(s.metadata.name.as_ref()),
        pool: PoolId { driver: spec.driver.as_str().into(), pool: spec.pool.name.as_str().into() },
        generation: spec.pool.generation,
        count: spec.pool.resource_slice_count,
        nodes: Nodes::new(spec.node_name.as_deref(), spec.all_nodes, spec.node_selector.as_ref()),
        per_device: spec.per_device_node_selection.unwrap_or(false),
        devices: spec.devices.iter().flatten().map(|d| device(d, &spec.driver)).collect(),
        counters: spec
            .shared_counters
            .iter()
            .flatten()
            .map(|c| (c.name.as_str().into(), amounts(&c.counters)))
            .collect(),
    })
}

/// The expressions of selectors.
pub(super) fn expressions(s: Option<&Vec<api::DeviceSelector>>) -> Vec<Option<Str>> {
    s.into_iter().flatten().map(|s| s.cel.as_ref().map(|c| c.expression.as_str().into())).collect()
}

/// A class.
#[must_use]
pub fn class(c: &api::DeviceClass) -> Class {
    Class {
        name: str_of(c.metadata.name.as_ref()),
        selectors: expressions(c.spec.selectors.as_ref()),
        config: c.spec.config.clone().unwrap_or_default(),
        extended: c.spec.extended_resource_name.as_deref().map(Into::into),
        created: c.metadata.creation_timestamp.as_ref().map_or(0, |t| t.0.as_second()),
    }
}
