//! Volume attachments.

use k8s_openapi::api::storage::v1 as api;

use crate::registry::strategy::{Context, Strategy};

/// Rules of volume attachments.
pub struct VolumeAttachment;

impl Strategy for VolumeAttachment {
    type Object = api::VolumeAttachment;

    fn default(&self, a: &mut api::VolumeAttachment) {
        a.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, a: &mut api::VolumeAttachment) {
        a.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, a: &mut api::VolumeAttachment, old: &api::VolumeAttachment) {
        if cx.is_status() {
            a.spec = old.spec.clone();
        } else {
            a.status = old.status.clone();
        }
    }
}
