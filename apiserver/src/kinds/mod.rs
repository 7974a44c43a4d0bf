//! What is particular to each kind: defaults, preparation, validation, selectable fields and table cells.
//!
//! The generic registry asks here by group and resource. A kind that is not listed gets no rules: it is stored
//! as the client sent it. Rules are typed ([`crate::registry::strategy::Strategy`]), one file per kind or
//! closely related group of kinds; [`adapter`] erases the type.

pub mod adapter;
pub mod apps;
pub mod core;
pub mod fields;
pub mod names;
pub mod podspec;
pub mod quantity;
pub mod semantic;
pub mod table;
pub mod validate;

use adapter::Erased;

use crate::registry::strategy::DynStrategy;

pub use fields::{selectable_fields, supported_field_selectors};
pub use names::validate_name;
pub use table::{row_conditions, table_cells, table_columns};

/// Rules of a resource, none if it has none of its own. The versions of a group share them.
pub fn strategy(group: &str, resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match (group, resource) {
        ("", "configmaps") => &Erased(core::config::ConfigMap),
        ("", "namespaces") => &Erased(core::namespace::Namespace),
        ("", "nodes") => &Erased(core::node::Node),
        ("", "pods") => &Erased(core::pod::Pod),
        ("", "secrets") => &Erased(core::config::Secret),
        ("", "serviceaccounts") => &Erased(core::service_account::ServiceAccount),
        ("", "services") => &Erased(core::service::Service),
        ("apps", "deployments") => &Erased(apps::deployment::Deployment),
        ("apps", "replicasets") => &Erased(apps::replicaset::ReplicaSet),
        _ => return None,
    })
}
