//! API services: who serves which version of which group.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::kube_aggregator::pkg::apis::apiregistration::v1 as api;

use crate::registry::strategy::{Context, Strategy};

/// Rules of API services.
pub struct ApiService;

impl Strategy for ApiService {
    type Object = api::APIService;

    fn default(&self, s: &mut api::APIService) {
        if let Some(svc) = s.spec.as_mut().and_then(|s| s.service.as_mut()) {
            svc.port.get_or_insert(443);
        }
        s.status.get_or_insert_with(Default::default);
    }

    fn prepare_create(&self, cx: &mut Context, s: &mut api::APIService) {
        let local = s.spec.as_ref().is_none_or(|s| s.service.is_none());
        let now = cx.now();
        let now = jiff::Timestamp::from_second(now.as_second()).unwrap_or(now);
        s.status = Some(api::APIServiceStatus {
            conditions: local.then(|| {
                vec![api::APIServiceCondition {
                    type_: "Available".to_owned(),
                    status: "True".to_owned(),
                    reason: Some("Local".to_owned()),
                    message: Some("Local APIServices are always available".to_owned()),
                    last_transition_time: Some(Time(now)),
                }]
            }),
        });
    }

    fn prepare_update(&self, cx: &mut Context, s: &mut api::APIService, old: &api::APIService) {
        if cx.is_status() {
            s.spec = old.spec.clone();
        } else {
            s.status = old.status.clone();
        }
    }
}
