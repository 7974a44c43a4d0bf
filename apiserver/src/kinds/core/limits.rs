//! Limit ranges and resource quotas: bounds on what a namespace may use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::kinds::quantity::canonical_list;
use crate::registry::strategy::{Context, Strategy};

/// Rules of limit ranges.
pub struct LimitRange;

/// Rules of resource quotas.
pub struct ResourceQuota;

type List = Option<BTreeMap<String, Quantity>>;

fn fill_from(to: &mut BTreeMap<String, Quantity>, from: &List) {
    for (k, q) in from.iter().flatten() {
        to.entry(k.clone()).or_insert_with(|| q.clone());
    }
}

impl Strategy for LimitRange {
    type Object = api::LimitRange;

    fn default(&self, l: &mut api::LimitRange) {
        for item in l.spec.iter_mut().flat_map(|s| s.limits.iter_mut()) {
            for list in [
                &mut item.max,
                &mut item.min,
                &mut item.default,
                &mut item.default_request,
                &mut item.max_limit_request_ratio,
            ] {
                canonical_list(list);
            }
            if item.type_ != "Container" {
                continue;
            }
            let mut default = item.default.take().unwrap_or_default();
            fill_from(&mut default, &item.max);
            let mut request = item.default_request.take().unwrap_or_default();
            let default = Some(default).filter(|d| !d.is_empty());
            fill_from(&mut request, &default);
            fill_from(&mut request, &item.min);
            item.default = default;
            item.default_request = Some(request).filter(|r| !r.is_empty());
        }
    }
}

impl Strategy for ResourceQuota {
    type Object = api::ResourceQuota;

    fn default(&self, q: &mut api::ResourceQuota) {
        canonical_list(&mut q.spec.get_or_insert_with(Default::default).hard);
        let status = q.status.get_or_insert_with(Default::default);
        canonical_list(&mut status.hard);
        canonical_list(&mut status.used);
    }

    fn prepare_create(&self, _cx: &mut Context, q: &mut api::ResourceQuota) {
        q.status = Some(Default::default());
    }

    fn prepare_update(&self, cx: &mut Context, q: &mut api::ResourceQuota, old: &api::ResourceQuota) {
        if cx.is_status() {
            q.spec = old.spec.clone();
        } else {
            q.status = old.status.clone();
        }
    }
}
