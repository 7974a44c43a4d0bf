//! What names an object of each kind may have.

use super::validate::{NameFn, address, text};
use crate::field::Path;

fn subdomain(name: &str, prefix: bool) -> Vec<String> {
    text::dns1123_subdomain(&text::unmask(name, prefix))
}

fn label(name: &str, prefix: bool) -> Vec<String> {
    text::dns1123_label(&text::unmask(name, prefix))
}

/// A subdomain whose length is counted, and told, in bytes.
fn long_name(name: &str, prefix: bool) -> Vec<String> {
    subdomain(name, prefix).into_iter().map(|m| m.replace("253 characters", "253 bytes")).collect()
}

/// The canonical text of an IP address.
fn ip_address(name: &str, _prefix: bool) -> Vec<String> {
    address::ip(name, &Path::default()).iter().map(|e| e.detail.clone()).collect()
}

/// `<storage version's group>.<resource>`.
fn storage_version(name: &str, _prefix: bool) -> Vec<String> {
    match name.rsplit_once('.') {
        None => vec!["name must be in the form of <group>.<resource>".to_owned()],
        Some((group, resource)) => {
            let mut out: Vec<String> = text::dns1123_subdomain(group)
                .into_iter()
                .map(|m| format!("the group segment {m}"))
                .collect();
            out.extend(
                text::dns1035_label(resource).into_iter().map(|m| format!("the resource segment {m}")),
            );
            out
        }
    }
}

/// The rule for names of a resource. Those that are not listed, custom ones included, are RFC 1123 subdomains.
pub fn name_fn(group: &str, resource: &str) -> NameFn {
    match (group, resource) {
        ("", "namespaces" | "services") => label,
        ("", "replicationcontrollers") | ("resource.k8s.io", "deviceclasses") => long_name,
        ("", "events") => text::path_segment,
        ("certificates.k8s.io", "certificatesigningrequests") => text::path_segment,
        ("policy", "poddisruptionbudgets") => text::path_segment,
        ("apps", "statefulsets") => label,
        ("rbac.authorization.k8s.io", _) => text::path_segment,
        ("networking.k8s.io", "ipaddresses") => ip_address,
        ("internal.apiserver.k8s.io", "storageversions") => storage_version,
        ("apiregistration.k8s.io", "apiservices") => text::path_segment,
        _ => subdomain,
    }
}

/// What is wrong with `name`; none if nothing.
pub fn validate_name(group: &str, resource: &str, name: &str) -> Option<Vec<String>> {
    Some(name_fn(group, resource)(name, false)).filter(|v| !v.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn per_kind() {
        assert_eq!(validate_name("", "pods", "a.b"), None);
        assert!(validate_name("", "namespaces", "a.b").is_some());
        assert!(validate_name("", "services", "a.b").is_some());
        assert_eq!(validate_name("rbac.authorization.k8s.io", "roles", "system:x"), None);
        assert!(validate_name("networking.k8s.io", "ipaddresses", "2001:DB8::1").is_some());
        assert!(name_fn("", "pods")("ab-", true).is_empty());
    }
}
