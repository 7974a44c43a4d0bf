//! Arguments of plugins (`NodeResourcesFitArgs` and its siblings).

use component_base::duration::GoDuration;
use k8s_openapi::api::core::v1 as core;
use serde::Deserialize;

macro_rules! args {
    ($(#[$doc:meta])* $name:ident { $($(#[$m:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, Deserialize)]
        #[serde(rename_all = "camelCase", deny_unknown_fields, default)]
        pub struct $name {
            $($(#[$m])* pub $field: $ty,)*
            /// Present in files that embed the whole object.
            pub api_version: String,
            pub kind: String,
        }
    };
}

args!(
    /// `NodeAffinityArgs`.
    NodeAffinity { added_affinity: Option<core::NodeAffinity> }
);
args!(
    /// `NodeResourcesFitArgs`.
    Fit {
        ignored_resources: Vec<String>,
        ignored_resource_groups: Vec<String>,
        scoring_strategy: Option<ScoringStrategy>,
    }
);
args!(
    /// `NodeResourcesBalancedAllocationArgs`.
    Balanced { resources: Vec<ResourceWeight> }
);
args!(
    /// `PodTopologySpreadArgs`.
    PodTopologySpread {
        default_constraints: Vec<core::TopologySpreadConstraint>,
        defaulting_type: Option<String>,
    }
);
args!(
    /// `InterPodAffinityArgs`.
    InterPodAffinity {
        hard_pod_affinity_weight: Option<i32>,
        ignore_preferred_terms_of_existing_pods: bool,
    }
);
args!(
    /// `VolumeBindingArgs`.
    VolumeBinding { bind_timeout_seconds: Option<i64>, shape: Vec<ShapePoint> }
);
args!(
    /// `DefaultPreemptionArgs`.
    DefaultPreemption {
        min_candidate_nodes_percentage: Option<i32>,
        min_candidate_nodes_absolute: Option<i32>,
    }
);
args!(
    /// `DynamicResourcesArgs`.
    DynamicResources { filter_timeout: Option<GoDuration>, binding_timeout: Option<GoDuration> }
);

/// How NodeResourcesFit scores nodes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ScoringStrategy {
    #[serde(rename = "type")]
    pub type_: Option<String>,
    pub resources: Vec<ResourceWeight>,
    pub requested_to_capacity_ratio: Option<Ratio>,
}

/// A resource and how much it counts.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ResourceWeight {
    pub name: String,
    pub weight: i64,
}

/// The function of RequestedToCapacityRatio.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Ratio {
    pub shape: Vec<ShapePoint>,
}

/// A point of that function.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct ShapePoint {
    pub utilization: i32,
    pub score: i32,
}
