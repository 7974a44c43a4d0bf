//! Replication controllers: what replica sets were before labels could be matched by sets.

use k8s_openapi::api::core::v1 as api;

use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::spec_and_status;
use crate::registry::strategy::Strategy;

/// Rules of replication controllers.
pub struct ReplicationController;

impl Strategy for ReplicationController {
    type Object = api::ReplicationController;

    fn default(&self, rc: &mut api::ReplicationController) {
        let spec = rc.spec.get_or_insert_with(Default::default);
        spec.replicas.get_or_insert(1);
        let labels = spec.template.as_ref().and_then(|t| t.metadata.as_ref()).and_then(|m| m.labels.clone());
        if let Some(labels) = labels {
            if spec.selector.as_ref().is_none_or(|s| s.is_empty()) {
                spec.selector = Some(labels.clone());
            }
            if rc.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
                rc.metadata.labels = Some(labels);
            }
        }
        if let Some(t) = &mut spec.template {
            default_template(t);
        }
        rc.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));
}
