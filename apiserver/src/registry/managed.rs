//! Managed fields around writes: who set which field. The bookkeeping itself is [`crate::patch`]'s; here it gets
//! the object in the version of the request, since field names differ between versions.

use proto::schema::TypeDef;
use serde_json::Value;

use super::resource::Resource;
use super::write::WriteCx;
use super::{Registry, codec, object};
use crate::patch::apply::{self, Writer};
use crate::patch::fields::Set;
use crate::patch::reset_fields;
use crate::status::ApiResult;

/// The fields that a write to this endpoint leaves alone.
pub fn reset(r: &Resource, subresource: &str) -> Set {
    if r.custom.is_some() && subresource == "status" {
        return Set::of(&["spec", "metadata"]);
    }
    reset_fields(r.group, r.resource, subresource, r.subresource("status").is_some())
}

fn track(r: &Resource, cx: &WriteCx<'_>, live: Option<&Value>, o: &mut Value) {
    let reset = reset(r, cx.subresource);
    let (now, api_version) = (object::now(), r.api_version());
    let writer = Writer {
        def: Some(&r.schema),
        manager: cx.manager,
        api_version: &api_version,
        subresource: cx.subresource,
        reset: &reset,
        now: &now,
    };
    apply::track_update(live, o, &writer);
}

impl Registry {
    /// Records the fields of a new object.
    pub(super) fn managed_on_create(&self, r: &Resource, cx: &WriteCx<'_>, o: &mut Value) -> ApiResult<()> {
        self.managed(r, cx, None, o)
    }

    /// Records the fields that an update changed.
    pub(super) fn managed_on_update(
        &self,
        r: &Resource,
        cx: &WriteCx<'_>,
        old: &Value,
        o: &mut Value,
    ) -> ApiResult<()> {
        self.managed(r, cx, Some(old), o)
    }

    fn managed(&self, r: &Resource, cx: &WriteCx<'_>, old: Option<&Value>, o: &mut Value) -> ApiResult<()> {
        if cx.applied {
            return Ok(());
        }
        if r.is_hub_version() {
            track(r, cx, old, o);
            return Ok(());
        }
        let mut shown = o.clone();
        codec::from_storage(r, &mut shown)?;
        let before = match old {
            Some(old) => {
                let mut v = old.clone();
                codec::from_storage(r, &mut v)?;
                Some(v)
            }
            None => None,
        };
        track(r, cx, before.as_ref(), &mut shown);
        object::copy_meta(o, &shown, "managedFields");
        Ok(())
    }
}

/// Records the fields of an object that is answered and not stored.
pub fn on_virtual(r: &Resource, manager: &str, o: &mut Value) {
    on_view(&r.schema, &r.api_version(), ("", manager), None, o);
}

/// Records what a write changed of the kind that a subresource takes: a view of an object, which is `live`, or what is
/// only answered.
pub fn on_view(
    def: &TypeDef,
    api_version: &str,
    (subresource, manager): (&str, &str),
    live: Option<&Value>,
    o: &mut Value,
) {
    let reset = Set::of(&[]);
    let now = object::now();
    let writer = Writer { def: Some(def), manager, api_version, subresource, reset: &reset, now: &now };
    apply::track_update(live, o, &writer);
}
