//! Roles and their bindings.

use k8s_openapi::api::rbac::v1 as api;

use crate::kinds::semantic::fill;
use crate::registry::strategy::Strategy;

const GROUP: &str = "rbac.authorization.k8s.io";

/// Rules of roles.
pub struct Role;

/// Rules of cluster roles.
pub struct ClusterRole;

/// Rules of role bindings.
pub struct RoleBinding;

/// Rules of cluster role bindings.
pub struct ClusterRoleBinding;

fn default_binding(role: &mut api::RoleRef, subjects: &mut Option<Vec<api::Subject>>) {
    fill(&mut role.api_group, GROUP);
    for s in subjects.iter_mut().flatten() {
        if matches!(s.kind.as_str(), "User" | "Group") {
            fill(&mut s.api_group, GROUP);
        }
    }
}

impl Strategy for Role {
    type Object = api::Role;
}

impl Strategy for ClusterRole {
    type Object = api::ClusterRole;
}

impl Strategy for RoleBinding {
    type Object = api::RoleBinding;

    fn default(&self, b: &mut api::RoleBinding) {
        default_binding(&mut b.role_ref, &mut b.subjects);
    }
}

impl Strategy for ClusterRoleBinding {
    type Object = api::ClusterRoleBinding;

    fn default(&self, b: &mut api::ClusterRoleBinding) {
        default_binding(&mut b.role_ref, &mut b.subjects);
    }
}
