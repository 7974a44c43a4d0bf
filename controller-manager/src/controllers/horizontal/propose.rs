//! One metric of an autoscaler: asks for it, and says how many replicas it wants.

use std::sync::Arc;

use component_base::quantity::{Amount, amount};
use jiff::Timestamp;
use k8s_openapi::api::autoscaling::v2::{
    ContainerResourceMetricStatus, CrossVersionObjectReference, ExternalMetricStatus, HPAScalingRules,
    HorizontalPodAutoscalerBehavior, MetricIdentifier, MetricSpec, MetricStatus, MetricTarget,
    MetricValueStatus, ObjectMetricStatus, PodsMetricStatus, ResourceMetricStatus,
};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

use super::Settings;
use super::metrics::Metrics;
use super::usage::{Frame, Target, Tolerances};
use crate::util::discovery::{Cached, Kind};
use crate::util::errors;
use crate::util::selector::{Selector, shown};

/// What a metric asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct Proposed {
    pub replicas: i32,
    /// Its name in events and conditions.
    pub metric: String,
    pub status: MetricStatus,
}

/// Why a metric asks for nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Of the event and the condition.
    pub reason: &'static str,
    /// What went wrong with the metric.
    pub detail: String,
    /// The same with the kind of metric.
    pub error: String,
}

/// The target's replicas, wanted and there.
#[derive(Debug, Clone, Copy)]
pub struct Replicas {
    pub spec: i32,
    pub status: i32,
}

/// Where metrics come from, and what is known of the target.
pub struct Ask<'a> {
    pub metrics: &'a Metrics,
    pub kinds: &'a Cached,
    pub settings: Settings,
    pub behavior: Option<&'a HorizontalPodAutoscalerBehavior>,
    pub namespace: &'a str,
    /// Selects the target's pods.
    pub selector: &'a str,
    pub pods: &'a [Arc<Pod>],
    pub replicas: Replicas,
    pub now: Timestamp,
}

fn milli(q: &Quantity) -> i64 {
    amount(q).milli()
}

fn quantity(milli: i64) -> Quantity {
    Quantity(Amount::from_milli(milli).to_string())
}

/// A value of a resource, in the form that suits it.
fn of_resource(resource: &str, milli: i64) -> Quantity {
    let value = Amount::from_milli(milli);
    Quantity(if resource == "memory" { value.in_binary() } else { value }.to_string())
}

/// A selector of metrics as text.
fn text(selector: Option<&LabelSelector>) -> Result<String, String> {
    let Some(selector) = selector else { return Ok(String::new()) };
    Selector::new(selector).map(|s| s.to_string()).map_err(|e| e.to_string())
}

impl Ask<'_> {
    fn frame<'b>(&'b self, resource: &'b str, current: i32) -> Frame<'b> {
        let of = |rules: Option<&HPAScalingRules>| {
            rules
                .and_then(|r| r.tolerance.as_ref())
                .map_or(self.settings.tolerance, |t| milli(t) as f64 / 1000.0)
        };
        Frame {
            pods: self.pods,
            resource,
            cpu_initialization: self.settings.cpu_initialization,
            readiness_delay: self.settings.readiness_delay,
            tolerances: Tolerances {
                down: of(self.behavior.and_then(|b| b.scale_down.as_ref())),
                up: of(self.behavior.and_then(|b| b.scale_up.as_ref())),
            },
            current,
            now: self.now,
        }
    }

    /// Asks for a metric.
    ///
    /// # Errors
    /// It is not there, or nothing can be calculated from it.
    pub async fn metric(&self, spec: &MetricSpec) -> Result<Proposed, Failure> {
        let fail = |reason: &'static str, what: &str| {
            let what = what.to_owned();
            move |detail: String| Failure {
                reason,
                error: format!("failed to get {what} value: {detail}"),
                detail,
            }
        };
        if let Some(source) = spec.resource.as_ref().filter(|_| spec.type_ == "Resource") {
            let (replicas, metric, current) = self
                .resource(&source.name, "", &source.target)
                .await
                .map_err(fail("FailedGetResourceMetric", &format!("{} resource metric", source.name)))?;
            let resource = Some(ResourceMetricStatus { name: source.name.clone(), current });
            let status = MetricStatus { resource, type_: spec.type_.clone(), ..MetricStatus::default() };
            return Ok(Proposed { replicas, metric, status });
        }
        if let Some(source) = spec.container_resource.as_ref().filter(|_| spec.type_ == "ContainerResource") {
            let what = format!("{} container metric", source.container);
            let (replicas, metric, current) = self
                .resource(&source.name, &source.container, &source.target)
                .await
                .map_err(fail("FailedGetContainerResourceMetric", &what))?;
            let container_resource = Some(ContainerResourceMetricStatus {
                name: source.name.clone(),
                container: source.container.clone(),
                current,
            });
            let status =
                MetricStatus { container_resource, type_: spec.type_.clone(), ..MetricStatus::default() };
            return Ok(Proposed { replicas, metric, status });
        }
        if let Some(source) = spec.pods.as_ref().filter(|_| spec.type_ == "Pods") {
            let (replicas, current) = self
                .pods_metric(&source.metric, &source.target)
                .await
                .map_err(fail("FailedGetPodsMetric", "pods metric"))?;
            let metric = format!("pods metric {}", source.metric.name);
            let pods = Some(PodsMetricStatus { metric: source.metric.clone(), current });
            let status = MetricStatus { pods, type_: spec.type_.clone(), ..MetricStatus::default() };
            return Ok(Proposed { replicas, metric, status });
        }
        if let Some(source) = spec.object.as_ref().filter(|_| spec.type_ == "Object") {
            let (replicas, metric, current) = self
                .object(&source.metric, &source.described_object, &source.target)
                .await
                .map_err(fail("FailedGetObjectMetric", "object metric"))?;
            let object = Some(ObjectMetricStatus {
                described_object: source.described_object.clone(),
                metric: source.metric.clone(),
                current,
            });
            let status = MetricStatus { object, type_: spec.type_.clone(), ..MetricStatus::default() };
            return Ok(Proposed { replicas, metric, status });
        }
        if let Some(source) = spec.external.as_ref().filter(|_| spec.type_ == "External") {
            let (replicas, current) = self.external(&source.metric, &source.target).await.map_err(fail(
                "FailedGetExternalMetric",
                &format!("{} external metric", source.metric.name),
            ))?;
            let metric = external_name(&source.metric);
            let external = Some(ExternalMetricStatus { metric: source.metric.clone(), current });
            let status = MetricStatus { external, type_: spec.type_.clone(), ..MetricStatus::default() };
            return Ok(Proposed { replicas, metric, status });
        }
        let detail = format!("unknown metric source type {:?}", spec.type_);
        Err(Failure { reason: "InvalidMetricSourceType", error: detail.clone(), detail })
    }

    async fn resource(
        &self,
        resource: &str,
        container: &str,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let what = match (&target.average_value, target.average_utilization) {
            (Some(value), _) => Target::Average(milli(value)),
            (None, Some(percent)) => Target::Utilization { percent, resource, container },
            (None, None) => {
                return Err("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set".into());
            }
        };
        let by_value = matches!(what, Target::Average(_));
        let wrap = |e: String| {
            let what = if by_value { "usage" } else { "utilization" };
            format!("failed to get {resource} {what}: {e}")
        };
        let samples = self
            .metrics
            .resource(self.namespace, self.selector, resource, container)
            .await
            .map_err(|e| wrap(format!("unable to get metrics for resource {resource}: {e}")))?;
        let p = self.frame(resource, self.replicas.spec).of_pods(samples, what).map_err(wrap)?;
        let current = MetricValueStatus {
            average_value: Some(of_resource(resource, p.average)),
            average_utilization: p.utilization,
            value: None,
        };
        let metric = match (by_value, container) {
            (true, _) => format!("{resource} resource"),
            (false, "") => format!("{resource} resource utilization (percentage of request)"),
            (false, _) => format!("{resource} container resource utilization (percentage of request)"),
        };
        Ok((p.replicas, metric, current))
    }

    async fn pods_metric(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(i32, MetricValueStatus), String> {
        let wanted = target.average_value.as_ref().map_or(0, milli);
        if wanted == 0 {
            return Err("invalid pods metric source: no average value target was set".into());
        }
        let selector = text(metric.selector.as_ref())?;
        let samples = self
            .metrics
            .pods(self.namespace, self.selector, &metric.name, &selector)
            .await
            .map_err(|e| format!("unable to get metric {}: {e}", metric.name))?;
        let p = self.frame("", self.replicas.spec).of_pods(samples, Target::Average(wanted))?;
        let current =
            MetricValueStatus { average_value: Some(quantity(p.average)), ..MetricValueStatus::default() };
        Ok((p.replicas, current))
    }

    async fn object(
        &self,
        metric: &MetricIdentifier,
        object: &CrossVersionObjectReference,
        target: &MetricTarget,
    ) -> Result<(i32, String, MetricValueStatus), String> {
        let (share, wanted) = match (target.type_.as_str(), &target.value, &target.average_value) {
            ("Value", Some(value), _) => (false, milli(value)),
            ("AverageValue", _, Some(value)) => (true, milli(value)),
            _ => {
                return Err("invalid object metric source: neither a value target nor an average value target was set".into());
            }
        };
        let selector = text(metric.selector.as_ref())?;
        let resource = self.resource_of(object).await?;
        let on = format!("{} {}/{}", object.kind, self.namespace, object.name);
        let usage = self
            .metrics
            .object(self.namespace, &resource, &object.name, &metric.name, &selector)
            .await
            .map_err(|e| {
                let e = format!("unable to get metric {}: {e} on {on}", metric.name);
                if share { format!("failed to get {} object metric: {e}", metric.name) } else { e }
            })?;
        if share {
            let (replicas, each) = self.frame("", self.replicas.status).of_share(usage, wanted);
            return Ok((replicas, external_name(metric), average(each)));
        }
        let replicas = self.frame("", self.replicas.spec).of_total(usage, wanted)?;
        Ok((replicas, format!("{} metric {}", object.kind, metric.name), total(usage)))
    }

    async fn external(
        &self,
        metric: &MetricIdentifier,
        target: &MetricTarget,
    ) -> Result<(i32, MetricValueStatus), String> {
        let selector = text(metric.selector.as_ref())?;
        let (share, wanted) = match (&target.average_value, &target.value) {
            (Some(value), _) => (true, milli(value)),
            (None, Some(value)) => (false, milli(value)),
            (None, None) => {
                return Err("invalid external metric source: neither a value target nor an average value target was set".into());
            }
        };
        let name = &metric.name;
        let wrap = |e: String| {
            if share {
                format!("failed to get {name} external metric: {e}")
            } else {
                format!("failed to get external metric {name}: {e}")
            }
        };
        let usage = self.metrics.external(self.namespace, name, &selector).await.map_err(|e| {
            let which = format!("{}/{name}/{}", self.namespace, shown(metric.selector.as_ref()));
            wrap(format!("unable to get external metric {which}: {e}"))
        })?;
        if share {
            let (replicas, each) = self.frame("", self.replicas.status).of_share(usage, wanted);
            return Ok((replicas, average(each)));
        }
        let replicas = self.frame("", self.replicas.spec).of_total(usage, wanted).map_err(wrap)?;
        Ok((replicas, total(usage)))
    }

    /// The resource that objects of the reference's kind are, with its group.
    async fn resource_of(&self, object: &CrossVersionObjectReference) -> Result<String, String> {
        let api_version = object.api_version.as_deref().unwrap_or_default();
        let group = api_version.split_once('/').map_or("", |(group, _)| group);
        let of_object = |k: &Kind| k.resource.group == group && k.resource.kind == object.kind;
        let found = self.kinds.find(of_object).await.map_err(|e| errors::message(&e))?;
        let found =
            found.ok_or_else(|| format!("no matches for kind {:?} in group {group:?}", object.kind))?;
        Ok(found.group_resource())
    }
}

fn average(milli: i64) -> MetricValueStatus {
    MetricValueStatus { average_value: Some(quantity(milli)), ..MetricValueStatus::default() }
}

fn total(milli: i64) -> MetricValueStatus {
    MetricValueStatus { value: Some(quantity(milli)), ..MetricValueStatus::default() }
}

fn external_name(metric: &MetricIdentifier) -> String {
    format!("external metric {}({})", metric.name, shown(metric.selector.as_ref()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_told_in_powers_of_two() {
        assert_eq!(of_resource("memory", 64 * 1024 * 1024 * 1000).0, "64Mi");
        assert_eq!(of_resource("cpu", 1500).0, "1500m");
    }
}
