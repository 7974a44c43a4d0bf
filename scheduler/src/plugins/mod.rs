//! The in-tree plugins, one file per concern, and the registry that makes them by name.

pub mod dynamic_resources;
mod image_locality;
mod inter_pod_affinity;
mod node_basics;
mod node_declared_features;
mod node_ports;
mod node_resources;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_checks;
pub mod volumes;

use std::time::Duration;

use serde::de::DeserializeOwned;

use crate::config::args;
use crate::framework::Plugin;
use crate::preempt::Limits;

pub use node_resources::{Shape, Strategy};

/// Default plugins in order, with their weights, as every profile starts out.
pub const DEFAULTS: &[(&str, i64)] = &[
    ("SchedulingGates", 0),
    ("PrioritySort", 0),
    ("NodeUnschedulable", 0),
    ("NodeName", 0),
    ("TaintToleration", 3),
    ("NodeAffinity", 2),
    ("NodePorts", 0),
    ("NodeResourcesFit", 1),
    ("VolumeRestrictions", 0),
    ("NodeVolumeLimits", 0),
    ("VolumeBinding", 0),
    ("VolumeZone", 0),
    ("PodTopologySpread", 2),
    ("InterPodAffinity", 2),
    ("DynamicResources", 2),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
    ("NodeDeclaredFeatures", 0),
];

/// Arguments of one plugin from the configuration file, if any.
pub type Args = Option<serde_json::Value>;

fn parse<T: DeserializeOwned + Default>(name: &str, args: Args) -> Result<T, String> {
    args.map_or_else(
        || Ok(T::default()),
        |v| serde_json::from_value(v).map_err(|e| format!("arguments of plugin {name}: {e}")),
    )
}

/// The limits in `DefaultPreemptionArgs`.
///
/// # Errors
/// Arguments that don't parse or are out of range.
pub fn preemption_limits(args: Args) -> Result<Limits, String> {
    const NAME: &str = "DefaultPreemption";
    let a = parse::<args::DefaultPreemption>(NAME, args)?;
    let (percentage, absolute) =
        (a.min_candidate_nodes_percentage.unwrap_or(10), a.min_candidate_nodes_absolute.unwrap_or(100));
    if !(0..=100).contains(&percentage) {
        return Err(format!(
            "{NAME}: minCandidateNodesPercentage: Invalid value: {percentage}: not in valid range [0, 100]"
        ));
    }
    if absolute < 0 {
        return Err(format!(
            "{NAME}: minCandidateNodesAbsolute: Invalid value: {absolute}: not in valid range [0, inf)"
        ));
    }
    if percentage == 0 && absolute == 0 {
        return Err(format!(
            "{NAME}: minCandidateNodesPercentage and minCandidateNodesAbsolute cannot both be zero"
        ));
    }
    Ok(Limits { percentage: percentage.unsigned_abs() as usize, absolute: absolute.unsigned_abs() as usize })
}

/// The time volumes may take to be bound, of `VolumeBindingArgs`.
///
/// # Errors
/// Arguments that don't parse or are out of range.
pub fn bind_timeout(args: Args) -> Result<Duration, String> {
    const NAME: &str = "VolumeBinding";
    let a = parse::<args::VolumeBinding>(NAME, args)?;
    let seconds = a.bind_timeout_seconds.unwrap_or(600);
    let seconds = u64::try_from(seconds).map_err(|_| {
        format!("{NAME}: bindTimeoutSeconds: Invalid value: {seconds}: should be greater than or equal to 0")
    })?;
    if !a.shape.is_empty() {
        return Err(format!(
            "{NAME}: shape: only allowed if the feature StorageCapacityScoring is enabled, which is alpha and off"
        ));
    }
    Ok(Duration::from_secs(seconds))
}

/// The time devices may take to get ready, of `DynamicResourcesArgs`.
///
/// # Errors
/// Arguments that don't parse or are out of range.
pub fn device_timeout(args: Args) -> Result<Duration, String> {
    dynamic_resources::binding_timeout(&parse::<args::DynamicResources>(dynamic_resources::NAME, args)?)
}

/// Makes a plugin by its configured name.
///
/// # Errors
/// Unknown names and arguments that don't parse or don't make sense.
pub fn make(name: &str, args: Args) -> Result<Option<Box<dyn Plugin>>, String> {
    Ok(Some(match name {
        "SchedulingGates" => Box::new(scheduling_gates::SchedulingGates),
        "NodeUnschedulable" => Box::new(node_basics::NodeUnschedulable),
        "NodeName" => Box::new(node_basics::NodeName),
        "TaintToleration" => Box::new(taint_toleration::TaintToleration),
        "NodeAffinity" => Box::new(node_basics::NodeAffinity::new(&parse::<args::NodeAffinity>(name, args)?)),
        "NodePorts" => Box::new(node_ports::NodePorts),
        "NodeResourcesFit" => Box::new(node_resources::Fit::new(&parse::<args::Fit>(name, args)?)?),
        "NodeResourcesBalancedAllocation" => {
            Box::new(node_resources::Balanced::new(&parse::<args::Balanced>(name, args)?)?)
        }
        "ImageLocality" => Box::new(image_locality::ImageLocality),
        "PodTopologySpread" => Box::new(pod_topology_spread::PodTopologySpread::new(&parse::<
            args::PodTopologySpread,
        >(name, args)?)?),
        "InterPodAffinity" => Box::new(inter_pod_affinity::InterPodAffinity::new(&parse::<
            args::InterPodAffinity,
        >(name, args)?)?),
        "VolumeRestrictions" => Box::new(volume_checks::VolumeRestrictions),
        "NodeVolumeLimits" => Box::new(volume_checks::NodeVolumeLimits),
        "VolumeZone" => Box::new(volume_checks::VolumeZone),
        "VolumeBinding" => {
            bind_timeout(args)?;
            Box::new(volume_binding::VolumeBinding)
        }
        "NodeDeclaredFeatures" => Box::new(node_declared_features::NodeDeclaredFeatures),
        "DynamicResources" => {
            Box::new(dynamic_resources::DynamicResources::new(&parse::<args::DynamicResources>(name, args)?)?)
        }
        // Parts of the scheduler itself rather than pod checks; they are switched on and off by name.
        "PrioritySort" | "DefaultBinder" => return Ok(None),
        "DefaultPreemption" => {
            preemption_limits(args)?;
            return Ok(None);
        }
        _ => return Err(format!("plugin {name:?} does not exist; known plugins: {}", known())),
    }))
}

fn known() -> String {
    DEFAULTS.iter().map(|d| d.0).collect::<Vec<_>>().join(", ")
}
