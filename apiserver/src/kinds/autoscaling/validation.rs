//! What may be wrong with an autoscaler, told in terms of the newer version.

use k8s_openapi::api::autoscaling::v2 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, text as rules};

const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// Reference to what is scaled or measured.
fn reference(kind: &str, name: &str, version: &str, path: &Path, errors: &mut ErrorList) {
    for (field, value) in [("kind", kind), ("name", name)] {
        let at = path.child(field);
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            errors.extend(invalid_each(&at, value, rules::path_segment(value, false)));
        }
    }
    let at = path.child("apiVersion");
    if version.matches('/').count() > 1 {
        let why = format!("unexpected GroupVersion string: {version}");
        errors.push(Error::invalid(&at, version, why));
    } else if !(version.contains('/') || (kind == "ReplicationController" && version == "v1")) {
        errors.push(Error::invalid(&at, version, "apiVersion must specify API group"));
    }
}

/// Spec of the newer version.
pub fn spec(s: &api::HorizontalPodAutoscalerSpec) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let min = s.min_replicas.unwrap_or(1);
    if min < 1 {
        errors.push(Error::invalid(&path.child("minReplicas"), min, "must be greater than or equal to 1"));
    }
    let at = path.child("maxReplicas");
    match s.max_replicas {
        0 => errors.push(Error::required(&at, "must be set and greater than 0")),
        n if n < 0 => errors.push(Error::invalid(&at, n, "must be greater than or equal to 1")),
        _ => {}
    }
    if s.min_replicas.is_some() && s.max_replicas < min {
        errors.push(Error::invalid(&at, s.max_replicas, "must be greater than or equal to `minReplicas`"));
    }
    let r = &s.scale_target_ref;
    reference(&r.kind, &r.name, text(&r.api_version), &path.child("scaleTargetRef"), &mut errors);
    for (i, m) in items(&s.metrics).iter().enumerate() {
        metric(m, &path.child("metrics").index(i), &mut errors);
    }
    let external = |m: &api::MetricSpec| m.object.is_some() || m.external.is_some();
    if s.min_replicas == Some(0) && !items(&s.metrics).iter().any(external) {
        errors.push(Error::forbidden(
            &path.child("metrics"),
            "must specify at least one Object or External metric to support scaling to zero replicas",
        ));
    }
    if let Some(b) = &s.behavior {
        let at = path.child("behavior");
        for (field, r) in [("scaleUp", &b.scale_up), ("scaleDown", &b.scale_down)] {
            if let Some(r) = r {
                scaling(r, &at.child(field), &mut errors);
            }
        }
    }
    errors
}

fn metric(m: &api::MetricSpec, path: &Path, errors: &mut ErrorList) {
    let kind = path.child("type");
    if m.type_.is_empty() {
        errors.push(Error::required(&kind, "must specify a metric source type"));
    }
    if !TYPES.contains(&m.type_.as_str()) {
        errors.push(Error::not_supported(&kind, &m.type_, &TYPES));
    }
    let mut present: Vec<&str> = Vec::new();
    let mut first = |name: &'static str, given: bool| {
        if given {
            present.push(name);
        }
        given && present.len() == 1
    };
    if let (true, Some(o)) = (first("object", m.object.is_some()), &m.object) {
        let at = path.child("object");
        let r = &o.described_object;
        reference(&r.kind, &r.name, text(&r.api_version), &at.child("describedObject"), errors);
        identifier(&o.metric, &at.child("metric"), errors);
        value_target(&o.target, &at.child("target"), errors);
    }
    if let (true, Some(e)) = (first("external", m.external.is_some()), &m.external) {
        let at = path.child("external");
        identifier(&e.metric, &at.child("metric"), errors);
        value_target(&e.target, &at.child("target"), errors);
    }
    if let (true, Some(p)) = (first("pods", m.pods.is_some()), &m.pods) {
        let at = path.child("pods");
        identifier(&p.metric, &at.child("metric"), errors);
        target(&p.target, &at.child("target"), errors);
        if p.target.average_value.is_none() {
            errors.push(Error::required(
                &at.child("target").child("averageValue"),
                "must specify a positive target averageValue",
            ));
        }
    }
    if let (true, Some(r)) = (first("resource", m.resource.is_some()), &m.resource) {
        resource(&r.name, &r.target, &path.child("resource"), errors);
    }
    if let (true, Some(r)) =
        (first("containerResource", m.container_resource.is_some()), &m.container_resource)
    {
        let at = path.child("containerResource");
        if r.container.is_empty() {
            errors.push(Error::required(&at.child("container"), "must specify a container"));
        }
        resource(&r.name, &r.target, &at, errors);
    }
    let expected = match m.type_.as_str() {
        "Object" => "object",
        "Pods" => "pods",
        "Resource" => "resource",
        "External" => "external",
        "ContainerResource" => "containerResource",
        _ => {
            errors.push(Error::not_supported(&kind, &m.type_, &TYPES));
            ""
        }
    };
    if !expected.is_empty() && !present.contains(&expected) {
        errors.push(Error::required(
            &path.child(expected),
            "must populate information for the given metric source",
        ));
    }
    if present.len() != 1 {
        for p in present.into_iter().filter(|p| *p != expected) {
            errors.push(Error::forbidden(&path.child(p), "must populate the given metric source only"));
        }
    }
}

fn identifier(m: &api::MetricIdentifier, path: &Path, errors: &mut ErrorList) {
    let at = path.child("name");
    if m.name.is_empty() {
        errors.push(Error::required(&at, "must specify a metric name"));
    } else {
        errors.extend(invalid_each(&at, &m.name, rules::path_segment(&m.name, false)));
    }
}

fn target(t: &api::MetricTarget, path: &Path, errors: &mut ErrorList) {
    let at = path.child("type");
    if t.type_.is_empty() {
        errors.push(Error::required(&at, "must specify a metric target type"));
    }
    if !matches!(t.type_.as_str(), "Utilization" | "Value" | "AverageValue") {
        errors.push(Error::invalid(&at, &t.type_, "must be either Utilization, Value, or AverageValue"));
    }
    for (field, q) in [("value", &t.value), ("averageValue", &t.average_value)] {
        if let Some(q) = q {
            let a = amount(q);
            if a.is_negative() || a.is_zero() {
                errors.push(Error::invalid(&path.child(field), q, "must be positive"));
            }
        }
    }
    if let Some(n) = t.average_utilization.filter(|n| *n < 1) {
        errors.push(Error::invalid(&path.child("averageUtilization"), n, "must be greater than 0"));
    }
}

fn value_target(t: &api::MetricTarget, path: &Path, errors: &mut ErrorList) {
    target(t, path, errors);
    match (&t.value, &t.average_value) {
        (None, None) => errors.push(Error::required(
            &path.child("averageValue"),
            "must set either a target value for metric or a per-pod target",
        )),
        (Some(_), Some(_)) => errors.push(Error::forbidden(
            &path.child("value"),
            "may not set both a target value for metric and a per-pod target",
        )),
        _ => {}
    }
}

fn resource(name: &str, t: &api::MetricTarget, path: &Path, errors: &mut ErrorList) {
    if name.is_empty() {
        errors.push(Error::required(&path.child("name"), "must specify a resource name"));
    }
    let at = path.child("target");
    target(t, &at, errors);
    match (t.average_utilization, &t.average_value) {
        (None, None) => errors.push(Error::required(
            &at.child("averageUtilization"),
            "must set either a target raw value or a target utilization",
        )),
        (Some(_), Some(_)) => errors.push(Error::forbidden(
            &at.child("averageValue"),
            "may not set both a target raw value and a target utilization",
        )),
        _ => {}
    }
}

fn scaling(r: &api::HPAScalingRules, path: &Path, errors: &mut ErrorList) {
    let at = path.child("stabilizationWindowSeconds");
    match r.stabilization_window_seconds {
        Some(n) if n < 0 => {
            errors.push(Error::invalid(&at, n, "must be greater than or equal to zero"));
        }
        Some(n) if n > 3600 => {
            errors.push(Error::invalid(&at, n, "must be less than or equal to 3600"));
        }
        _ => {}
    }
    crate::kinds::podspec::validate::one_of_if_given(
        &r.select_policy,
        &["Disabled", "Max", "Min"],
        &path.child("selectPolicy"),
        errors,
    );
    let at = path.child("policies");
    if items(&r.policies).is_empty() {
        errors.push(Error::required(&at, "must specify at least one Policy"));
    }
    for (i, p) in items(&r.policies).iter().enumerate() {
        let at = at.index(i);
        if !["Pods", "Percent"].contains(&p.type_.as_str()) {
            errors.push(Error::not_supported(&at.child("type"), &p.type_, &["Percent", "Pods"]));
        }
        for (field, n) in [("value", p.value), ("periodSeconds", p.period_seconds)] {
            if n <= 0 {
                errors.push(Error::invalid(&at.child(field), n, "must be greater than zero"));
            }
        }
        if p.period_seconds > 1800 {
            errors.push(Error::invalid(
                &at.child("periodSeconds"),
                p.period_seconds,
                "must be less than or equal to 1800",
            ));
        }
    }
}
