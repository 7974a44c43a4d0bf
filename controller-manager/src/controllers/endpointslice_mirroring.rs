//! Mirrors hand-written Endpoints of services without selector into endpoint slices, which is what proxies read.

use std::sync::Arc;
use std::time::Instant;

use component_base::controller::informer::{Store, key_of};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{EndpointAddress, Endpoints, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort, EndpointSlice};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::endpointslice::endpoint::{MANAGED_BY, SERVICE_NAME, is_of};
use super::endpointslice::plan::{Frame, Group, plan};
use super::endpointslice::writer::Writer;
use super::endpointslice::{BY_SERVICE, index_by_service, index_value, service_key};
use crate::context::{Context, synced};
use crate::util::{meta, services};

const MANAGER: &str = "endpointslicemirroring-controller.k8s.io";
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const CHANGE_TIME: &str = "endpoints.kubernetes.io/last-change-trigger-time";

struct Controller {
    services: Store<Service>,
    endpoints: Store<Endpoints>,
    slices: Store<EndpointSlice>,
    writer: Writer,
    queue: WorkQueue<String>,
    max: usize,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let services = ctx.informers.of::<Service>();
    let endpoints = ctx.informers.of::<Endpoints>();
    let slices = ctx.informers.of::<EndpointSlice>();
    slices.store().add_index(BY_SERVICE, index_by_service);
    let c = Arc::new(Controller {
        services: services.store(),
        endpoints: endpoints.store(),
        slices: slices.store(),
        writer: Writer::new(ctx.client("endpointslicemirroring-controller")?),
        queue: WorkQueue::default(),
        max: ctx.flags.mirroring_max_endpoints_per_subset.clamp(1, 1000),
    });
    let q = c.queue.clone();
    services.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let q = c.queue.clone();
    endpoints.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let q = c.queue.clone();
    slices.on_change(move |d| {
        let labels = d.object().metadata.labels.as_ref();
        if labels.and_then(|l| l.get(MANAGED_BY)).is_some_and(|m| m == MANAGER)
            && let Some(key) = service_key(d.object())
        {
            q.add(key);
        }
    });
    let queue = c.queue.clone();
    let workers = ctx.flags.mirroring_concurrent_service_endpoint_syncs;
    let ready = vec![synced(&services), synced(&endpoints), synced(&slices)];
    ctx.work("endpoint_slice_mirroring", &queue, workers, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

/// Whether these Endpoints are to be mirrored for this service.
fn wants_mirror(endpoints: &Endpoints, service: &Service) -> bool {
    let skip = endpoints.metadata.labels.as_ref().and_then(|l| l.get(SKIP)).is_some_and(|v| v == "true");
    !skip
        && meta::annotation(&endpoints.metadata, LEADER).is_none()
        && services::selector(service).is_none()
        && !services::is_external(service)
}

fn frame(endpoints: &Endpoints, max: usize) -> Frame {
    let name = meta::name(&endpoints.metadata);
    let mut labels = endpoints.metadata.labels.clone().unwrap_or_default();
    labels.insert(SERVICE_NAME.into(), name.to_owned());
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut annotations = endpoints.metadata.annotations.clone().unwrap_or_default();
    annotations.remove(LAST_APPLIED);
    annotations.remove(CHANGE_TIME);
    let prefix: String = format!("{name}-").chars().take(248).collect();
    let empty = EndpointSlice {
        metadata: ObjectMeta {
            generate_name: Some(prefix),
            namespace: endpoints.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: Some(annotations).filter(|a| !a.is_empty()),
            owner_references: Some(vec![meta::controller_ref(endpoints)]),
            ..ObjectMeta::default()
        },
        ..EndpointSlice::default()
    };
    let fits = |have: &EndpointSlice, want: &EndpointSlice| {
        have.metadata.labels == want.metadata.labels && have.metadata.annotations == want.metadata.annotations
    };
    Frame { empty, max, fits, placeholder: false }
}

fn groups(endpoints: &Endpoints, max: usize) -> Vec<Group> {
    let mut groups = Vec::new();
    for subset in endpoints.subsets.iter().flatten() {
        let ports: Vec<EndpointPort> = subset
            .ports
            .iter()
            .flatten()
            .map(|p| EndpointPort {
                name: Some(p.name.clone().unwrap_or_default()),
                port: Some(p.port),
                protocol: p.protocol.clone().or_else(|| Some("TCP".into())),
                app_protocol: p.app_protocol.clone(),
            })
            .collect();
        let ready = subset.addresses.iter().flatten().map(|a| (a, true));
        let not_ready = subset.not_ready_addresses.iter().flatten().map(|a| (a, false));
        let all: Vec<(&EndpointAddress, bool)> = ready.chain(not_ready).take(max).collect();
        for family in ["IPv4", "IPv6"] {
            let endpoints: Vec<Endpoint> = all
                .iter()
                .filter(|(a, _)| is_of(&a.ip, family))
                .map(|(a, ready)| endpoint(a, *ready))
                .collect();
            if !endpoints.is_empty() {
                groups.push(Group { address_type: family.into(), ports: ports.clone(), endpoints });
            }
        }
    }
    groups
}

fn endpoint(address: &EndpointAddress, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![address.ip.clone()],
        conditions: Some(EndpointConditions { ready: Some(ready), ..EndpointConditions::default() }),
        hostname: address.hostname.clone(),
        node_name: address.node_name.clone(),
        target_ref: address.target_ref.clone(),
        ..Endpoint::default()
    }
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let existing = self.slices.by_index(BY_SERVICE, &index_value(MANAGER, key));
        if let Some(wait) = self.writer.wait(key, &existing, Instant::now()) {
            self.queue.add_after(key.to_owned(), wait);
            return Ok(());
        }
        let families = ["IPv4".to_owned(), "IPv6".to_owned()];
        let endpoints = self.endpoints.get(key);
        let service = self.services.get(key);
        let changes = match (endpoints, service) {
            (Some(e), Some(s)) if wants_mirror(&e, &s) => {
                plan(&frame(&e, self.max), &families, groups(&e, self.max), &existing)
            }
            (Some(e), _) => plan(&frame(&e, self.max), &families, Vec::new(), &existing),
            // The owner is gone: so will its slices be.
            (None, _) => return Ok(()),
        };
        let namespace = component_base::controller::informer::split_key(key).0.unwrap_or_default();
        self.writer.apply(key, namespace, changes).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::{EndpointSubset, ServiceSpec};

    fn endpoints() -> Endpoints {
        let address = |ip: &str| EndpointAddress { ip: ip.into(), ..EndpointAddress::default() };
        let subset = EndpointSubset {
            addresses: Some(vec![address("10.0.0.1"), address("fd00::1")]),
            not_ready_addresses: Some(vec![address("10.0.0.2")]),
            ports: None,
        };
        let metadata = ObjectMeta { name: Some("e".into()), ..ObjectMeta::default() };
        Endpoints { metadata, subsets: Some(vec![subset]) }
    }

    #[test]
    fn both_families_are_mirrored() {
        let e = endpoints();
        let changes = plan(&frame(&e, 100), &["IPv4".into(), "IPv6".into()], groups(&e, 100), &[]);
        let sizes: Vec<_> = changes
            .create
            .iter()
            .map(|s| (s.address_type.as_str(), s.endpoints.as_ref().map_or(0, Vec::len)))
            .collect();
        assert_eq!(sizes, [("IPv4", 2), ("IPv6", 1)]);
    }

    #[test]
    fn selectors_and_labels_forbid_mirroring() {
        let mut e = endpoints();
        let plain = Service { spec: Some(ServiceSpec::default()), ..Service::default() };
        assert!(wants_mirror(&e, &plain));
        let selecting = ServiceSpec {
            selector: Some([("a".to_owned(), "b".to_owned())].into()),
            ..ServiceSpec::default()
        };
        assert!(!wants_mirror(&e, &Service { spec: Some(selecting), ..Service::default() }));
        e.metadata.labels = Some([(SKIP.to_owned(), "true".to_owned())].into());
        assert!(!wants_mirror(&e, &plain));
    }
}
