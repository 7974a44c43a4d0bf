//! Defaults of a pod spec, wherever one stands: in a pod or in the template of a workload.

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, EnvVar, EphemeralContainer, Lifecycle, LifecycleHandler, PodSpec,
    PodTemplateSpec, Probe, ResourceRequirements, Volume,
};

use crate::kinds::quantity::{canonical, canonical_list};
use crate::kinds::semantic::{fill, fill_zero};

use super::image::is_latest;
use super::volume_defaults::default_volume;

/// Template of a workload.
pub fn default_template(template: &mut PodTemplateSpec) {
    template.metadata.get_or_insert_with(Default::default);
    default_pod_spec(template.spec.get_or_insert_with(Default::default));
}

/// What pods and templates have in common.
pub fn default_pod_spec(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.termination_grace_period_seconds.get_or_insert(30);
    spec.security_context.get_or_insert_with(Default::default);
    // The old name of the field still mirrors the new one.
    if spec.service_account_name.as_deref().unwrap_or_default().is_empty() {
        spec.service_account_name = spec.service_account.clone().filter(|s| !s.is_empty());
    }
    spec.service_account = spec.service_account_name.clone();
    canonical_list(&mut spec.overhead);
    if let Some(r) = &mut spec.resources {
        default_resources(r);
    }
    spec.volumes.iter_mut().flatten().for_each(default_volume);
    spec.init_containers.iter_mut().flatten().for_each(default_container);
    spec.containers.iter_mut().for_each(default_container);
    spec.ephemeral_containers.iter_mut().flatten().for_each(default_ephemeral_container);
}

fn default_resources(r: &mut ResourceRequirements) {
    canonical_list(&mut r.limits);
    canonical_list(&mut r.requests);
}

fn default_container(c: &mut Container) {
    if c.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        let latest = is_latest(c.image.as_deref().unwrap_or_default());
        c.image_pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
    fill(&mut c.termination_message_path, "/dev/termination-log");
    fill(&mut c.termination_message_policy, "File");
    default_resources(c.resources.get_or_insert_with(Default::default));
    c.ports.iter_mut().flatten().for_each(default_port);
    c.env.iter_mut().flatten().for_each(default_env);
    for p in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        default_probe(p);
    }
    if let Some(l) = &mut c.lifecycle {
        default_lifecycle(l);
    }
}

fn default_ephemeral_container(c: &mut EphemeralContainer) {
    if c.image_pull_policy.as_deref().unwrap_or_default().is_empty() {
        let latest = is_latest(c.image.as_deref().unwrap_or_default());
        c.image_pull_policy = Some(if latest { "Always" } else { "IfNotPresent" }.to_owned());
    }
    fill(&mut c.termination_message_path, "/dev/termination-log");
    fill(&mut c.termination_message_policy, "File");
    default_resources(c.resources.get_or_insert_with(Default::default));
    c.ports.iter_mut().flatten().for_each(default_port);
    c.env.iter_mut().flatten().for_each(default_env);
    for p in [&mut c.liveness_probe, &mut c.readiness_probe, &mut c.startup_probe].into_iter().flatten() {
        default_probe(p);
    }
    if let Some(l) = &mut c.lifecycle {
        default_lifecycle(l);
    }
}

fn default_port(p: &mut ContainerPort) {
    fill(&mut p.protocol, "TCP");
}

fn default_env(e: &mut EnvVar) {
    let Some(from) = &mut e.value_from else { return };
    if let Some(f) = &mut from.field_ref {
        fill(&mut f.api_version, "v1");
    }
    if let Some(r) = &mut from.resource_field_ref {
        canonical(r.divisor.get_or_insert_with(Default::default));
    }
    if let Some(f) = &mut from.file_key_ref {
        f.optional.get_or_insert(false);
    }
}

fn default_probe(p: &mut Probe) {
    fill_zero(&mut p.timeout_seconds, 1);
    fill_zero(&mut p.period_seconds, 10);
    fill_zero(&mut p.success_threshold, 1);
    fill_zero(&mut p.failure_threshold, 3);
    if let Some(h) = &mut p.http_get {
        fill(&mut h.path, "/");
        fill(&mut h.scheme, "HTTP");
    }
    if let Some(g) = &mut p.grpc {
        g.service.get_or_insert_with(String::new);
    }
}

fn default_lifecycle(l: &mut Lifecycle) {
    for h in [&mut l.post_start, &mut l.pre_stop].into_iter().flatten() {
        default_handler(h);
    }
}

fn default_handler(h: &mut LifecycleHandler) {
    if let Some(g) = &mut h.http_get {
        fill(&mut g.path, "/");
        fill(&mut g.scheme, "HTTP");
    }
}

/// What only a pod gets, not the template of one.
pub fn default_pod_only(spec: &mut PodSpec) {
    let host_network = spec.host_network == Some(true);
    for c in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(r) = &mut c.resources {
            requests_from_limits(r);
        }
        for p in c.ports.iter_mut().flatten().filter(|_| host_network) {
            if p.host_port.unwrap_or(0) == 0 {
                p.host_port = Some(p.container_port);
            }
        }
    }
    super::resources::default_pod_level(spec);
    spec.enable_service_links.get_or_insert(true);
    // Of a template it stays, and is warned of.
    if let Some(grace) = spec.termination_grace_period_seconds.as_mut().filter(|n| **n < 0) {
        *grace = 1;
    }
}

fn requests_from_limits(r: &mut ResourceRequirements) {
    let Some(limits) = &r.limits else { return };
    if limits.is_empty() {
        return;
    }
    let requests = r.requests.get_or_insert_with(Default::default);
    for (name, q) in limits {
        requests.entry(name.clone()).or_insert_with(|| q.clone());
    }
}

/// Default of a volume's set of permission bits.
pub(super) fn mode(field: &mut Option<i32>) {
    field.get_or_insert(0o644);
}

/// Volumes of a pod that carries none of the sources: a scratch directory.
pub(super) fn scratch_if_sourceless(v: &mut Volume) {
    let bare = Volume { name: v.name.clone(), ..Default::default() };
    if *v == bare {
        v.empty_dir = Some(Default::default());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_negative_grace_period_is_a_second_for_pods() {
        let spec = || PodSpec { termination_grace_period_seconds: Some(-1), ..PodSpec::default() };
        let mut pod = spec();
        default_pod_spec(&mut pod);
        default_pod_only(&mut pod);
        assert_eq!(pod.termination_grace_period_seconds, Some(1));
        let mut template = PodTemplateSpec { spec: Some(spec()), ..PodTemplateSpec::default() };
        default_template(&mut template);
        assert_eq!(template.spec.and_then(|s| s.termination_grace_period_seconds), Some(-1));
    }
}
