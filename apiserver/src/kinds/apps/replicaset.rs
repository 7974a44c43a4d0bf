//! Replica sets.

use k8s_openapi::api::apps::v1 as api;

use crate::kinds::podspec::defaults::default_template;
use crate::kinds::semantic::spec_and_status;
use crate::registry::strategy::Strategy;

/// Rules of replica sets.
pub struct ReplicaSet;

impl Strategy for ReplicaSet {
    type Object = api::ReplicaSet;

    fn default(&self, rs: &mut api::ReplicaSet) {
        let spec = rs.spec.get_or_insert_with(Default::default);
        spec.replicas.get_or_insert(1);
        default_template(spec.template.get_or_insert_with(Default::default));
        rs.status.get_or_insert_with(Default::default);
    }

    spec_and_status!(Some(Default::default()));
}
