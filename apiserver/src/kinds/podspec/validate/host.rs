//! What a pod shares with its host, and how it is named on the network.

use k8s_openapi::api::core::v1::{HostAlias, PodSpec};

use crate::field::{Error, ErrorList, Path};
use crate::kinds::semantic::{items, text};
use crate::kinds::validate::{invalid_each, text as rules};

/// On the host's network a port of the container is the same port of the host.
pub fn network_ports(s: &PodSpec, is_pod: bool, path: &Path, errors: &mut ErrorList) {
    if s.host_network != Some(true) {
        return;
    }
    for (i, c) in s.containers.iter().enumerate() {
        for (j, p) in items(&c.ports).iter().enumerate() {
            let host = p.host_port.unwrap_or(0);
            if (is_pod || host != 0) && host != p.container_port {
                errors.push(Error::invalid(
                    &path.index(i).child("ports").index(j).child("hostPort"),
                    host,
                    "must match `containerPort` when `hostNetwork` is true",
                ));
            }
        }
    }
}

/// A user namespace of its own excludes the host's other namespaces.
pub fn users(s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    if s.host_users != Some(false) {
        return;
    }
    for (field, shared) in [("hostNetwork", s.host_network), ("HostPID", s.host_pid), ("HostIPC", s.host_ipc)]
    {
        if shared == Some(true) {
            errors.push(Error::forbidden(&path.child(field), "when `hostUsers` is false"));
        }
    }
}

/// A hostname that overrides the pod's name.
pub fn hostname_override(s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let Some(name) = &s.hostname_override else { return };
    let at = path.child("hostnameOverride");
    if s.set_hostname_as_fqdn == Some(true) {
        errors.push(Error::forbidden(&at, "may not be specified when setHostnameAsFQDN is true"));
    }
    if s.host_network == Some(true) {
        errors.push(Error::forbidden(&at, "may not be specified when hostNetwork is true"));
    }
    if name.len() > 64 {
        errors.push(Error::too_long(&at, 64));
    }
    errors.extend(invalid_each(&at, name, rules::dns1123_subdomain(name)));
}

/// Entries for `/etc/hosts`.
pub fn aliases(list: &[HostAlias], path: &Path, errors: &mut ErrorList) {
    for (i, a) in list.iter().enumerate() {
        errors.extend(invalid_each(&path.index(i).child("ip"), &a.ip, rules::ip(&a.ip)));
        for (j, name) in items(&a.hostnames).iter().enumerate() {
            let at = path.index(i).child("hostnames").index(j);
            errors.extend(invalid_each(&at, name, rules::dns1123_subdomain(name)));
        }
    }
}

/// Settings of the resolver.
pub fn dns_config(s: &PodSpec, path: &Path, errors: &mut ErrorList) {
    let nameservers = s.dns_config.as_ref().map(|c| items(&c.nameservers)).unwrap_or_default();
    if text(&s.dns_policy) == "None" {
        if s.dns_config.is_none() {
            errors.push(Error::required(path, "must provide `dnsConfig` when `dnsPolicy` is None"));
            return;
        }
        if nameservers.is_empty() {
            errors.push(Error::required(
                &path.child("nameservers"),
                "must provide at least one DNS nameserver when `dnsPolicy` is None",
            ));
            return;
        }
    }
    let Some(c) = &s.dns_config else { return };
    if nameservers.len() > 3 {
        errors.push(Error::invalid(
            &path.child("nameservers"),
            nameservers,
            "must not have more than 3 nameservers",
        ));
    }
    for (i, n) in nameservers.iter().enumerate() {
        errors.extend(invalid_each(&path.child("nameservers").index(i), n, rules::ip(n)));
    }
    let searches = items(&c.searches);
    if searches.len() > 32 {
        errors.push(Error::invalid(
            &path.child("searches"),
            searches,
            "must not have more than 32 search paths",
        ));
    }
    if searches.join(" ").len() > 2048 {
        errors.push(Error::invalid(
            &path.child("searches"),
            searches,
            "must not have more than 2048 characters (including spaces) in the search list",
        ));
    }
    for (i, domain) in searches.iter().enumerate() {
        if domain == "." {
            continue;
        }
        let domain = domain.strip_suffix('.').unwrap_or(domain);
        let at = path.child("searches").index(i);
        errors.extend(invalid_each(&at, domain, rules::dns1123_subdomain_with_underscore(domain)));
    }
    for (i, o) in items(&c.options).iter().enumerate() {
        if text(&o.name).is_empty() {
            errors.push(Error::required(&path.child("options").index(i), "must not be empty"));
        }
    }
}
