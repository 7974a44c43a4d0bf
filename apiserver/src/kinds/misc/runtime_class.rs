//! Runtime classes.

use k8s_openapi::api::node::v1 as api;

use crate::kinds::quantity::canonical_list;
use crate::registry::strategy::Strategy;

/// Rules of runtime classes.
pub struct RuntimeClass;

impl Strategy for RuntimeClass {
    type Object = api::RuntimeClass;

    fn default(&self, c: &mut api::RuntimeClass) {
        if let Some(o) = &mut c.overhead {
            canonical_list(&mut o.pod_fixed);
        }
    }
}
