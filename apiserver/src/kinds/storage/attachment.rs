//! Volume attachments.

use k8s_openapi::api::storage::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::volume_source;
use crate::kinds::validate::{invalid_each, text};
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

    fn validate(&self, _cx: &mut Context, a: &api::VolumeAttachment) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec");
        let s = &a.spec;
        volume_source::driver_name(&s.attacher, &path.child("attacher"), &mut errors);
        let at = path.child("source");
        match (&s.source.inline_volume_spec, &s.source.persistent_volume_name) {
            (None, None) => {
                errors.push(Error::required(
                    &at,
                    "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ));
            }
            (Some(_), Some(_)) => errors.push(Error::forbidden(
                &at,
                "must specify exactly one of inlineVolumeSpec and persistentVolumeName",
            )),
            (None, Some(n)) if n.is_empty() => errors.push(Error::required(
                &at.child("persistentVolumeName"),
                "must specify non empty persistentVolumeName",
            )),
            _ => {}
        }
        errors.extend(invalid_each(
            &path.child("nodeName"),
            &s.node_name,
            text::dns1123_subdomain(&s.node_name),
        ));
        errors
    }

    fn validate_update(&self, _cx: &mut Context, a: &Self::Object, old: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        if a.spec != old.spec {
            errors.push(Error::invalid(&Path::new("spec"), &a.spec, "field is immutable"));
        }
        errors
    }
}
