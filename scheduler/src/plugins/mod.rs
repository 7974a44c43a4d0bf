//! The in-tree plugins, one file per concern, and the registry that makes them by name.

mod image_locality;
mod inter_pod_affinity;
mod node_basics;
mod node_ports;
mod node_resources;
mod pod_topology_spread;
mod scheduling_gates;
mod taint_toleration;
mod volume_binding;
mod volume_checks;
pub mod volumes;

use serde::de::DeserializeOwned;

use crate::config::args;
use crate::framework::Plugin;

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
    ("DynamicResources", 0),
    ("DefaultPreemption", 0),
    ("NodeResourcesBalancedAllocation", 1),
    ("ImageLocality", 1),
    ("DefaultBinder", 0),
];

/// Arguments of one plugin from the configuration file, if any.
pub type Args = Option<serde_json::Value>;

/// Makes a plugin by its configured name.
///
/// # Errors
/// Unknown names and arguments that don't parse or don't make sense.
pub fn make(name: &str, args: Args) -> Result<Option<Box<dyn Plugin>>, String> {
    fn parse<T: DeserializeOwned + Default>(name: &str, args: Args) -> Result<T, String> {
        args.map_or_else(
            || Ok(T::default()),
            |v| serde_json::from_value(v).map_err(|e| format!("arguments of plugin {name}: {e}")),
        )
    }
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
            parse::<args::VolumeBinding>(name, args)?;
            Box::new(volume_binding::VolumeBinding)
        }
        "DynamicResources" => Box::new(node_basics::DynamicResources),
        // Parts of the scheduler itself rather than pod checks; they are switched on and off by name.
        "PrioritySort" | "DefaultBinder" => return Ok(None),
        "DefaultPreemption" => {
            parse::<args::DefaultPreemption>(name, args)?;
            return Ok(None);
        }
        _ => return Err(format!("plugin {name:?} does not exist; known plugins: {}", known())),
    }))
}

fn known() -> String {
    DEFAULTS.iter().map(|d| d.0).collect::<Vec<_>>().join(", ")
}
