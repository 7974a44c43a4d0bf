//! Stateful sets.

use k8s_openapi::api::apps::v1 as api;

use crate::kinds::podspec::defaults::default_template;
use crate::kinds::podspec::volume_defaults::default_claim_spec;
use crate::kinds::semantic::{fill, spec_and_status, text};
use crate::registry::strategy::Strategy;

/// Rules of stateful sets.
pub struct StatefulSet;

fn blank_status() -> Option<api::StatefulSetStatus> {
    Some(api::StatefulSetStatus { available_replicas: Some(0), ..Default::default() })
}

impl Strategy for StatefulSet {
    type Object = api::StatefulSet;

    fn default(&self, s: &mut api::StatefulSet) {
        let spec = s.spec.get_or_insert_with(Default::default);
        fill(&mut spec.pod_management_policy, "OrderedReady");
        let update = spec.update_strategy.get_or_insert_with(Default::default);
        if text(&update.type_).is_empty() {
            update.type_ = Some("RollingUpdate".to_owned());
            update.rolling_update.get_or_insert_with(Default::default);
        }
        if let ("RollingUpdate", Some(rolling)) = (text(&update.type_), &mut update.rolling_update) {
            rolling.partition.get_or_insert(0);
        }
        let keep = spec.persistent_volume_claim_retention_policy.get_or_insert_with(Default::default);
        fill(&mut keep.when_deleted, "Retain");
        fill(&mut keep.when_scaled, "Retain");
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(10);
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            default_claim_spec(claim.spec.get_or_insert_with(Default::default));
            fill(&mut claim.status.get_or_insert_with(Default::default).phase, "Pending");
        }
        default_template(&mut spec.template);
        let status = s.status.get_or_insert_with(Default::default);
        status.available_replicas.get_or_insert(0);
    }

    spec_and_status!(blank_status());
}
