//! Containers: regular, init and ephemeral.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{Container, ContainerPort, EphemeralContainer, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::{env, handler, mounts, one_of, resources, security, volume};
use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, numbers, text as rules};

/// What the containers of a pod share.
pub struct Scope<'a> {
    /// Volumes that are themselves valid, by name.
    pub volumes: BTreeMap<&'a str, &'a Volume>,
    pub claims: BTreeSet<&'a str>,
    pub grace: Option<i64>,
    pub restart: &'a str,
    pub host_users: bool,
}

impl<'a> Scope<'a> {
    /// Checks the volumes on the way, as they come first in every report.
    pub fn new(s: &'a PodSpec, pod: Option<&ObjectMeta>, path: &Path, errors: &mut ErrorList) -> Self {
        if s.termination_grace_period_seconds.is_none() {
            errors.push(Error::required(&path.child("terminationGracePeriodSeconds"), ""));
        }
        Self {
            volumes: volume::volumes(items(&s.volumes), pod, &path.child("volumes"), errors),
            claims: items(&s.resource_claims).iter().map(|c| c.name.as_str()).collect(),
            // A negative one counts as one second.
            grace: s.termination_grace_period_seconds.map(|n| if n < 0 { 1 } else { n }),
            restart: text(&s.restart_policy),
            host_users: s.host_users.unwrap_or(true),
        }
    }
}

fn common(cx: &Scope<'_>, c: &Container, path: &Path, errors: &mut ErrorList) {
    let at = path.child("name");
    if c.name.is_empty() {
        errors.push(Error::required(&at, ""));
    } else {
        errors.extend(invalid_each(&at, &c.name, rules::dns1123_label(&c.name)));
    }
    let image = text(&c.image);
    if image.is_empty() {
        errors.push(Error::required(&path.child("image"), ""));
    }
    one_of(
        text(&c.termination_message_policy),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    ports(items(&c.ports), &path.child("ports"), errors);
    env::vars(items(&c.env), &path.child("env"), errors);
    env::sources(items(&c.env_from), &path.child("envFrom"), errors);
    mounts::mounts(cx, c, &path.child("volumeMounts"), errors);
    mounts::devices(cx, c, &path.child("volumeDevices"), errors);
    one_of(
        text(&c.image_pull_policy),
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
        errors,
    );
    if let Some(r) = &c.resources {
        resources::container(r, &cx.claims, &path.child("resources"), errors);
    }
    resources::resize_policy(items(&c.resize_policy), cx.restart, &path.child("resizePolicy"), errors);
    if let Some(s) = &c.security_context {
        security::container(s, cx.host_users, &path.child("securityContext"), errors);
    }
}

fn ports(list: &[ContainerPort], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        let path = path.index(i);
        let name = text(&p.name);
        if !name.is_empty() {
            let wrong = rules::port_name(name);
            if !wrong.is_empty() {
                errors.extend(invalid_each(&path.child("name"), name, wrong));
            } else if !names.insert(name) {
                errors.push(Error::duplicate(&path.child("name"), name));
            }
        }
        if p.container_port == 0 {
            errors.push(Error::required(&path.child("containerPort"), ""));
        } else {
            errors.extend(numbers::port(p.container_port, &path.child("containerPort")));
        }
        if let Some(n) = p.host_port.filter(|n| *n != 0) {
            errors.extend(numbers::port(n, &path.child("hostPort")));
        }
        one_of(text(&p.protocol), &["SCTP", "TCP", "UDP"], &path.child("protocol"), errors);
    }
}

fn host_port_conflicts<'a>(
    containers: impl Iterator<Item = (usize, &'a Container)>,
    path: &Path,
    errors: &mut ErrorList,
) {
    let mut taken = BTreeSet::new();
    for (ci, c) in containers {
        for (pi, p) in items(&c.ports).iter().enumerate() {
            let Some(port) = p.host_port.filter(|n| *n != 0) else { continue };
            let key = format!("{}/{}/{port}", text(&p.protocol), text(&p.host_ip));
            if taken.contains(&key) {
                let at = path.index(ci).child("ports").index(pi).child("hostPort");
                errors.push(Error::duplicate(&at, key));
            } else {
                taken.insert(key);
            }
        }
    }
}

/// Hooks and probes of a container that keeps running.
fn running(cx: &Scope<'_>, c: &Container, path: &Path, errors: &mut ErrorList) {
    if let Some(l) = &c.lifecycle {
        handler::lifecycle(l, cx.grace, &path.child("lifecycle"), errors);
    }
    if let Some(p) = &c.liveness_probe {
        handler::liveness(p, cx.grace, &path.child("livenessProbe"), errors);
    }
    if let Some(p) = &c.readiness_probe {
        handler::readiness(p, cx.grace, &path.child("readinessProbe"), errors);
    }
    if let Some(p) = &c.startup_probe {
        handler::liveness(p, cx.grace, &path.child("startupProbe"), errors);
    }
}

fn restart_rules(c: &Container, path: &Path, errors: &mut ErrorList) {
    let rules = items(&c.restart_policy_rules);
    let at = path.child("restartPolicy");
    match &c.restart_policy {
        None if rules.is_empty() => return,
        None => errors.push(Error::required(&at, "must specify restartPolicy when restart rules are used")),
        Some(p) if !["Always", "Never", "OnFailure"].contains(&p.as_str()) => {
            errors.push(Error::not_supported(&at, p, &["Always", "Never", "OnFailure"]));
        }
        Some(_) => {}
    }
    if rules.len() > 20 {
        errors.push(Error::too_many(&path.child("restartPolicyRules"), rules.len(), 20));
    }
    for (i, r) in rules.iter().enumerate() {
        let at = path.child("restartPolicyRules").index(i);
        if !["Restart", "RestartAllContainers"].contains(&r.action.as_str()) {
            errors.push(Error::not_supported(
                &at.child("action"),
                &r.action,
                &["Restart", "RestartAllContainers"],
            ));
        }
        match &r.exit_codes {
            None => errors.push(Error::required(&at.child("exitCodes"), "must be specified")),
            Some(e) => {
                let at = at.child("exitCodes");
                if !["In", "NotIn"].contains(&e.operator.as_str()) {
                    errors.push(Error::not_supported(&at.child("operator"), &e.operator, &["In", "NotIn"]));
                }
                let n = items(&e.values).len();
                if n > 255 {
                    errors.push(Error::too_many(&at.child("values"), n, 255));
                }
            }
        }
    }
}

/// The regular containers.
pub fn containers(cx: &Scope<'_>, s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    if s.containers.is_empty() {
        errors.push(Error::required(path, ""));
        return;
    }
    let mut names = BTreeSet::new();
    for (i, c) in s.containers.iter().enumerate() {
        let path = path.index(i);
        common(cx, c, &path, errors);
        if !names.insert(c.name.as_str()) {
            errors.push(Error::duplicate(&path.child("name"), &c.name));
        }
        running(cx, c, &path, errors);
        restart_rules(c, &path, errors);
    }
    host_port_conflicts(s.containers.iter().enumerate(), path, errors);
}

/// The init containers; those that always restart run beside the regular ones.
pub fn init_containers(cx: &Scope<'_>, s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let mut names: BTreeSet<&str> = s.containers.iter().map(|c| c.name.as_str()).collect();
    for (i, c) in items(&s.init_containers).iter().enumerate() {
        let at = path.index(i);
        common(cx, c, &at, errors);
        restart_rules(c, &at, errors);
        if names.contains(c.name.as_str()) {
            errors.push(Error::duplicate(&at.child("name"), &c.name));
        } else if !c.name.is_empty() {
            names.insert(&c.name);
        }
        host_port_conflicts(std::iter::once((0, c)), path, errors);
        if c.restart_policy.as_deref() == Some("Always") {
            running(cx, c, &at, errors);
            continue;
        }
        for (field, given) in [
            ("lifecycle", c.lifecycle.is_some()),
            ("livenessProbe", c.liveness_probe.is_some()),
            ("readinessProbe", c.readiness_probe.is_some()),
            ("startupProbe", c.startup_probe.is_some()),
        ] {
            if given {
                errors.push(Error::forbidden(
                    &at.child(field),
                    "may not be set for init containers without restartPolicy=Always",
                ));
            }
        }
    }
}

/// The common part of an ephemeral container, as a container.
pub fn as_container(e: &EphemeralContainer) -> Container {
    Container {
        args: e.args.clone(),
        command: e.command.clone(),
        env: e.env.clone(),
        env_from: e.env_from.clone(),
        image: e.image.clone(),
        image_pull_policy: e.image_pull_policy.clone(),
        lifecycle: e.lifecycle.clone(),
        liveness_probe: e.liveness_probe.clone(),
        name: e.name.clone(),
        ports: e.ports.clone(),
        readiness_probe: e.readiness_probe.clone(),
        resize_policy: e.resize_policy.clone(),
        resources: e.resources.clone(),
        restart_policy: e.restart_policy.clone(),
        restart_policy_rules: e.restart_policy_rules.clone(),
        security_context: e.security_context.clone(),
        startup_probe: e.startup_probe.clone(),
        stdin: e.stdin,
        stdin_once: e.stdin_once,
        termination_message_path: e.termination_message_path.clone(),
        termination_message_policy: e.termination_message_policy.clone(),
        tty: e.tty,
        volume_devices: e.volume_devices.clone(),
        volume_mounts: e.volume_mounts.clone(),
        working_dir: e.working_dir.clone(),
    }
}

/// Ephemeral containers: no ports, probes, hooks or resources.
pub fn ephemeral_containers(cx: &Scope<'_>, s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let others: BTreeSet<&str> =
        s.containers.iter().chain(items(&s.init_containers)).map(|c| c.name.as_str()).collect();
    let mut names = others.clone();
    for (i, e) in items(&s.ephemeral_containers).iter().enumerate() {
        let path = path.index(i);
        let c = as_container(e);
        common(cx, &c, &path, errors);
        image_is_trimmed(&c, &path, errors);
        if !names.insert(&e.name) {
            errors.push(Error::duplicate(&path.child("name"), &e.name));
        }
        let target = text(&e.target_container_name);
        if !target.is_empty() && !others.contains(target) {
            errors.push(Error::not_found(&path.child("targetContainerName"), target));
        }
        let resources = e.resources.as_ref().is_some_and(|r| *r != Default::default());
        for (field, given) in [
            ("ports", !items(&e.ports).is_empty()),
            ("resources", resources),
            ("resizePolicy", !items(&e.resize_policy).is_empty()),
            ("restartPolicy", e.restart_policy.is_some()),
            ("restartPolicyRules", !items(&e.restart_policy_rules).is_empty()),
            ("livenessProbe", e.liveness_probe.is_some()),
            ("readinessProbe", e.readiness_probe.is_some()),
            ("startupProbe", e.startup_probe.is_some()),
            ("lifecycle", e.lifecycle.is_some()),
        ] {
            if given {
                errors.push(Error::forbidden(&path.child(field), "cannot be set for an Ephemeral Container"));
            }
        }
        for (j, m) in items(&e.volume_mounts).iter().enumerate() {
            let at = path.child("volumeMounts").index(j);
            for (field, value) in [("subPath", &m.sub_path), ("subPathExpr", &m.sub_path_expr)] {
                if !text(value).is_empty() {
                    errors
                        .push(Error::forbidden(&at.child(field), "cannot be set for an Ephemeral Container"));
                }
            }
        }
    }
}

/// In pods, not in templates, an image has no space around it.
pub fn image_is_trimmed(c: &Container, path: &Path, errors: &mut ErrorList) {
    let image = text(&c.image);
    if image.trim() != image {
        errors.push(Error::invalid(
            &path.child("image"),
            image,
            "must not have leading or trailing whitespace",
        ));
    }
}
