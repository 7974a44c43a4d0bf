//! Managed fields around writes: who set which field.

use serde_json::Value;

use super::Registry;
use super::resource::Resource;
use super::write::WriteCx;

impl Registry {
    /// Records the fields of a new object.
    pub(super) fn managed_on_create(&self, _r: &Resource, _cx: &WriteCx<'_>, _o: &mut Value) {}

    /// Records the fields that an update changed.
    pub(super) fn managed_on_update(&self, _r: &Resource, _cx: &WriteCx<'_>, _old: &Value, _o: &mut Value) {}
}

/// Records the fields of an object that is answered and not stored.
pub fn on_virtual(_r: &Resource, _manager: &str, _o: &mut Value) {}
