//! Rules of autoscalers. Both versions are stored as the newer one, whose form the rules see.

use k8s_openapi::api::autoscaling::v2;

use super::defaults::default_spec;
use super::validation::{self, Options};
use crate::field::ErrorList;
use crate::registry::strategy::{Context, Strategy};

/// Rules of autoscalers.
pub struct HorizontalPodAutoscaler;

impl Strategy for HorizontalPodAutoscaler {
    type Object = v2::HorizontalPodAutoscaler;

    fn default(&self, h: &mut Self::Object) {
        default_spec(&mut h.spec);
        h.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, _cx: &mut Context, h: &mut Self::Object) {
        h.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, h: &mut Self::Object, old: &Self::Object) {
        if cx.is_status() {
            h.spec = old.spec.clone();
        } else {
            h.status = old.status.clone();
        }
    }

    fn validate(&self, cx: &mut Context, h: &Self::Object) -> ErrorList {
        if cx.updating { ErrorList::new() } else { validation::spec(&h.spec, &Options::of(&h.spec, None)) }
    }

    fn validate_update(&self, cx: &mut Context, h: &Self::Object, old: &Self::Object) -> ErrorList {
        if cx.is_status() {
            return h.status.as_ref().map(validation::status).unwrap_or_default();
        }
        validation::spec(&h.spec, &Options::of(&h.spec, Some(&old.spec)))
    }
}
