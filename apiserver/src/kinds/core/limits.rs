//! Limit ranges: bounds on what a container, a pod or a claim may ask for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::resources;
use crate::kinds::quantity::{Amount, amount, canonical_list};
use crate::kinds::validate::{invalid_each, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of limit ranges.
pub struct LimitRange;

type List = Option<BTreeMap<String, Quantity>>;

fn fill_from(to: &mut BTreeMap<String, Quantity>, from: &List) {
    for (k, q) in from.iter().flatten() {
        to.entry(k.clone()).or_insert_with(|| q.clone());
    }
}

impl Strategy for LimitRange {
    type Object = api::LimitRange;

    fn optional(&self) -> &'static [&'static str] {
        &["/spec/limits"]
    }

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

    fn prepare_create(&self, _cx: &mut Context, l: &mut api::LimitRange) {
        // The one kind that may come without any name.
        if l.metadata.name.as_deref().unwrap_or_default().is_empty() {
            l.metadata.name = Some(uuid::Uuid::new_v4().to_string());
        }
    }

    fn validate(&self, _cx: &mut Context, l: &api::LimitRange) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("spec").child("limits");
        let mut seen = std::collections::BTreeSet::new();
        for (i, item) in l.spec.iter().flat_map(|s| s.limits.iter()).enumerate() {
            let path = path.index(i);
            let (kind, at) = (&item.type_, path.child("type"));
            let wrong = text::qualified_name(kind);
            let known = ["Container", "Pod", "PersistentVolumeClaim"].contains(&kind.as_str());
            if wrong.is_empty() && !kind.contains('/') && !known {
                errors.push(Error::invalid(&at, kind, "must be a standard limit type or fully qualified"));
            }
            errors.extend(invalid_each(&at, kind, wrong));
            if !seen.insert(&item.type_) {
                errors.push(Error::duplicate(&path.child("type"), &item.type_));
            }
            bounds(item, &path, &mut errors);
        }
        errors
    }
}

/// Name of a resource that a limit of this type is about.
fn resource_name(kind: &str, name: &str, path: &Path, errors: &mut ErrorList) {
    match kind {
        "Pod" | "Container" => resources::container_resource_name(name, path, errors),
        _ => resources::resource_name(name, path, errors),
    }
}

/// Least, request, default and most follow each other.
fn bounds(item: &api::LimitRangeItem, path: &Path, errors: &mut ErrorList) {
    let blank = BTreeMap::new();
    let of = |l: &'_ List| l.clone().unwrap_or_default();
    let (min, max) = (of(&item.min), of(&item.max));
    let (mut default, mut request) = (of(&item.default), of(&item.default_request));
    let ratio = item.max_limit_request_ratio.as_ref().unwrap_or(&blank);
    let kind = item.type_.as_str();
    let names = |field: &str, list: &BTreeMap<String, Quantity>, errors: &mut ErrorList| {
        for name in list.keys() {
            resource_name(kind, name, &path.child(field).key(name), errors);
        }
    };
    names("max", &max, errors);
    names("min", &min, errors);
    if kind == "Pod" {
        for (field, list) in [("default", &mut default), ("defaultRequest", &mut request)] {
            if !list.is_empty() {
                errors
                    .push(Error::forbidden(&path.child(field), "may not be specified when `type` is 'Pod'"));
            }
            list.clear();
        }
    }
    names("default", &default, errors);
    names("defaultRequest", &request, errors);
    if kind == "PersistentVolumeClaim" && !min.contains_key("storage") && !max.contains_key("storage") {
        errors.push(Error::required(
            &path.child("limits"),
            "either minimum or maximum storage value is required, but neither was provided",
        ));
    }
    names("maxLimitRequestRatio", ratio, errors);
    let all: std::collections::BTreeSet<&String> =
        [&min, &max, &default, &request, ratio].into_iter().flat_map(BTreeMap::keys).collect();
    let least = ("min value", &min);
    let most = ("max value", &max);
    let asked = ("default request value", &request);
    for name in all {
        // What must not be above what, and where that is told, with which value.
        for ((low_name, low), (high_name, high), field, shown) in [
            (least, most, "min", &min),
            (least, asked, "defaultRequest", &request),
            (asked, most, "defaultRequest", &request),
            (asked, ("default limit value", &default), "defaultRequest", &request),
            (least, ("default value", &default), "default", &min),
            (("default value", &default), most, "default", &max),
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
        if let Some(r) = ratio.get(name) {
            ratio_bound(
                r,
                (min.get(name), max.get(name)),
                &path.child("maxLimitRequestRatio").key(name),
                errors,
            );
        }
        if let (Some(d), Some(r)) = (default.get(name), request.get(name))
            && !resources::can_overcommit(name)
            && amount(d) != amount(r)
        {
            let why = format!("default value {} must equal to defaultRequest value {} in {name}", d.0, r.0);
            errors.push(Error::invalid(&path.child("defaultRequest").key(name), &r.0, why));
        }
    }
}

/// A limit may be this many times the request: at least once, and no more than the bounds allow anyway.
fn ratio_bound(
    ratio: &Quantity,
    (min, max): (Option<&Quantity>, Option<&Quantity>),
    path: &Path,
    errors: &mut ErrorList,
) {
    let r = amount(ratio);
    if r.milli() < 1000 {
        errors.push(Error::invalid(path, &ratio.0, format!("ratio {} is less than 1", ratio.0)));
    }
    let (Some(min), Some(max)) = (min, max) else { return };
    let (min, max) = (amount(min), amount(max));
    // Thousandths, unless they would not fit.
    let fits = |a: Amount| a.value() < i64::MAX / 1000;
    let (given, most) = if fits(r) && fits(min) && fits(max) {
        (r.milli() as f64 / 1000.0, max.milli() as f64 / min.milli() as f64)
    } else {
        (r.value() as f64, max.value() as f64 / min.value() as f64)
    };
    if given > most {
        let why = format!("ratio {} is greater than max/min = {most:.6}", ratio.0);
        errors.push(Error::invalid(path, &ratio.0, why));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(item: serde_json::Value) -> String {
        let l = serde_json::json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}});
        let l = serde_json::from_value(l).expect("a limit range");
        LimitRange.validate(&mut Context::default(), &l).aggregate()
    }

    #[test]
    fn types_and_resources_are_known_or_qualified() {
        assert_eq!(told(serde_json::json!({"type": "a.b/c", "max": {"x.y/z": "1"}})), "[]");
        assert!(told(serde_json::json!({"type": "Other"})).contains("must be a standard limit type"));
        let wrong = told(serde_json::json!({"type": "Container", "max": {"storage": "1"}}));
        assert!(wrong.contains("must be a standard resource for containers"), "{wrong}");
    }

    #[test]
    fn ratios_fit_the_bounds() {
        let ratio = |r: &str| {
            told(serde_json::json!({"type": "Container", "min": {"cpu": "1"}, "max": {"cpu": "2"},
                "maxLimitRequestRatio": {"cpu": r}}))
        };
        assert_eq!(ratio("2"), "[]");
        assert!(ratio("500m").contains("ratio 500m is less than 1"));
        assert!(ratio("3").contains("ratio 3 is greater than max/min = 2.000000"));
    }
}
