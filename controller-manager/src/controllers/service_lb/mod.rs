//! Services of the type LoadBalancer on machines without a cloud: gives them addresses of the nodes, or of a pool.
//!
//! On by `--service-lb-addresses`; without it such services wait for somebody else, as upstream's do. Traffic to the
//! addresses is kube-proxy's: it takes what comes for them on any node. Addresses of a pool must be routed to the nodes
//! (by a static route or a router that speaks BGP with them): nothing here announces them.

mod plan;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use parking_lot::Mutex;
use serde_json::{Value, json};

use self::plan::{FINALIZER, Source, View};
use crate::context::{Context, synced};
use crate::util::{errors, meta};

struct Controller {
    client: Client,
    source: Source,
    services: Store<Service>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    events: EventRecorder,
    queue: WorkQueue<String>,
    /// What was given a moment ago and may not be in the store yet.
    given: Mutex<BTreeMap<String, Vec<IpAddr>>>,
}

/// Sets the controller up; without addresses there is nothing to do.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let Some(addresses) = ctx.flags.service_lb_addresses.as_deref().filter(|a| !a.is_empty()) else {
        tracing::debug!(
            "no services of the type LoadBalancer are served: no --service-lb-addresses is given"
        );
        return Ok(());
    };
    let source = Source::parse(addresses).map_err(|e| anyhow::anyhow!("--service-lb-addresses: {e}"))?;
    let services = ctx.informers.of::<Service>();
    let nodes = ctx.informers.of::<Node>();
    let slices = ctx.informers.of::<EndpointSlice>();
    let c = Arc::new(Controller {
        client: ctx.client("service-controller")?,
        source,
        services: services.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        events: ctx.events.for_component("service-controller"),
        queue: WorkQueue::default(),
        given: Mutex::default(),
    });
    let this = c.clone();
    services.on_change(move |d| {
        this.queue.add(key_of(d.object().as_ref()));
        // What one gives back, another may be waiting for.
        if d.old().is_some_and(|old| plan::wants(old)) && (d.is_deleted() || !plan::wants(d.object())) {
            this.wake_all();
        }
    });
    if c.source == Source::Nodes {
        let this = c.clone();
        nodes.on_change(move |d| {
            let relevant =
                |n: &Node| (plan::is_eligible(n), n.status.as_ref().and_then(|s| s.addresses.clone()));
            if !matches!(d, Delta::Updated(old, new) if relevant(old) == relevant(new)) {
                this.wake_all();
            }
        });
        let this = c.clone();
        slices.on_change(move |d| {
            let slice = d.object();
            let name = slice.metadata.labels.as_ref().and_then(|l| l.get("kubernetes.io/service-name"));
            let service = name.and_then(|n| this.services.find(meta::namespace(&slice.metadata), n));
            if let Some(s) = service.filter(|s| plan::wants(s) && plan::is_local(s)) {
                this.queue.add(key_of(s.as_ref()));
            }
        });
    }
    let ready = vec![synced(&services), synced(&nodes), synced(&slices)];
    let queue = c.queue.clone();
    ctx.work("service", &queue, ctx.flags.concurrent_service_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    fn wake_all(&self) {
        for service in self.services.list().iter().filter(|s| plan::wants(s)) {
            self.queue.add(key_of(service.as_ref()));
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let Some(service) = self.services.get(key) else {
            self.given.lock().remove(key);
            return Ok(());
        };
        let reference = meta::reference(service.as_ref());
        if plan::is_released(&service) {
            self.events.normal(&reference, "DeletingLoadBalancer", "Deleting load balancer");
            let rest: Vec<&String> =
                service.metadata.finalizers.iter().flatten().filter(|f| *f != FINALIZER).collect();
            self.write(&service, &json!(rest), &[]).await?;
            self.given.lock().remove(key);
            self.events.normal(&reference, "DeletedLoadBalancer", "Deleted load balancer");
            return Ok(());
        }
        if !plan::wants(&service) || service.metadata.deletion_timestamp.is_some() {
            self.given.lock().remove(key);
            return Ok(());
        }
        let wanted = match self.choose(key, &service) {
            Ok(wanted) => wanted,
            Err(why) => {
                let message = format!("Error syncing load balancer: {why}");
                self.events.warning(&reference, "SyncLoadBalancerFailed", message);
                anyhow::bail!("service {key} gets no address: {why}");
            }
        };
        if wanted == plan::addresses(&service) && plan::is_held(&service) {
            return Ok(());
        }
        if wanted.is_empty() {
            let message = "There are no available nodes for LoadBalancer";
            self.events.warning(&reference, "UnAvailableLoadBalancer", message);
        }
        self.events.normal(&reference, "EnsuringLoadBalancer", "Ensuring load balancer");
        let mut finalizers = service.metadata.finalizers.clone().unwrap_or_default();
        if !plan::is_held(&service) {
            finalizers.push(FINALIZER.to_owned());
        }
        self.write(&service, &json!(finalizers), &wanted).await?;
        self.events.normal(&reference, "EnsuredLoadBalancer", "Ensured load balancer");
        Ok(())
    }

    /// The addresses for a service; they are its own from now on.
    fn choose(&self, key: &str, service: &Service) -> Result<Vec<IpAddr>, String> {
        let (services, nodes) = (self.services.list(), self.nodes.list());
        let local = if plan::is_local(service) { self.local_nodes(service) } else { BTreeSet::new() };
        // Held over the choice, so that two workers don't give out one address.
        let mut given = self.given.lock();
        let taken = given.iter().filter(|(k, _)| *k != key).flat_map(|(_, a)| a).copied().collect();
        let view = View { services: &services, nodes: &nodes, local: &local, taken: &taken };
        let wanted = plan::wanted(&self.source, service, &view)?;
        if matches!(self.source, Source::Pool(_)) {
            given.insert(key.to_owned(), wanted.clone());
        }
        Ok(wanted)
    }

    fn local_nodes(&self, service: &Service) -> BTreeSet<String> {
        let name = meta::name(&service.metadata);
        let slices = self.slices.in_namespace(meta::namespace(&service.metadata));
        let of_service = slices.iter().filter(|s| {
            let labels = s.metadata.labels.as_ref();
            labels.and_then(|l| l.get("kubernetes.io/service-name")).is_some_and(|n| n == name)
        });
        of_service
            .flat_map(|s| s.endpoints.iter().flatten())
            .filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)))
            .filter_map(|e| e.node_name.clone())
            .collect()
    }

    async fn write(&self, service: &Service, finalizers: &Value, addresses: &[IpAddr]) -> anyhow::Result<()> {
        let ingress: Vec<Value> =
            addresses.iter().map(|a| json!({"ip": a.to_string(), "ipMode": "VIP"})).collect();
        let patch = json!({
            "metadata": {"resourceVersion": service.metadata.resource_version, "finalizers": finalizers},
            "status": {"loadBalancer": if ingress.is_empty() { json!(null) } else { json!({"ingress": ingress}) }}
        });
        let key = key_of(service);
        let (namespace, name) = split_key(&key);
        let api: Api<Service> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        match api.patch_status(name, &PatchParams::default(), &Patch::Merge(patch)).await {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("writing the addresses of service {key}")),
        }
    }
}
