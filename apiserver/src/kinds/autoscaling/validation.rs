//! What may be wrong with an autoscaler, told in terms of the newer version.

use k8s_openapi::api::autoscaling::v2 as api;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::validate::resources;
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, numbers, text as rules};

const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];

/// What the API version of a reference may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Versions {
    /// One of a named group.
    Grouped,
    /// One of the core group, too.
    Core,
    /// Anything: the stored object has it already.
    Any,
}

impl Versions {
    /// What is wrong with `version`.
    fn judge(self, version: &str) -> Option<String> {
        match self {
            Self::Any => None,
            _ if version.matches('/').count() > 1 => {
                Some(format!("unexpected GroupVersion string: {version}"))
            }
            Self::Core => None,
            Self::Grouped => {
                let grouped = version.split_once('/').is_some_and(|(group, _)| !group.is_empty());
                (!grouped).then(|| "apiVersion must specify API group".to_owned())
            }
        }
    }
}

/// What is asked of an autoscaler. An update asks for less where the stored one lacks it already.
#[derive(Debug)]
pub struct Options {
    least_min_replicas: i32,
    scaled: Versions,
    measured: Versions,
}

impl Options {
    /// For a new spec, or for one that takes the place of `old`.
    pub fn of(
        new: &api::HorizontalPodAutoscalerSpec,
        old: Option<&api::HorizontalPodAutoscalerSpec>,
    ) -> Self {
        let target = |s: &api::HorizontalPodAutoscalerSpec| {
            (text(&s.scale_target_ref.api_version).to_owned(), s.scale_target_ref.kind.clone())
        };
        let wrong = |m: &api::MetricSpec| {
            let object = m.object.as_ref().filter(|_| m.type_ == "Object");
            object.is_some_and(|o| Versions::Core.judge(text(&o.described_object.api_version)).is_some())
        };
        Self {
            least_min_replicas: if old.is_some_and(|o| o.min_replicas == Some(0)) { 0 } else { 1 },
            scaled: match old {
                Some(o) if target(o) == target(new) => Versions::Any,
                _ if new.scale_target_ref.kind == "ReplicationController" => Versions::Core,
                _ => Versions::Grouped,
            },
            measured: match old {
                Some(o) if items(&o.metrics).iter().any(wrong) => Versions::Any,
                _ => Versions::Core,
            },
        }
    }
}

/// Reference to what is scaled or measured.
fn reference(r: &api::CrossVersionObjectReference, versions: Versions, path: &Path, errors: &mut ErrorList) {
    let (kind, name) = (r.kind.as_str(), r.name.as_str());
    for (field, value) in [("kind", kind), ("name", name)] {
        let at = path.child(field);
        if value.is_empty() {
            errors.push(Error::required(&at, ""));
        } else {
            errors.extend(invalid_each(&at, value, rules::path_segment(value, false)));
        }
    }
    let version = text(&r.api_version);
    if let Some(why) = versions.judge(version) {
        errors.push(Error::invalid(&path.child("apiVersion"), version, why));
    }
}

/// Spec of the newer version.
pub fn spec(s: &api::HorizontalPodAutoscalerSpec, options: &Options) -> ErrorList {
    let mut errors = ErrorList::new();
    let path = Path::new("spec");
    let min = s.min_replicas.unwrap_or(1);
    let least = options.least_min_replicas;
    if min < least {
        let why = format!("must be greater than or equal to {least}");
        errors.push(Error::invalid(&path.child("minReplicas"), min, why));
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
    reference(&s.scale_target_ref, options.scaled, &path.child("scaleTargetRef"), &mut errors);
    for (i, m) in items(&s.metrics).iter().enumerate() {
        metric(m, options, &path.child("metrics").index(i), &mut errors);
    }
    let external = |m: &api::MetricSpec| matches!(m.type_.as_str(), "Object" | "External");
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

fn metric(m: &api::MetricSpec, options: &Options, path: &Path, errors: &mut ErrorList) {
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
        reference(&o.described_object, options.measured, &at.child("describedObject"), errors);
        identifier(&o.metric, &at.child("metric"), errors);
        let at = at.child("target");
        target(&o.target, &at, errors);
        if o.target.value.is_none() && o.target.average_value.is_none() {
            let why = "must set either a target value or averageValue";
            errors.push(Error::required(&at.child("averageValue"), why));
        }
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
        let at = path.child("resource");
        if r.name.is_empty() {
            errors.push(Error::required(&at.child("name"), "must specify a resource name"));
        }
        resource(&r.target, &at.child("target"), errors);
    }
    if let (true, Some(r)) =
        (first("containerResource", m.container_resource.is_some()), &m.container_resource)
    {
        let at = path.child("containerResource");
        if r.name.is_empty() {
            errors.push(Error::required(&at.child("name"), "must specify a resource name"));
        } else {
            resources::container_resource_name(&r.name, &at.child("name"), errors);
        }
        let container = at.child("container");
        if r.container.is_empty() {
            errors.push(Error::required(&container, "must specify a container"));
        } else {
            errors.extend(invalid_each(&container, &r.container, rules::dns1123_label(&r.container)));
        }
        resource(&r.target, &at.child("target"), errors);
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
        // Upstream tells them in no certain order.
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

fn resource(t: &api::MetricTarget, at: &Path, errors: &mut ErrorList) {
    target(t, at, errors);
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
    if let Some(t) = r.tolerance.as_ref().filter(|t| amount(t).is_negative()) {
        errors.push(Error::invalid(&path.child("tolerance"), t, "must be greater than or equal to 0"));
    }
}

/// Counts of a status are not negative.
pub fn status(s: &api::HorizontalPodAutoscalerStatus) -> ErrorList {
    let path = Path::new("status");
    let mut errors = numbers::non_negative_opt(s.current_replicas, &path.child("currentReplicas"));
    errors.extend(numbers::non_negative(s.desired_replicas, &path.child("desiredReplicas")));
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scaler(target: &str, measured: &str) -> api::HorizontalPodAutoscalerSpec {
        serde_json::from_value(serde_json::json!({"maxReplicas": 2,
            "scaleTargetRef": {"apiVersion": target, "kind": "Deployment", "name": "d"},
            "metrics": [{"type": "Object", "object": {
                "describedObject": {"apiVersion": measured, "kind": "Service", "name": "s"},
                "metric": {"name": "m"}, "target": {"type": "Value", "value": "1"}}}]}))
        .expect("a spec")
    }

    fn told(
        new: &api::HorizontalPodAutoscalerSpec,
        old: Option<&api::HorizontalPodAutoscalerSpec>,
    ) -> String {
        spec(new, &Options::of(new, old)).aggregate()
    }

    #[test]
    fn what_is_scaled_has_a_group_what_is_measured_need_not() {
        let fine = scaler("apps/v1", "v1");
        assert_eq!(told(&fine, None), "[]");
        let groupless = scaler("v1", "v1");
        assert!(told(&groupless, None).contains("apiVersion must specify API group"));
        // What is stored may stay.
        assert_eq!(told(&groupless, Some(&groupless)), "[]");
        assert!(told(&groupless, Some(&fine)).contains("apiVersion must specify API group"));
    }

    #[test]
    fn a_metric_of_an_object_takes_both_values() {
        let mut s = scaler("apps/v1", "v1");
        let object = s.metrics.as_mut().and_then(|m| m[0].object.as_mut()).expect("an object metric");
        object.target.average_value = object.target.value.clone();
        assert_eq!(told(&s, None), "[]");
        s.min_replicas = Some(0);
        assert!(told(&s, None).contains("must be greater than or equal to 1"));
        assert_eq!(told(&s, Some(&s)), "[]");
    }
}
