//! Limit ranges and resource quotas: bounds on what a namespace may use.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::resources;
use crate::kinds::quantity::{amount, canonical_list};
use crate::kinds::validate::{immutable, invalid_each, text};
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

    fn validate(&self, _cx: &mut Context, l: &api::LimitRange) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("limits");
        let mut seen = std::collections::BTreeSet::new();
        for (i, item) in l.spec.iter().flat_map(|s| s.limits.iter()).enumerate() {
            let path = path.index(i);
            if !["Container", "Pod", "PersistentVolumeClaim"].contains(&item.type_.as_str())
                && !text::qualified_name(&item.type_).is_empty()
            {
                let wrong = text::qualified_name(&item.type_);
                errors.extend(invalid_each(&path.child("type"), &item.type_, wrong));
            }
            if !seen.insert(&item.type_) {
                errors.push(Error::duplicate(&path.child("type"), &item.type_));
            }
            bounds(item, &path, &mut errors);
        }
        errors
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

    fn validate(&self, _cx: &mut Context, q: &api::ResourceQuota) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(s) = &q.spec else { return errors };
        let path = Path::new("spec");
        hard(s.hard.as_ref(), &path.child("hard"), &mut errors);
        let mut seen = std::collections::BTreeSet::new();
        for scope in s.scopes.iter().flatten() {
            let at = path.child("scopes");
            if !SCOPES.contains(&scope.as_str()) {
                errors.push(Error::invalid(&at, &s.scopes, "unsupported scope"));
            }
            if !seen.insert(scope) {
                errors.push(Error::duplicate(&at, scope));
            }
        }
        errors
    }

    fn validate_update(
        &self,
        cx: &mut Context,
        q: &api::ResourceQuota,
        old: &api::ResourceQuota,
    ) -> ErrorList {
        let scopes = |q: &api::ResourceQuota| q.spec.as_ref().and_then(|s| s.scopes.clone());
        if cx.is_status() {
            let mut errors = ErrorList::new();
            let path = Path::new("status");
            if let Some(s) = &q.status {
                hard(s.hard.as_ref(), &path.child("hard"), &mut errors);
                hard(s.used.as_ref(), &path.child("used"), &mut errors);
            }
            return errors;
        }
        immutable(&scopes(q), &scopes(old), &Path::new("spec").child("scopes"))
    }
}

/// What a quota may be narrowed to.
const SCOPES: [&str; 7] = [
    "BestEffort",
    "CrossNamespacePodAffinity",
    "NotBestEffort",
    "NotTerminating",
    "PriorityClass",
    "Terminating",
    "VolumeAttributesClass",
];

fn hard(list: Option<&BTreeMap<String, Quantity>>, path: &Path, errors: &mut ErrorList) {
    for (name, q) in list.into_iter().flatten() {
        let path = path.key(name);
        errors.extend(invalid_each(&path, name, text::qualified_name(name)));
        if !name.contains('/') && !resources::is_standard(name) {
            for why in [
                "must be a standard resource type or fully qualified",
                "must be a standard resource for quota",
            ] {
                errors.push(Error::invalid(&path, name, why));
            }
        }
        resources::quantity(name, q, &path, errors);
    }
}

/// Least, request, default and most follow each other.
fn bounds(item: &api::LimitRangeItem, path: &Path, errors: &mut ErrorList) {
    let blank = BTreeMap::new();
    let of = |l: &'_ List| l.clone().unwrap_or_default();
    let (min, max) = (of(&item.min), of(&item.max));
    let (default, request) = (of(&item.default), of(&item.default_request));
    let ratio = item.max_limit_request_ratio.as_ref().unwrap_or(&blank);
    if item.type_ == "Pod" {
        for (field, list) in [("default", &default), ("defaultRequest", &request)] {
            if !list.is_empty() {
                errors
                    .push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
        }
    }
    if item.type_ == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        errors.push(Error::required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    let names: std::collections::BTreeSet<&String> =
        [&min, &max, &default, &request, ratio].into_iter().flat_map(BTreeMap::keys).collect();
    let least = ("min value", &min);
    let most = ("max value", &max);
    let asked = ("default request value", &request);
    for name in names {
        // What must not be above what, and where that is told.
        for ((low_name, low), (high_name, high), field, shown) in [
            (least, most, "min", &min),
            (least, asked, "defaultRequest", &request),
            (asked, most, "defaultRequest", &request),
            (asked, ("default limit value", &default), "defaultRequest", &request),
            (least, ("default value", &default), "default", &min),
            (("default value", &default), most, "default", &default),
        ] {
            if let (Some(l), Some(h), Some(v)) = (low.get(name), high.get(name), shown.get(name))
                && amount(l) > amount(h)
            {
                errors.push(Error::invalid(
                    &path.child(field).key(name),
                    &v.0,
                    format!("{low_name} {} is greater than {high_name} {}", l.0, h.0),
                ));
            }
        }
    }
}
