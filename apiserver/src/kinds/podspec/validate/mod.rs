//! What may be wrong with a pod spec. One file per part; the order of the checks is the order in which upstream
//! reports, since clients see the whole list.

pub mod container;
pub mod env;
pub mod handler;
pub mod host;
pub mod mounts;
pub mod resize;
pub mod resources;
pub mod scheduling;
pub mod security;
pub mod spread;
pub mod update;
pub mod volume;
pub mod volume_source;

use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, meta, numbers, selector, text as rules};

/// Refuses a value that is not one of `valid`, which are told in this order.
pub(crate) fn one_of(value: &str, valid: &[&str], path: &Path, errors: &mut ErrorList) {
    if value.is_empty() {
        errors.push(Error::required(path, ""));
    } else if !valid.contains(&value) {
        errors.push(Error::not_supported(path, value, valid));
    }
}

/// Refuses a value that is given and not one of `valid`.
pub(crate) fn one_of_if_given(value: &Option<String>, valid: &[&str], path: &Path, errors: &mut ErrorList) {
    if let Some(v) = value
        && !valid.contains(&v.as_str())
    {
        errors.push(Error::not_supported(path, v, valid));
    }
}

/// The template of a workload.
pub fn template(t: &PodTemplateSpec, path: &Path) -> ErrorList {
    let mut errors = template_meta(t, path);
    let Some(s) = &t.spec else { return errors };
    errors.extend(spec(s, None, &path.child("spec")));
    if !items(&s.ephemeral_containers).is_empty() {
        errors.push(Error::forbidden(
            &path.child("spec").child("ephemeralContainers"),
            "ephemeral containers not allowed in pod template",
        ));
    }
    errors
}

/// Labels and annotations of a template.
pub fn template_meta(t: &PodTemplateSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let blank = ObjectMeta::default();
    let meta_of = t.metadata.as_ref().unwrap_or(&blank);
    errors.extend(selector::labels(meta_of.labels.as_ref(), &path.child("labels")));
    errors.extend(meta::annotations(meta_of, &path.child("annotations")));
    if let Some(s) = &t.spec {
        errors.extend(annotations(meta_of, s, &path.child("annotations")));
    }
    errors
}

/// Annotation of the API's copy of a pod that a kubelet has from a file.
pub const MIRROR: &str = "kubernetes.io/config.mirror";

/// Annotations that mean something to pods.
pub fn annotations(meta: &ObjectMeta, spec: &PodSpec, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let get = |k: &str| meta.annotations.as_ref().and_then(|a| a.get(k));
    if let Some(v) = get(MIRROR)
        && text(&spec.node_name).is_empty()
    {
        errors.push(Error::invalid(
            &path.key(MIRROR),
            v,
            "must set spec.nodeName if mirror pod annotation is set",
        ));
    }
    let cost = "controller.kubernetes.io/pod-deletion-cost";
    if let Some(v) = get(cost)
        && (v.parse::<i32>().is_err() || v.starts_with('+') || (v.starts_with('0') && v.len() > 1))
    {
        errors.push(Error::invalid(&path.key(cost), v, "must be a 32bit integer"));
    }
    errors
}

/// A pod spec. `pod` is the metadata where it is a pod's own, none where it is a template's.
pub fn spec(s: &PodSpec, pod: Option<&ObjectMeta>, path: &Path) -> ErrorList {
    let mut errors = ErrorList::new();
    let cx = container::Scope::new(s, pod, path, &mut errors);
    resources::claims(items(&s.resource_claims), &path.child("resourceClaims"), &mut errors);
    container::containers(&cx, s, &path.child("containers"), &mut errors);
    container::init_containers(&cx, s, &path.child("initContainers"), &mut errors);
    container::ephemeral_containers(&cx, s, &path.child("ephemeralContainers"), &mut errors);
    resources::pod_level(s, &path.child("resources"), &mut errors);
    host::network_ports(s, pod.is_some(), &path.child("containers"), &mut errors);
    one_of(
        text(&s.restart_policy),
        &["Always", "OnFailure", "Never"],
        &path.child("restartPolicy"),
        &mut errors,
    );
    one_of(
        text(&s.dns_policy),
        &["ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"],
        &path.child("dnsPolicy"),
        &mut errors,
    );
    errors.extend(selector::labels(s.node_selector.as_ref(), &path.child("nodeSelector")));
    security::pod(s, &path.child("securityContext"), &mut errors);
    scheduling::affinity(s.affinity.as_ref(), &path.child("affinity"), &mut errors);
    host::dns_config(s, &path.child("dnsConfig"), &mut errors);
    for (i, g) in items(&s.readiness_gates).iter().enumerate() {
        let at = path.child("readinessGates").index(i).child("conditionType");
        errors.extend(invalid_each(&at, &g.condition_type, rules::qualified_name(&g.condition_type)));
    }
    scheduling::gates(items(&s.scheduling_gates), &path.child("schedulingGates"), &mut errors);
    spread::constraints(
        items(&s.topology_spread_constraints),
        &path.child("topologySpreadConstraints"),
        &mut errors,
    );
    host::users(s, path, &mut errors);
    host::hostname_override(s, path, &mut errors);
    named(&s.service_account_name, &path.child("serviceAccountName"), &mut errors);
    named(&s.node_name, &path.child("nodeName"), &mut errors);
    if let Some(n) = s.active_deadline_seconds {
        let at = path.child("activeDeadlineSeconds");
        errors.extend(numbers::in_range(n, 1, i64::from(i32::MAX), &at));
    }
    for (field, value) in [("hostname", &s.hostname), ("subdomain", &s.subdomain)] {
        let v = text(value);
        if !v.is_empty() {
            errors.extend(invalid_each(&path.child(field), v, rules::dns1123_label(v)));
        }
    }
    scheduling::tolerations(items(&s.tolerations), &path.child("tolerations"), &mut errors);
    host::aliases(items(&s.host_aliases), &path.child("hostAliases"), &mut errors);
    named(&s.priority_class_name, &path.child("priorityClassName"), &mut errors);
    if let Some(n) = &s.runtime_class_name {
        errors.extend(invalid_each(&path.child("runtimeClassName"), n, rules::dns1123_subdomain(n)));
    }
    if let Some(p) = &s.preemption_policy {
        one_of(p, &["PreemptLowerPriority", "Never"], &path.child("preemptionPolicy"), &mut errors);
    }
    if let Some(o) = &s.overhead {
        resources::list(o, &path.child("overhead").child("limits"), &mut errors);
    }
    if let Some(os) = &s.os {
        let at = path.child("os");
        if os.name.is_empty() {
            errors.push(Error::required(&at.child("name"), "cannot be empty"));
        } else {
            one_of(&os.name, &["linux", "windows"], &at, &mut errors);
        }
    }
    errors
}

/// A name of another object, if given.
fn named(value: &Option<String>, path: &Path, errors: &mut ErrorList) {
    let v = text(value);
    if !v.is_empty() {
        errors.extend(invalid_each(path, v, rules::dns1123_subdomain(v)));
    }
}
