//! Requests, limits and claims of containers and pods.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::{ContainerResizePolicy, PodResourceClaim, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::super::resources::{is_pod_level, of_containers};
use super::one_of;
use crate::field::{Error, ErrorList, Path};
use crate::kinds::quantity::amount;
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, text as rules};

fn is_native(name: &str) -> bool {
    !name.contains('/') || name.split('/').next().is_some_and(|d| d.ends_with("kubernetes.io"))
}

fn is_huge_page(name: &str) -> bool {
    name.starts_with("hugepages-")
}

/// True if more may be promised than there is.
pub fn can_overcommit(name: &str) -> bool {
    is_native(name) && !is_huge_page(name)
}

/// True for resources of devices, which others than the system name.
pub fn is_extended(name: &str) -> bool {
    !is_native(name)
        && !name.starts_with("requests.")
        && rules::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Name of a resource: qualified, or one that the system knows.
pub fn resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    let wrong = rules::qualified_name(name);
    if wrong.is_empty() && !name.contains('/') && !is_standard(name) {
        errors.push(Error::invalid(path, name, "must be a standard resource type or fully qualified"));
    }
    errors.extend(invalid_each(path, name, wrong));
}

/// Name of a resource of a container.
pub fn container_resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    resource_name(name, path, errors);
    if !name.contains('/') {
        if !matches!(name, "cpu" | "memory" | "ephemeral-storage") && !is_huge_page(name) {
            errors.push(Error::invalid(path, name, "must be a standard resource for containers"));
        }
    } else if !is_native(name) && !is_extended(name) {
        errors.push(Error::invalid(path, name, "doesn't follow extended resource name standard"));
    }
}

/// Names that stand without a domain, for containers or for quotas.
pub fn is_standard(name: &str) -> bool {
    const NAMES: [&str; 21] = [
        "cpu",
        "memory",
        "ephemeral-storage",
        "requests.cpu",
        "requests.memory",
        "requests.ephemeral-storage",
        "limits.cpu",
        "limits.memory",
        "limits.ephemeral-storage",
        "pods",
        "resourcequotas",
        "services",
        "replicationcontrollers",
        "secrets",
        "configmaps",
        "persistentvolumeclaims",
        "storage",
        "requests.storage",
        "services.nodeports",
        "services.loadbalancers",
        "count",
    ];
    NAMES.contains(&name) || is_huge_page(name) || name.starts_with("requests.hugepages-")
}

/// An amount of a resource: not negative, whole where the resource comes in pieces.
pub fn quantity(name: &str, q: &Quantity, path: &Path, errors: &mut ErrorList) {
    let a = amount(q);
    if a.is_negative() {
        errors.push(Error::invalid(path, &q.0, "must be greater than or equal to 0"));
    }
    let in_pieces = matches!(
        name,
        "pods"
            | "resourcequotas"
            | "services"
            | "replicationcontrollers"
            | "secrets"
            | "configmaps"
            | "persistentvolumeclaims"
            | "services.nodeports"
            | "services.loadbalancers"
    ) || is_extended(name);
    if in_pieces && !a.is_whole() {
        errors.push(Error::invalid(path, q, "must be an integer"));
    }
}

/// A list of resources that are all a container's.
pub fn list(l: &BTreeMap<String, Quantity>, path: &Path, errors: &mut ErrorList) {
    for (name, q) in l {
        let path = path.key(name);
        container_resource_name(name, &path, errors);
        quantity(name, q, &path, errors);
    }
}

fn huge_page_size(name: &str, q: &Quantity, path: &Path, errors: &mut ErrorList) {
    let Some(size) = name.strip_prefix("hugepages-") else { return };
    let size = crate::kinds::quantity::Amount::parse(size).map_or(0, |a| a.value());
    if size <= 0 || amount(q).value() % size != 0 {
        let why = format!("{} is not positive integer multiple of {name}", q.0);
        errors.push(Error::invalid(path, &q.0, why));
    }
}

fn requirements(
    r: &ResourceRequirements,
    claims: &BTreeSet<&str>,
    name_rule: fn(&str, &Path, &mut ErrorList),
    path: &Path,
    errors: &mut ErrorList,
) {
    let (at_limits, at_requests) = (path.child("limits"), path.child("requests"));
    let blank = BTreeMap::new();
    let limits = r.limits.as_ref().unwrap_or(&blank);
    let requests = r.requests.as_ref().unwrap_or(&blank);
    for (name, q) in limits {
        let path = at_limits.key(name);
        name_rule(name, &path, errors);
        quantity(name, q, &path, errors);
        huge_page_size(name, q, &path, errors);
    }
    for (name, q) in requests {
        let path = at_requests.key(name);
        name_rule(name, &path, errors);
        quantity(name, q, &path, errors);
        match limits.get(name) {
            Some(limit) => {
                let (asked, bound) = (amount(q), amount(limit));
                if asked != bound && !can_overcommit(name) {
                    let why = format!("must be equal to {name} limit of {}", limit.0);
                    errors.push(Error::invalid(&at_requests, &q.0, why));
                } else if asked > bound {
                    let why = format!("must be less than or equal to {name} limit of {}", limit.0);
                    errors.push(Error::invalid(&at_requests, &q.0, why));
                }
            }
            None if !can_overcommit(name) => {
                errors
                    .push(Error::required(&at_limits, "Limit must be set for non overcommitable resources"));
            }
            None => {}
        }
        huge_page_size(name, q, &path, errors);
    }
    let any = |f: fn(&str) -> bool| limits.keys().chain(requests.keys()).any(|k| f(k));
    if any(is_huge_page) && !any(|k| k == "cpu" || k == "memory") {
        errors.push(Error::forbidden(path, "HugePages require cpu or memory"));
    }
    let mut seen = BTreeSet::new();
    for (i, c) in items(&r.claims).iter().enumerate() {
        let path = path.child("claims").index(i);
        if c.name.is_empty() {
            errors.push(Error::required(&path, ""));
            continue;
        }
        if !claims.contains(c.name.as_str()) {
            errors.push(Error::not_found(&path, &c.name));
        }
        if !seen.insert((&c.name, &c.request)) {
            errors.push(Error::duplicate(&path, &c.name));
        }
    }
}

/// Resources of a container.
pub fn container(r: &ResourceRequirements, claims: &BTreeSet<&str>, path: &Path, errors: &mut ErrorList) {
    requirements(r, claims, container_resource_name, path, errors);
}

fn pod_resource_name(name: &str, path: &Path, errors: &mut ErrorList) {
    container_resource_name(name, path, errors);
    if !is_pod_level(name) {
        errors.push(Error::not_supported(path, name, &["cpu", "hugepages-", "memory"]));
    }
}

/// Resources of the pod as a whole: at least what its containers ask for.
pub fn pod_level(s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(r) = &s.resources else { return };
    if r.claims.is_some() {
        errors.push(Error::forbidden(
            &path.child("claims"),
            "claims may not be set for Resources at pod-level",
        ));
    }
    requirements(r, &BTreeSet::new(), pod_resource_name, path, errors);
    let asked = of_containers(s, |c| c.resources.as_ref()?.requests.as_ref());
    for (name, sum) in &asked {
        if let Some(q) = r.requests.as_ref().and_then(|l| l.get(name))
            && *sum > amount(q)
        {
            let why = format!("must be greater than or equal to aggregate container requests of {sum}");
            errors.push(Error::invalid(&path.child("requests").key(name), &q.0, why));
        }
    }
    for (i, c) in s.containers.iter().enumerate() {
        let limits = c.resources.as_ref().and_then(|r| r.limits.as_ref());
        for (name, q) in limits.into_iter().flatten() {
            if let Some(bound) = r.limits.as_ref().and_then(|l| l.get(name))
                && amount(q) > amount(bound)
            {
                let at = path.child("limits").key(name);
                let _ = i;
                let why = format!("must be less than or equal to {name} limit of {}", bound.0);
                errors.push(Error::invalid(&at, &q.0, why));
            }
        }
    }
}

/// What a change of resources does to the container.
pub fn resize_policy(list: &[ContainerResizePolicy], restart: &str, path: &Path, errors: &mut ErrorList) {
    let mut seen = BTreeSet::new();
    for (i, p) in list.iter().enumerate() {
        if !seen.insert(p.resource_name.as_str()) {
            errors.push(Error::duplicate(&path.index(i), &p.resource_name));
        }
        one_of(&p.resource_name, &["cpu", "memory"], path, errors);
        one_of(&p.restart_policy, &["NotRequired", "RestartContainer"], path, errors);
        if restart == "Never" && p.restart_policy != "NotRequired" {
            errors.push(Error::invalid(
                path,
                &p.restart_policy,
                "must be 'NotRequired' when pod `restartPolicy` is 'Never'",
            ));
        }
    }
}

/// Device claims that the pod names.
pub fn claims(list: &[PodResourceClaim], path: &Path, errors: &mut ErrorList) {
    let mut names = BTreeSet::new();
    for (i, c) in list.iter().enumerate() {
        let path = path.index(i);
        if c.name.is_empty() {
            errors.push(Error::required(&path.child("name"), ""));
        } else if !names.insert(&c.name) {
            errors.push(Error::duplicate(&path.child("name"), &c.name));
        } else {
            errors.extend(invalid_each(&path.child("name"), &c.name, rules::dns1123_label(&c.name)));
        }
        match (&c.resource_claim_name, &c.resource_claim_template_name) {
            (Some(_), Some(_)) => errors.push(Error::invalid(
                &path,
                c,
                "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified",
            )),
            (None, None) => errors.push(Error::invalid(
                &path,
                c,
                "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
            )),
            _ => {}
        }
        for (field, name) in [
            ("resourceClaimName", &c.resource_claim_name),
            ("resourceClaimTemplateName", &c.resource_claim_template_name),
        ] {
            if name.is_some() {
                errors.extend(invalid_each(
                    &path.child(field),
                    text(name),
                    rules::dns1123_subdomain(text(name)),
                ));
            }
        }
    }
}
