//! What is particular to each kind: defaults, preparation, validation, selectable fields and table cells.
//!
//! The generic registry asks here by group and resource. A kind that is not listed gets no rules: it is stored
//! as the client sent it. Rules are typed ([`crate::registry::strategy::Strategy`]), one file per kind or
//! closely related group of kinds; [`adapter`] erases the type.

pub mod adapter;
pub mod admissionregistration;
pub mod apps;
pub mod autoscaling;
pub mod batch;
pub mod core;
pub mod fields;
pub mod flowcontrol;
mod in_place;
pub mod misc;
pub mod names;
pub mod networking;
pub mod podspec;
pub mod policy;
pub mod quantity;
pub mod rbac;
pub mod semantic;
pub mod storage;
pub mod table;
pub mod validate;

#[cfg(test)]
mod tests;

use adapter::Erased;

use crate::registry::strategy::DynStrategy;

pub use fields::{indexed_field, selectable_fields, selectable_paths, supported_field_selectors};
pub use names::validate_name;
pub use table::{Column, human_duration, row_conditions, table_cells, table_columns};

/// Rules of a resource, none if it has none of its own. The versions of a group share them.
pub fn strategy(group: &str, resource: &str) -> Option<&'static dyn DynStrategy> {
    match group {
        "" => core_group(resource),
        "apps" => apps_group(resource),
        "storage.k8s.io" | "resource.k8s.io" => storage_groups(resource),
        "networking.k8s.io" | "discovery.k8s.io" => networking_groups(resource),
        "rbac.authorization.k8s.io" => rbac_group(resource),
        "admissionregistration.k8s.io" => admission_group(resource),
        _ => other_groups(group, resource),
    }
}

fn core_group(resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match resource {
        "configmaps" => &Erased(core::config::ConfigMap),
        "endpoints" => &Erased(core::endpoints::Endpoints),
        "events" => &Erased(core::event::Event),
        "limitranges" => &Erased(core::limits::LimitRange),
        "namespaces" => &Erased(core::namespace::Namespace),
        "nodes" => &Erased(core::node::Node),
        "persistentvolumeclaims" => &Erased(core::volume::PersistentVolumeClaim),
        "persistentvolumes" => &Erased(core::volume::PersistentVolume),
        "pods" => &Erased(core::pod::Pod),
        "podtemplates" => &Erased(core::pod_template::PodTemplate),
        "replicationcontrollers" => &Erased(apps::replication_controller::ReplicationController),
        "resourcequotas" => &Erased(core::quota::ResourceQuota),
        "secrets" => &Erased(core::config::Secret),
        "serviceaccounts" => &Erased(core::service_account::ServiceAccount),
        "services" => &Erased(core::service::Service),
        _ => return None,
    })
}

fn apps_group(resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match resource {
        "controllerrevisions" => &Erased(apps::controller_revision::ControllerRevision),
        "daemonsets" => &Erased(apps::daemonset::DaemonSet),
        "deployments" => &Erased(apps::deployment::Deployment),
        "replicasets" => &Erased(apps::replicaset::ReplicaSet),
        "statefulsets" => &Erased(apps::statefulset::StatefulSet),
        _ => return None,
    })
}

fn storage_groups(resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match resource {
        "csidrivers" => &Erased(storage::csi::CsiDriver),
        "csinodes" => &Erased(storage::csi::CsiNode),
        "csistoragecapacities" => &Erased(storage::csi::CsiStorageCapacity),
        "storageclasses" => &Erased(storage::class::StorageClass),
        "volumeattachments" => &Erased(storage::attachment::VolumeAttachment),
        "volumeattributesclasses" => &Erased(storage::class::VolumeAttributesClass),
        "deviceclasses" => &Erased(storage::device::DeviceClass),
        "resourceclaims" => &Erased(storage::device::ResourceClaim),
        "resourceclaimtemplates" => &Erased(storage::device::ResourceClaimTemplate),
        "resourceslices" => &Erased(storage::device::ResourceSlice),
        _ => return None,
    })
}

fn networking_groups(resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match resource {
        "endpointslices" => &Erased(networking::endpoint_slice::EndpointSlice),
        "ingressclasses" => &Erased(networking::ingress::IngressClass),
        "ingresses" => &Erased(networking::ingress::Ingress),
        "ipaddresses" => &Erased(networking::addresses::IpAddress),
        "networkpolicies" => &Erased(networking::network_policy::NetworkPolicy),
        "servicecidrs" => &Erased(networking::addresses::ServiceCidr),
        _ => return None,
    })
}

fn rbac_group(resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match resource {
        "clusterrolebindings" => &Erased(rbac::ClusterRoleBinding),
        "clusterroles" => &Erased(rbac::ClusterRole),
        "rolebindings" => &Erased(rbac::RoleBinding),
        "roles" => &Erased(rbac::Role),
        _ => return None,
    })
}

fn admission_group(resource: &str) -> Option<&'static dyn DynStrategy> {
    use admissionregistration::{policy, webhook};
    Some(match resource {
        "mutatingadmissionpolicies" => &Erased(policy::MutatingAdmissionPolicy),
        "mutatingadmissionpolicybindings" => &Erased(policy::MutatingAdmissionPolicyBinding),
        "mutatingwebhookconfigurations" => &Erased(webhook::MutatingWebhookConfiguration),
        "validatingadmissionpolicies" => &Erased(policy::ValidatingAdmissionPolicy),
        "validatingadmissionpolicybindings" => &Erased(policy::ValidatingAdmissionPolicyBinding),
        "validatingwebhookconfigurations" => &Erased(webhook::ValidatingWebhookConfiguration),
        _ => return None,
    })
}

fn other_groups(group: &str, resource: &str) -> Option<&'static dyn DynStrategy> {
    Some(match (group, resource) {
        ("batch", "cronjobs") => &Erased(batch::cronjob::CronJob),
        ("batch", "jobs") => &Erased(batch::job::Job),
        ("autoscaling", "horizontalpodautoscalers") => {
            &Erased(autoscaling::strategy::HorizontalPodAutoscaler)
        }
        ("policy", "poddisruptionbudgets") => &Erased(policy::PodDisruptionBudget),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => &Erased(flowcontrol::FlowSchema),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => {
            &Erased(flowcontrol::PriorityLevelConfiguration)
        }
        ("apiregistration.k8s.io", "apiservices") => &Erased(misc::api_service::ApiService),
        ("certificates.k8s.io", "certificatesigningrequests") => {
            &Erased(misc::certificate::CertificateSigningRequest)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => &Erased(misc::crd::CustomResourceDefinition),
        ("coordination.k8s.io", "leases") => &Erased(misc::lease::Lease),
        ("scheduling.k8s.io", "priorityclasses") => &Erased(misc::priority_class::PriorityClass),
        ("node.k8s.io", "runtimeclasses") => &Erased(misc::runtime_class::RuntimeClass),
        _ => return None,
    })
}
