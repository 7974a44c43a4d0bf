//! Which services select a pod, and which of a pod's changes matter to them.

use std::sync::Arc;

use component_base::controller::informer::{Delta, Store, key_of};
use k8s_openapi::api::core::v1::{Pod, Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::selector::Selector;
use super::{meta, pods};

/// The selector of a service; `None` where it has none, and somebody else says where it leads.
pub fn selector(service: &Service) -> Option<Selector> {
    let selector = service.spec.as_ref()?.selector.as_ref().filter(|s| !s.is_empty())?;
    Some(Selector::from_map(Some(selector)))
}

/// Whether the service stands for a name outside the cluster.
pub fn is_external(service: &Service) -> bool {
    service.spec.as_ref().and_then(|s| s.type_.as_deref()) == Some("ExternalName")
}

/// Whether the service has no address of its own.
pub fn is_headless(service: &Service) -> bool {
    matches!(service.spec.as_ref().and_then(|s| s.cluster_ip.as_deref()), None | Some("" | "None"))
}

/// Keys of the services whose endpoints a pod's change may touch.
pub fn touched(services: &Store<Service>, change: &Delta<Pod>) -> Vec<String> {
    if let Delta::Updated(old, new) = change
        && !relevant(old, new)
    {
        return Vec::new();
    }
    let (new, old) = (change.object(), change.old());
    let selects = |s: &Arc<Service>| {
        let Some(selector) = selector(s) else { return false };
        selector.matches(new.metadata.labels.as_ref())
            || old.is_some_and(|o| selector.matches(o.metadata.labels.as_ref()))
    };
    let all = services.in_namespace(meta::namespace(&new.metadata));
    all.iter().filter(|s| selects(s)).map(|s| key_of(s.as_ref())).collect()
}

/// Whether a change shows in endpoints.
fn relevant(old: &Pod, new: &Pod) -> bool {
    let host = |p: &Pod| p.spec.as_ref().map(|s| (s.hostname.clone(), s.subdomain.clone()));
    old.metadata.labels != new.metadata.labels
        || old.metadata.deletion_timestamp != new.metadata.deletion_timestamp
        || pods::is_ready(old) != pods::is_ready(new)
        || pods::is_terminal(old) != pods::is_terminal(new)
        || pods::node(old) != pods::node(new)
        || addresses(old) != addresses(new)
        || host(old) != host(new)
}

/// All addresses of a pod.
pub fn addresses(pod: &Pod) -> Vec<&str> {
    let Some(status) = pod.status.as_ref() else { return Vec::new() };
    let all: Vec<&str> =
        status.pod_ips.iter().flatten().map(|ip| ip.ip.as_str()).filter(|ip| !ip.is_empty()).collect();
    if all.is_empty() {
        status.pod_ip.iter().map(String::as_str).filter(|ip| !ip.is_empty()).collect()
    } else {
        all
    }
}

/// Whether a pod may be an endpoint at all: it has an address and has not ended.
pub fn may_be_endpoint(pod: &Pod) -> bool {
    !pods::is_terminal(pod) && !addresses(pod).is_empty()
}

/// Whether DNS names the pod itself under this service.
pub fn hostname<'a>(pod: &'a Pod, service: &Service) -> Option<&'a str> {
    let spec = pod.spec.as_ref()?;
    let host = spec.hostname.as_deref().filter(|h| !h.is_empty())?;
    (spec.subdomain.as_deref() == service.metadata.name.as_deref()).then_some(host)
}

/// The number of a service's port on a pod; a name is looked up among the pod's containers.
pub fn target_port(pod: &Pod, port: &ServicePort) -> Option<i32> {
    let name = match port.target_port.as_ref() {
        None => return Some(port.port),
        Some(IntOrString::Int(0)) => return Some(port.port),
        Some(IntOrString::Int(n)) => return Some(*n),
        Some(IntOrString::String(name)) => name,
    };
    let spec = pod.spec.as_ref()?;
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let protocol = port.protocol.as_deref().unwrap_or("TCP");
    spec.containers
        .iter()
        .chain(sidecars)
        .flat_map(|c| c.ports.iter().flatten())
        .find(|p| p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol)
        .map(|p| p.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{Container, ContainerPort, PodSpec};

    #[test]
    fn named_ports_are_found_by_protocol() {
        let port = |name: &str, n, proto: &str| ContainerPort {
            name: Some(name.into()),
            container_port: n,
            protocol: Some(proto.into()),
            ..ContainerPort::default()
        };
        let container = Container {
            ports: Some(vec![port("dns", 53, "UDP"), port("web", 80, "TCP")]),
            ..Container::default()
        };
        let pod = Pod {
            spec: Some(PodSpec { containers: vec![container], ..PodSpec::default() }),
            ..Pod::default()
        };
        let find = |target: IntOrString| {
            target_port(&pod, &ServicePort { port: 1, target_port: Some(target), ..ServicePort::default() })
        };
        assert_eq!(find(IntOrString::String("web".into())), Some(80));
        assert_eq!(find(IntOrString::String("dns".into())), None, "it is UDP");
        assert_eq!(find(IntOrString::Int(8080)), Some(8080));
    }
}
