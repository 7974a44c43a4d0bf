//! Pods: what a create sets, and what each of the endpoints of a pod may change.

use k8s_openapi::api::core::v1 as api;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement, Time};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::podspec::defaults::{default_pod_only, default_pod_spec};
use crate::kinds::podspec::resources::qos_class;
use crate::kinds::podspec::validate::{self, container, resize, update};
use crate::kinds::podspec::warnings::warnings;
use crate::kinds::semantic::{first_generation, items, next_generation, same, text};
use crate::registry::strategy::{Context, Strategy};

/// Rules of pods.
pub struct Pod;

type Labels = std::collections::BTreeMap<String, String>;

/// Writes the pod's own values of `keys` into the selector, so that later relabelling moves no pod.
fn merge_label_keys(
    selector: &mut Option<LabelSelector>,
    keys: &Option<Vec<String>>,
    operator: &str,
    labels: &Labels,
) {
    let Some(selector) = selector else { return };
    for key in items(keys) {
        if let Some(value) = labels.get(key) {
            selector.match_expressions.get_or_insert_with(Vec::new).push(LabelSelectorRequirement {
                key: key.clone(),
                operator: operator.to_owned(),
                values: Some(vec![value.clone()]),
            });
        }
    }
}

fn merge_affinity_term(t: &mut api::PodAffinityTerm, labels: &Labels) {
    merge_label_keys(&mut t.label_selector, &t.match_label_keys, "In", labels);
    merge_label_keys(&mut t.label_selector, &t.mismatch_label_keys, "NotIn", labels);
}

fn merge_all_label_keys(pod: &mut api::Pod) {
    let labels = pod.metadata.labels.clone().unwrap_or_default();
    let Some(spec) = &mut pod.spec else { return };
    if let Some(affinity) = &mut spec.affinity {
        if let Some(a) = &mut affinity.pod_affinity {
            let required = a.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            required.for_each(|t| merge_affinity_term(t, &labels));
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.for_each(|t| merge_affinity_term(&mut t.pod_affinity_term, &labels));
        }
        if let Some(a) = &mut affinity.pod_anti_affinity {
            let required = a.required_during_scheduling_ignored_during_execution.iter_mut().flatten();
            required.for_each(|t| merge_affinity_term(t, &labels));
            let preferred = a.preferred_during_scheduling_ignored_during_execution.iter_mut().flatten();
            preferred.for_each(|t| merge_affinity_term(&mut t.pod_affinity_term, &labels));
        }
    }
    for c in spec.topology_spread_constraints.iter_mut().flatten() {
        merge_label_keys(&mut c.label_selector, &c.match_label_keys, "In", &labels);
    }
}

/// A gated pod says from the start why nobody schedules it.
fn gated_condition(now: jiff::Timestamp) -> api::PodCondition {
    api::PodCondition {
        last_transition_time: Some(Time(jiff::Timestamp::from_second(now.as_second()).unwrap_or(now))),
        type_: "PodScheduled".to_owned(),
        status: "False".to_owned(),
        reason: Some("SchedulingGated".to_owned()),
        message: Some("Scheduling is blocked due to non-empty scheduling gates".to_owned()),
        ..Default::default()
    }
}

/// The stored pod with nothing taken from `new` but resources and how containers bear a change of them. Where containers are
/// not those of the stored pod, the new ones stay, for validation to refuse.
fn only_resize(new: &api::Pod, old: &api::Pod) -> api::Pod {
    let mut pod = old.clone();
    pod.metadata.resource_version = new.metadata.resource_version.clone();
    pod.metadata.managed_fields = new.metadata.managed_fields.clone();
    let (Some(to), Some(from)) = (&mut pod.spec, &new.spec) else { return pod };
    let resized = |to: &[api::Container], from: &[api::Container]| {
        if !to.iter().map(|c| &c.name).eq(from.iter().map(|c| &c.name)) {
            return from.to_vec();
        }
        let one = |(t, f): (&api::Container, &api::Container)| api::Container {
            resources: f.resources.clone(),
            resize_policy: f.resize_policy.clone(),
            ..t.clone()
        };
        to.iter().zip(from).map(one).collect()
    };
    to.containers = resized(&to.containers, &from.containers);
    if to.init_containers.is_some() || !items(&from.init_containers).is_empty() {
        to.init_containers = Some(resized(items(&to.init_containers), items(&from.init_containers)));
    }
    to.resources = from.resources.clone();
    pod
}

impl Strategy for Pod {
    type Object = api::Pod;

    fn default(&self, pod: &mut api::Pod) {
        let spec = pod.spec.get_or_insert_with(Default::default);
        default_pod_spec(spec);
        default_pod_only(spec);
        pod.status.get_or_insert_with(Default::default);
    }

    fn defaulted(&self) -> Option<&'static [&'static str]> {
        Some(&["spec"])
    }

    fn prepare_create(&self, cx: &mut Context, pod: &mut api::Pod) {
        first_generation(&mut pod.metadata);
        merge_all_label_keys(pod);
        let spec = pod.spec.get_or_insert_with(Default::default);
        let gated = !items(&spec.scheduling_gates).is_empty();
        pod.status = Some(api::PodStatus {
            phase: Some("Pending".to_owned()),
            qos_class: Some(qos_class(spec).to_owned()),
            conditions: gated.then(|| vec![gated_condition(cx.now())]),
            ..Default::default()
        });
    }

    fn prepare_update(&self, cx: &mut Context, pod: &mut api::Pod, old: &api::Pod) {
        match cx.subresource.as_str() {
            "status" => {
                pod.spec = old.spec.clone();
                pod.metadata.owner_references = old.metadata.owner_references.clone();
                pod.metadata.deletion_timestamp = old.metadata.deletion_timestamp.clone();
                if let (Some(new), Some(was)) = (&mut pod.status, &old.status)
                    && text(&new.qos_class).is_empty()
                {
                    new.qos_class = was.qos_class.clone();
                }
            }
            "ephemeralcontainers" => {
                let wanted = pod.spec.as_ref().and_then(|s| s.ephemeral_containers.clone());
                let mut kept = old.clone();
                kept.metadata.resource_version = pod.metadata.resource_version.clone();
                kept.metadata.managed_fields = pod.metadata.managed_fields.clone();
                kept.spec.get_or_insert_with(Default::default).ephemeral_containers = wanted;
                *pod = kept;
            }
            "resize" => *pod = only_resize(pod, old),
            _ => pod.status = old.status.clone(),
        }
        let changed = !same(&pod.spec, &old.spec);
        next_generation(&mut pod.metadata, &old.metadata, changed);
    }

    fn validate(&self, cx: &mut Context, pod: &api::Pod) -> ErrorList {
        let mut errors = ErrorList::new();
        let Some(spec) = &pod.spec else { return errors };
        let path = Path::new("spec");
        let at = Path::new("metadata").child("annotations");
        errors.extend(validate::annotations(&pod.metadata, spec, &at));
        errors.extend(validate::spec(spec, Some(&pod.metadata), &path));
        if text(&spec.service_account_name).is_empty() {
            errors.extend(tokens_without_account(spec, &path.child("volumes")));
        }
        for (i, c) in spec.containers.iter().enumerate() {
            container::image_is_trimmed(c, &path.child("containers").index(i), &mut errors);
        }
        for (i, c) in items(&spec.init_containers).iter().enumerate() {
            container::image_is_trimmed(c, &path.child("initContainers").index(i), &mut errors);
        }
        let is_create = text(&pod.metadata.resource_version).is_empty();
        if is_create && cx.is_main() {
            if !items(&spec.ephemeral_containers).is_empty() {
                errors.push(Error::forbidden(&path.child("ephemeralContainers"), "cannot be set on create"));
            }
            if errors.is_empty() {
                warnings(&Path::default(), spec, &pod.metadata, &mut cx.warnings);
            }
            if !text(&spec.node_name).is_empty() && !items(&spec.scheduling_gates).is_empty() {
                errors.push(Error::forbidden(
                    &path.child("nodeName"),
                    "cannot be set until all schedulingGates have been cleared",
                ));
            }
        }
        errors
    }

    fn validate_update(&self, cx: &mut Context, pod: &api::Pod, old: &api::Pod) -> ErrorList {
        let path = Path::new("spec");
        let (Some(new), Some(was)) = (&pod.spec, &old.spec) else { return ErrorList::new() };
        match cx.subresource.as_str() {
            "" => update::main(new, was, &path),
            "ephemeralcontainers" => update::ephemeral(new, was, &path),
            "resize" => resize::resize(pod, old),
            _ => ErrorList::new(),
        }
    }
}

/// A token is a service account's: without one there is none to project.
fn tokens_without_account(spec: &api::PodSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    for (i, v) in items(&spec.volumes).iter().enumerate() {
        let Some(p) = &v.projected else { continue };
        for (j, s) in items(&p.sources).iter().enumerate().filter(|(_, s)| s.service_account_token.is_some())
        {
            let _ = s;
            let at = path.index(i).child("projected").child("sources").index(j);
            errors.push(Error::forbidden(
                &at.child("serviceAccountToken"),
                "must not be specified when serviceAccountName is not set",
            ));
        }
    }
    errors
}
