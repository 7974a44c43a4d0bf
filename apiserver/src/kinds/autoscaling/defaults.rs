//! Defaults of autoscalers: half of the asked-for CPU unused, and how fast to scale.

use k8s_openapi::api::autoscaling::v2 as api;

use crate::kinds::quantity::canonical;

/// CPU use, in percent of the request, to aim at unless told otherwise.
const CPU_UTILIZATION: i32 = 80;

fn policy(type_: &str, value: i32) -> api::HPAScalingPolicy {
    api::HPAScalingPolicy { type_: type_.to_owned(), value, period_seconds: 15 }
}

fn fill_rules(
    given: &mut Option<api::HPAScalingRules>,
    window: Option<i32>,
    policies: Vec<api::HPAScalingPolicy>,
) {
    let rules = given.get_or_insert_with(Default::default);
    rules.select_policy.get_or_insert_with(|| "Max".to_owned());
    if rules.stabilization_window_seconds.is_none() {
        rules.stabilization_window_seconds = window;
    }
    rules.policies.get_or_insert(policies);
    if let Some(t) = &mut rules.tolerance {
        canonical(t);
    }
}

fn canonical_target(t: &mut api::MetricTarget) {
    for q in [&mut t.value, &mut t.average_value].into_iter().flatten() {
        canonical(q);
    }
}

/// Spec of the newer version.
pub fn default_spec(spec: &mut api::HorizontalPodAutoscalerSpec) {
    spec.min_replicas.get_or_insert(1);
    if spec.metrics.as_ref().is_none_or(Vec::is_empty) {
        spec.metrics = Some(vec![api::MetricSpec {
            type_: "Resource".to_owned(),
            resource: Some(api::ResourceMetricSource {
                name: "cpu".to_owned(),
                target: api::MetricTarget {
                    type_: "Utilization".to_owned(),
                    average_utilization: Some(CPU_UTILIZATION),
                    ..Default::default()
                },
            }),
            ..Default::default()
        }]);
    }
    for m in spec.metrics.iter_mut().flatten() {
        let targets = [
            m.resource.as_mut().map(|x| &mut x.target),
            m.container_resource.as_mut().map(|x| &mut x.target),
            m.pods.as_mut().map(|x| &mut x.target),
            m.object.as_mut().map(|x| &mut x.target),
            m.external.as_mut().map(|x| &mut x.target),
        ];
        targets.into_iter().flatten().for_each(canonical_target);
    }
    if let Some(b) = &mut spec.behavior {
        fill_rules(&mut b.scale_up, Some(0), vec![policy("Pods", 4), policy("Percent", 100)]);
        fill_rules(&mut b.scale_down, None, vec![policy("Percent", 100)]);
    }
}
