//! The few ways in which kinds differ for the generic handlers: where they are stored, how they are named, what
//! a PUT may do, what a delete answers.

use crate::kinds::validate::NameFn;

/// Default fate of dependents when the delete does not say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GarbageCollection {
    /// Dependents are deleted in the background, unless the object's finalizers say otherwise.
    Dependents,
    /// They become orphans, which they did before there was a choice.
    Orphans,
    /// The kind takes no part in garbage collection.
    Unsupported,
}

/// The differences of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// What names may look like.
    pub name: NameFn,
    /// PUT may create.
    pub create_on_update: bool,
    /// PUT without resourceVersion may replace.
    pub unconditional_update: bool,
    /// A delete answers with the object instead of a `Status`.
    pub returns_deleted: bool,
    pub garbage_collection: GarbageCollection,
}

/// How often upstream looks at the form of an object's metadata in an update: its handlers do twice, and most kinds'
/// rules once more, in some of them both as for a new object and as for a changed one. Each time the same is told.
pub fn metadata_checks(group: &str, resource: &str, subresource: &str) -> usize {
    let twice = match (group, resource) {
        ("policy", "poddisruptionbudgets") => return 2,
        ("", "events") => return 2,
        ("batch", "cronjobs") if !subresource.is_empty() => return 2,
        ("certificates.k8s.io", "certificatesigningrequests") => return 4,
        ("", r) => matches!(
            r,
            "configmaps"
                | "endpoints"
                | "namespaces"
                | "nodes"
                | "persistentvolumeclaims"
                | "persistentvolumes"
                | "pods"
                | "secrets"
                | "serviceaccounts"
        ),
        ("apps", r) => r == "controllerrevisions",
        ("batch", r) => r == "jobs",
        ("networking.k8s.io", r) => matches!(r, "ingresses" | "ingressclasses" | "ipaddresses"),
        ("node.k8s.io", _) | ("rbac.authorization.k8s.io", _) | ("apiregistration.k8s.io", _) => true,
        ("resource.k8s.io", r) => r != "resourceslices",
        ("storage.k8s.io", r) => {
            matches!(r, "csistoragecapacities" | "storageclasses" | "volumeattributesclasses")
        }
        _ => false,
    };
    if twice && subresource.is_empty() { 4 } else { 3 }
}

/// Key prefix of a resource, with the slash at the end.
pub fn key_prefix(group: &str, resource: &str) -> String {
    let dir = match (group, resource) {
        ("", "replicationcontrollers") => "controllers",
        ("", "endpoints") => "services/endpoints",
        ("", "nodes") => "minions",
        ("", "services") => "services/specs",
        ("networking.k8s.io", "ingresses") => "ingress",
        ("events.k8s.io", "events") => "events",
        ("apiregistration.k8s.io" | "apiextensions.k8s.io", r) => return format!("/registry/{group}/{r}/"),
        (_, r) => r,
    };
    format!("/registry/{dir}/")
}

/// The group and version in which a resource is stored, where it is not its only or newest one.
pub fn storage_group_version(group: &str, resource: &str) -> Option<(&'static str, &'static str)> {
    match (group, resource) {
        ("events.k8s.io", "events") => Some(("", "v1")),
        ("autoscaling", "horizontalpodautoscalers") => Some(("autoscaling", "v2")),
        _ => None,
    }
}

/// The differences of a resource.
pub fn of(group: &str, resource: &str) -> Rules {
    let name = crate::kinds::names::name_fn(group, resource);
    let create_on_update = matches!(
        (group, resource),
        ("", "endpoints" | "events" | "limitranges" | "services")
            | ("events.k8s.io", "events")
            | ("coordination.k8s.io", _)
            | ("node.k8s.io", "runtimeclasses")
            | ("rbac.authorization.k8s.io", _)
    );
    let unconditional_update = !matches!(
        (group, resource),
        ("admissionregistration.k8s.io" | "internal.apiserver.k8s.io" | "storagemigration.k8s.io", _)
            | ("certificates.k8s.io", "clustertrustbundles" | "podcertificaterequests")
            | ("coordination.k8s.io", _)
            | ("node.k8s.io", "runtimeclasses")
            | ("policy", "poddisruptionbudgets")
            | ("storage.k8s.io", "csidrivers" | "csinodes" | "csistoragecapacities" | "volumeattachments")
            | ("apiextensions.k8s.io" | "apiregistration.k8s.io", _)
    );
    let returns_deleted = matches!(
        (group, resource),
        ("resource.k8s.io", _)
            | (
                "storage.k8s.io",
                "csidrivers"
                    | "storageclasses"
                    | "volumeattachments"
                    | "csinodes"
                    | "volumeattributesclasses"
            )
            | (
                "",
                "resourcequotas"
                    | "persistentvolumes"
                    | "serviceaccounts"
                    | "persistentvolumeclaims"
                    | "namespaces"
                    | "pods"
                    | "services"
                    | "podtemplates"
            )
    );
    let garbage_collection = match (group, resource) {
        (_, "events") => GarbageCollection::Unsupported,
        ("", "replicationcontrollers") | ("batch", "jobs") => GarbageCollection::Orphans,
        _ => GarbageCollection::Dependents,
    };
    Rules { name, create_on_update, unconditional_update, returns_deleted, garbage_collection }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        assert_eq!(key_prefix("", "pods"), "/registry/pods/");
        assert_eq!(key_prefix("", "services"), "/registry/services/specs/");
        assert_eq!(key_prefix("events.k8s.io", "events"), "/registry/events/");
        assert_eq!(metadata_checks("", "nodes", ""), 4);
        assert_eq!(metadata_checks("", "nodes", "status"), 3);
        assert_eq!(metadata_checks("apps", "deployments", ""), 3);
        assert_eq!(
            key_prefix("apiregistration.k8s.io", "apiservices"),
            "/registry/apiregistration.k8s.io/apiservices/"
        );
    }
}
