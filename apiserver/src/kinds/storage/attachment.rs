//! Volume attachments.

use k8s_openapi::api::storage::v1 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::volume_source;
use crate::kinds::semantic::keep_metadata;
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
            keep_metadata(&mut a.metadata, &old.metadata);
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
        if let Some(n) = &s.source.persistent_volume_name {
            let at = at.child("persistentVolumeName");
            errors.extend(invalid_each(&at, n, text::dns1123_subdomain(n)));
        }
        errors
    }

    fn validate_update(&self, _cx: &mut Context, a: &Self::Object, old: &Self::Object) -> ErrorList {
        let mut errors = ErrorList::new();
        if let Some(s) = &a.status {
            status(s, &Path::new("status"), &mut errors);
        }
        if a.spec != old.spec {
            errors.push(Error::invalid(&Path::new("spec"), &a.spec, "field is immutable"));
        }
        errors
    }
}

/// Bytes that what attaching told of a volume may have.
const METADATA_BYTES: usize = 256 * 1024;
/// Bytes that the message of an error may have.
const MESSAGE_BYTES: usize = 1024;

fn status(s: &api::VolumeAttachmentStatus, path: &Path, errors: &mut ErrorList) {
    let size: usize = s.attachment_metadata.iter().flatten().map(|(k, v)| k.len() + v.len()).sum();
    if size > METADATA_BYTES {
        errors.push(Error::too_long(&path.child("attachmentMetadata"), METADATA_BYTES as i64));
    }
    for (field, e) in [("attachError", &s.attach_error), ("detachError", &s.detach_error)] {
        let Some(e) = e else { continue };
        let path = path.child(field);
        if e.message.as_ref().is_some_and(|m| m.len() > MESSAGE_BYTES) {
            // The bound told is upstream's, which is the other one.
            errors.push(Error::too_long(&path.child("message"), METADATA_BYTES as i64));
        }
        if let Some(n) = e.error_code.filter(|n| *n < 0) {
            let why = text::between(0, i64::from(i32::MAX));
            errors.push(Error::invalid(&path.child("errorCode"), n, why));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_and_errors_are_judged() {
        let attachment = |name: &str, code: i32| {
            serde_json::from_value(serde_json::json!({"metadata": {"name": "a"},
                "spec": {"attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": name}},
                "status": {"attached": false, "attachError": {"errorCode": code}}}))
            .expect("an attachment")
        };
        let a: api::VolumeAttachment = attachment("p", 0);
        assert!(VolumeAttachment.validate(&mut Context::default(), &a).is_empty());
        assert_eq!(VolumeAttachment.validate(&mut Context::default(), &attachment("Bad_Name!", 0)).len(), 1);
        assert_eq!(VolumeAttachment.validate(&mut Context::default(), &attachment("", 0)).len(), 2);
        let told = VolumeAttachment.validate_update(&mut Context::default(), &attachment("p", -1), &a);
        assert!(told.aggregate().contains("status.attachError.errorCode"), "{}", told.aggregate());
    }
}
