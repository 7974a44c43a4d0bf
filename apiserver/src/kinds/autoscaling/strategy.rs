//! Rules of autoscalers. The two versions have different fields, so the rules are picked by the object's own.

use k8s_openapi::api::autoscaling::{v1, v2};
use serde_json::Value;

use super::{defaults::default_spec, validation};
use crate::field::ErrorList;
use crate::kinds::adapter::Erased;
use crate::registry::strategy::{Context, DynStrategy, Strategy};

/// Rules of `autoscaling/v2`.
pub struct V2;

/// Rules of `autoscaling/v1`.
pub struct V1;

impl Strategy for V2 {
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

    fn validate(&self, _cx: &mut Context, h: &Self::Object) -> ErrorList {
        validation::spec(&h.spec)
    }
}

impl Strategy for V1 {
    type Object = v1::HorizontalPodAutoscaler;

    fn default(&self, h: &mut Self::Object) {
        h.spec.min_replicas.get_or_insert(1);
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

    fn validate(&self, _cx: &mut Context, h: &Self::Object) -> ErrorList {
        validation::spec(&as_newer(&h.spec))
    }
}

/// The older spec in terms of the newer version, whose checks it shares.
fn as_newer(s: &v1::HorizontalPodAutoscalerSpec) -> v2::HorizontalPodAutoscalerSpec {
    let cpu = |percent: i32| v2::MetricSpec {
        type_: "Resource".to_owned(),
        resource: Some(v2::ResourceMetricSource {
            name: "cpu".to_owned(),
            target: v2::MetricTarget {
                type_: "Utilization".to_owned(),
                average_utilization: Some(percent),
                ..Default::default()
            },
        }),
        ..Default::default()
    };
    v2::HorizontalPodAutoscalerSpec {
        min_replicas: s.min_replicas,
        max_replicas: s.max_replicas,
        scale_target_ref: v2::CrossVersionObjectReference {
            api_version: s.scale_target_ref.api_version.clone(),
            kind: s.scale_target_ref.kind.clone(),
            name: s.scale_target_ref.name.clone(),
        },
        metrics: s.target_cpu_utilization_percentage.map(|n| vec![cpu(n)]),
        behavior: None,
    }
}

/// Either version.
pub struct ByVersion;

fn of(object: &Value) -> &'static dyn DynStrategy {
    if object["apiVersion"] == "autoscaling/v1" { &Erased(V1) } else { &Erased(V2) }
}

type Outcome<T> = Result<T, serde_json::Error>;

impl DynStrategy for ByVersion {
    fn default(&self, object: &mut Value) -> Outcome<()> {
        of(object).default(object)
    }
    fn prepare_create(&self, cx: &mut Context, object: &mut Value) -> Outcome<()> {
        of(object).prepare_create(cx, object)
    }
    fn prepare_update(&self, cx: &mut Context, object: &mut Value, old: &Value) -> Outcome<()> {
        of(object).prepare_update(cx, object, old)
    }
    fn validate(&self, cx: &mut Context, object: &Value) -> Outcome<ErrorList> {
        of(object).validate(cx, object)
    }
    fn validate_update(&self, cx: &mut Context, object: &Value, old: &Value) -> Outcome<ErrorList> {
        of(object).validate_update(cx, object, old)
    }
}
