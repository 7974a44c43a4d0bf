//! The Node authorizer: what a kubelet may do, narrowed to its own node and to the objects its pods use.

use std::sync::Arc;

use super::graph::{Graph, Kind};
use super::rules::Rule;
use super::selector::Requirement;
use super::{Attributes, Decision};
use crate::request::UserInfo;

const NODE_USER_PREFIX: &str = "system:node:";
const NODES_GROUP: &str = "system:nodes";
const NODE_LEASE_NAMESPACE: &str = "kube-node-lease";

/// The node that a user is, if it is one: `system:node:NAME` in group `system:nodes`.
pub fn node_name(user: &UserInfo) -> Option<&str> {
    user.name.strip_prefix(NODE_USER_PREFIX).filter(|_| user.in_group(NODES_GROUP))
}

/// See the module.
#[derive(Debug)]
pub struct NodeAuthorizer {
    graph: Arc<Graph>,
    /// What all nodes may do with resources that are not narrowed here.
    rules: Vec<Rule>,
}

fn no(reason: impl Into<String>) -> Decision {
    Decision::NoOpinion(reason.into())
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

impl NodeAuthorizer {
    /// The static rules are those of the bootstrap cluster role `system:node`.
    pub fn new(graph: Arc<Graph>) -> Result<Self, String> {
        Ok(Self { graph, rules: crate::bootstrap::data::node_rules()? })
    }

    pub fn is_node(&self, user: &UserInfo) -> bool {
        node_name(user).is_some()
    }

    pub fn authorize(&self, a: &Attributes<'_>) -> Decision {
        let Some(node) = node_name(a.user) else { return no("") };
        if node.is_empty() {
            return no(format!("unknown node for user {}", super::quoted(&a.user.name)));
        }
        if a.is_resource {
            match (a.api_group, a.resource) {
                ("", "secrets") => return self.read(node, Kind::Secret, a),
                ("", "configmaps") => return self.read(node, Kind::ConfigMap, a),
                ("", "persistentvolumeclaims") if a.subresource == "status" => {
                    return self.claim_status(node, a);
                }
                ("", "persistentvolumeclaims") => return self.get(node, Kind::Claim, a),
                ("", "persistentvolumes") => return self.get(node, Kind::Volume, a),
                ("resource.k8s.io", "resourceclaims") => return self.get(node, Kind::ResourceClaim, a),
                ("resource.k8s.io", "resourceslices") => return self.slice(node, a),
                ("storage.k8s.io", "volumeattachments") => return self.get(node, Kind::VolumeAttachment, a),
                ("storage.k8s.io", "csinodes") => return own_csi_node(node, a),
                ("", "serviceaccounts") => return self.service_account(node, a),
                ("coordination.k8s.io", "leases") => return own_lease(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => return self.pod(node, a),
                ("certificates.k8s.io", "podcertificaterequests") => {
                    return self.certificate_request(node, a);
                }
                _ => {}
            }
        }
        if self.rules.iter().any(|r| r.allows(a)) { yes() } else { no("") }
    }

    fn related(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
        if a.name.is_empty() {
            return no("No Object name found");
        }
        if self.graph.related(node, kind, a.namespace, a.name) {
            return yes();
        }
        no(format!("no relationship found between node '{node}' and this object"))
    }

    fn get(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
        if a.verb != "get" {
            return no("can only get individual resources of this type");
        }
        if !a.subresource.is_empty() {
            return no("cannot get subresource");
        }
        self.related(node, kind, a)
    }

    fn read(&self, node: &str, kind: Kind, a: &Attributes<'_>) -> Decision {
        if !matches!(a.verb, "get" | "list" | "watch") {
            return no("can only read resources of this type");
        }
        if !a.subresource.is_empty() {
            return no("cannot read subresource");
        }
        if a.namespace.is_empty() {
            return no("can only read namespaced object of this type");
        }
        self.related(node, kind, a)
    }

    fn claim_status(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if !matches!(a.verb, "update" | "patch") {
            return no("can only get/update/patch this type");
        }
        self.related(node, Kind::Claim, a)
    }

    fn service_account(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if a.verb == "get" && a.subresource.is_empty() {
            return self.read(node, Kind::ServiceAccount, a);
        }
        if a.verb != "create" || a.name.is_empty() {
            return no("can only create tokens for individual service accounts");
        }
        if a.subresource != "token" {
            return no("can only create token subresource of serviceaccount");
        }
        self.related(node, Kind::ServiceAccount, a)
    }

    fn slice(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if !a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match a.verb {
            // Admission compares the node name of what is created.
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => self.related(node, Kind::ResourceSlice, a),
            "watch" | "list" | "deletecollection" => {
                if Requirement::pins(&a.field_selector, "spec.nodeName", node) {
                    return yes();
                }
                no("can only list/watch/deletecollection resourceslices with nodeName field selector")
            }
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }

    fn certificate_request(&self, node: &str, a: &Attributes<'_>) -> Decision {
        if !a.subresource.is_empty() {
            return no("nodes may not access the status subresource of PodCertificateRequests");
        }
        match a.verb {
            "create" => yes(),
            "get" => self.related(node, Kind::PodCertificateRequest, a),
            "list" | "watch" if Requirement::pins(&a.field_selector, "spec.nodeName", node) => yes(),
            "list" | "watch" => no("can only list/watch podcertificaterequests with nodeName field selector"),
            verb => no(format!("nodes may not {verb} podcertificaterequests")),
        }
    }

    fn pod(&self, node: &str, a: &Attributes<'_>) -> Decision {
        match (a.subresource, a.verb) {
            ("", "get") => self.get(node, Kind::Pod, a),
            ("", "list" | "watch") => {
                if Requirement::pins(&a.field_selector, "spec.nodeName", node) {
                    return yes();
                }
                if !a.name.is_empty() {
                    return self.related(node, Kind::Pod, a);
                }
                no("can only list/watch pods with spec.nodeName field selector")
            }
            // Mirror pods, status and evictions: NodeRestriction compares with the node.
            ("", "create" | "delete") | ("status", "update" | "patch") | ("eviction", "create") => yes(),
            _ => no(""),
        }
    }
}

fn own_node(node: &str, a: &Attributes<'_>) -> Decision {
    match (a.subresource, a.verb) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") => {
            if a.name == node {
                yes()
            } else if a.name.is_empty() {
                no(format!("node '{node}' cannot read all nodes, only its own Node object"))
            } else {
                no(format!("node '{node}' cannot read '{}', only its own Node object", a.name))
            }
        }
        _ => no(""),
    }
}

fn own_lease(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != NODE_LEASE_NAMESPACE {
        return no(format!("can only access leases in the \"{NODE_LEASE_NAMESPACE}\" system namespace"));
    }
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn own_csi_node(node: &str, a: &Attributes<'_>) -> Decision {
    if !matches!(a.verb, "get" | "create" | "update" | "patch" | "delete") {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn decisions() {
        let graph = Arc::new(Graph::default());
        graph.upsert(
            "pods",
            &json!({"metadata":{"name":"p","namespace":"ns"},"spec":{"nodeName":"n1","serviceAccountName":"sa",
                "volumes":[{"secret":{"secretName":"s"}}]}}),
        );
        let authorizer = NodeAuthorizer::new(graph).unwrap();
        let node = UserInfo {
            name: "system:node:n1".into(),
            groups: vec!["system:nodes".into()],
            ..UserInfo::default()
        };
        // verb, group, resource, subresource, namespace, name, field selector, allowed
        let table = [
            ("get", "", "secrets", "", "ns", "s", "", true),
            ("watch", "", "secrets", "", "ns", "s", "", true),
            ("list", "", "secrets", "", "ns", "", "", false),
            ("get", "", "secrets", "", "ns", "other", "", false),
            ("update", "", "secrets", "", "ns", "s", "", false),
            ("create", "", "serviceaccounts", "token", "ns", "sa", "", true),
            ("create", "", "serviceaccounts", "token", "ns", "default", "", false),
            ("get", "", "serviceaccounts", "", "ns", "sa", "", true),
            ("list", "", "pods", "", "", "", "spec.nodeName=n1", true),
            ("watch", "", "pods", "", "", "", "spec.nodeName=n2", false),
            ("list", "", "pods", "", "", "", "", false),
            ("get", "", "pods", "", "ns", "p", "", true),
            ("patch", "", "pods", "status", "ns", "x", "", true),
            ("create", "", "pods", "eviction", "ns", "x", "", true),
            ("get", "", "pods", "log", "ns", "p", "", false),
            ("get", "", "nodes", "", "", "n1", "", true),
            ("get", "", "nodes", "", "", "n2", "", false),
            ("list", "", "nodes", "", "", "", "", false),
            ("patch", "", "nodes", "status", "", "n1", "", true),
            ("delete", "", "nodes", "", "", "n1", "", false),
            ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n1", "", true),
            ("update", "coordination.k8s.io", "leases", "", "kube-node-lease", "n2", "", false),
            ("update", "coordination.k8s.io", "leases", "", "kube-system", "n1", "", false),
            ("create", "coordination.k8s.io", "leases", "", "kube-node-lease", "", "", true),
            ("get", "storage.k8s.io", "csinodes", "", "", "n1", "", true),
            ("list", "", "services", "", "", "", "", true),
            ("watch", "node.k8s.io", "runtimeclasses", "", "", "", "", true),
            ("create", "", "events", "", "ns", "", "", true),
            ("delete", "apps", "deployments", "", "ns", "d", "", false),
        ];
        for (verb, group, resource, sub, ns, name, fields, want) in table {
            let mut a = Attributes::resource(&node, verb, group, resource, name);
            a.subresource = sub;
            a.namespace = ns;
            a.field_selector = super::super::selector::parse_fields(fields);
            let d = authorizer.authorize(&a);
            assert_eq!(d.is_allowed(), want, "{verb} {resource}/{sub} {ns}/{name} {fields}: {d:?}");
        }
        let impostor = UserInfo { name: "system:node:n1".into(), ..UserInfo::default() };
        let a = Attributes::resource(&impostor, "get", "", "nodes", "n1");
        assert_eq!(authorizer.authorize(&a), Decision::NoOpinion(String::new()));
    }

    #[test]
    fn reasons() {
        let authorizer = NodeAuthorizer::new(Arc::default()).unwrap();
        let node = UserInfo {
            name: "system:node:n1".into(),
            groups: vec!["system:nodes".into()],
            ..UserInfo::default()
        };
        let mut a = Attributes::resource(&node, "get", "", "secrets", "s");
        a.namespace = "ns";
        assert_eq!(
            authorizer.authorize(&a).reason(),
            "no relationship found between node 'n1' and this object"
        );
    }
}
