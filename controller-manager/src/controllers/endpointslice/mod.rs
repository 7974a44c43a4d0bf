//! EndpointSlices: for every service with a selector, the addresses of its pods, at most a hundred per slice.
//!
//! Reads services, pods, nodes and slices; writes slices. [`endpoint`] says what is wanted, [`topology`] which zones
//! endpoints serve, [`plan`] how to get there with few writes, [`writer`] writes (also for the mirroring controller).

pub(super) mod endpoint;
pub(super) mod plan;
mod topology;
pub(super) mod writer;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Delta, Store, key_of, split_key};
use component_base::controller::queue::{Backoff, WorkQueue};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use parking_lot::Mutex;

use self::plan::{Frame, Group};
use self::topology::Shares;
use self::writer::Writer;
use crate::context::{Context, synced};
use crate::util::{meta, pods, services};

/// Name of the index of slices by `namespace/service`.
pub(super) const BY_SERVICE: &str = "service";
/// Name of the index of pods by node.
pub(crate) const BY_NODE: &str = "node";

struct Controller {
    services: Store<Service>,
    pods: Store<Pod>,
    nodes: Store<Node>,
    slices: Store<EndpointSlice>,
    writer: Writer,
    events: EventRecorder,
    queue: WorkQueue<String>,
    max: usize,
    /// The zones' shares, until a node changes them.
    shares: Mutex<Option<Option<Shares>>>,
    /// By service that asks for hints by zone and address family: why there are none, if there are none.
    hinted: Mutex<HashMap<String, Hinted>>,
}

type Hinted = BTreeMap<String, Result<(), String>>;

pub(super) fn service_key(slice: &EndpointSlice) -> Option<String> {
    let name = slice.metadata.labels.as_ref()?.get(endpoint::SERVICE_NAME)?;
    Some(format!("{}/{name}", meta::namespace(&slice.metadata)))
}

/// Value of the index [`BY_SERVICE`] for slices of one manager.
pub(super) fn index_value(manager: &str, service_key: &str) -> String {
    format!("{manager}|{service_key}")
}

pub(super) fn index_by_service(slice: &EndpointSlice) -> Vec<String> {
    let manager =
        slice.metadata.labels.as_ref().and_then(|l| l.get(endpoint::MANAGED_BY)).map(String::as_str);
    service_key(slice).map(|k| index_value(manager.unwrap_or_default(), &k)).into_iter().collect()
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let services = ctx.informers.of::<Service>();
    let all_pods = ctx.informers.of::<Pod>();
    let nodes = ctx.informers.of::<Node>();
    let slices = ctx.informers.of::<EndpointSlice>();
    slices.store().add_index(BY_SERVICE, index_by_service);
    all_pods.store().add_index(BY_NODE, |p| vec![pods::node(p).to_owned()]);
    let c = Arc::new(Controller {
        services: services.store(),
        pods: all_pods.store(),
        nodes: nodes.store(),
        slices: slices.store(),
        writer: Writer::new(ctx.client("endpointslice-controller")?),
        events: ctx.events.for_component("endpoint-slice-controller"),
        queue: WorkQueue::new(Backoff { base: Duration::from_secs(1), max: Duration::from_secs(1000) }),
        max: ctx.flags.max_endpoints_per_slice.clamp(1, 1000),
        shares: Mutex::default(),
        hinted: Mutex::default(),
    });
    let q = c.queue.clone();
    services.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let this = c.clone();
    all_pods
        .on_change(move |d| services::touched(&this.services, d).into_iter().for_each(|k| this.queue.add(k)));
    let this = c.clone();
    slices.on_change(move |d| {
        let slice = d.object();
        let manager = slice.metadata.labels.as_ref().and_then(|l| l.get(endpoint::MANAGED_BY));
        if manager.is_some_and(|m| m == endpoint::MANAGER)
            && let Some(key) = service_key(slice)
        {
            this.queue.add(key);
        }
    });
    let this = c.clone();
    nodes.on_change(move |d| this.node_changed(d));
    let queue = c.queue.clone();
    let ready = vec![synced(&services), synced(&all_pods), synced(&nodes), synced(&slices)];
    ctx.work("endpoint_slice", &queue, ctx.flags.concurrent_service_endpoint_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

impl Controller {
    /// A node's pods get into slices when the node is known, and follow its zone.
    fn node_changed(&self, d: &Delta<Node>) {
        if !matches!(d, Delta::Updated(old, new) if topology::weight(old) == topology::weight(new)) {
            *self.shares.lock() = None;
            self.hinted.lock().keys().for_each(|key| self.queue.add(key.clone()));
        }
        if let Delta::Updated(old, new) = d
            && topology::zone(old) == topology::zone(new)
        {
            return;
        }
        for pod in self.pods.by_index(BY_NODE, meta::name(&d.object().metadata)) {
            for key in services::touched(&self.services, &Delta::Added(pod)) {
                self.queue.add(key);
            }
        }
    }

    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        // A deleted service's slices go with it: they name it as owner.
        let Some(service) = self.services.get(key) else {
            self.writer.forget(key);
            self.hinted.lock().remove(key);
            return Ok(());
        };
        let Some(selector) = services::selector(&service) else { return Ok(()) };
        if services::is_external(&service) || service.metadata.deletion_timestamp.is_some() {
            return Ok(());
        }
        let (namespace, _) = split_key(key);
        let existing = self.slices.by_index(BY_SERVICE, &index_value(endpoint::MANAGER, key));
        if let Some(wait) = self.writer.wait(key, &existing, Instant::now()) {
            self.queue.add_after(key.to_owned(), wait);
            return Ok(());
        }
        let mut pods = self.pods.in_namespace(namespace.unwrap_or_default());
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        let families = endpoint::families(&service);
        let (mut groups, homeless) = endpoint::wanted(&service, &pods, |n| self.nodes.get(n), &families);
        if !homeless.is_empty() {
            // The node's arrival wakes the service; nothing to retry until then.
            tracing::debug!(
                service = key,
                pods = homeless.join(","),
                "pods left out, their nodes are not known"
            );
        }
        let uid = meta::uid(&service.metadata);
        let (mine, foreign): (Vec<_>, Vec<_>) =
            existing.into_iter().partition(|s| meta::is_controlled_by(&s.metadata, uid));
        let hinted = topology::is_auto(&service).then(|| self.hint(&families, &mut groups, &mine));
        let frame = Frame {
            empty: endpoint::empty_slice(&service),
            max: self.max,
            fits: endpoint::fits,
            placeholder: true,
        };
        let mut changes = plan::plan(&frame, &families, groups, &mine);
        // Left from a service of the same name that is gone.
        changes.delete.extend(foreign);
        self.writer.apply(key, meta::namespace(&service.metadata), changes).await?;
        self.tell(key, &service, hinted);
        Ok(())
    }

    /// Says which zones the endpoints of a service serve. `slices` are what it has now.
    fn hint(&self, families: &[String], groups: &mut [Group], slices: &[Arc<EndpointSlice>]) -> Hinted {
        let mut shares = self.shares.lock();
        let shares = shares
            .get_or_insert_with(|| topology::shares(self.nodes.list().iter().map(|n| topology::weight(n))));
        let had: HashMap<&str, &str> = slices
            .iter()
            .flat_map(|s| plan::endpoints_of(s))
            .filter_map(|e| {
                let zone = e.hints.as_ref()?.for_zones.as_ref()?.first()?;
                Some((e.addresses.first()?.as_str(), zone.name.as_str()))
            })
            .collect();
        let of = |family: &String| {
            let mine = groups.iter_mut().filter(|g| g.address_type == *family);
            let mut endpoints: Vec<&mut Endpoint> = mine.flat_map(|g| g.endpoints.iter_mut()).collect();
            (family.clone(), topology::assign(shares.as_ref(), &had, &mut endpoints))
        };
        families.iter().map(of).collect()
    }

    /// Tells of hints that came, went, or cannot be; `now` is none for a service that does not ask for any.
    fn tell(&self, key: &str, service: &Service, now: Option<Hinted>) {
        let mut all = self.hinted.lock();
        let before = match &now {
            Some(now) => all.insert(key.to_owned(), now.clone()),
            None => all.remove(key),
        };
        drop(all);
        let (now, before) = (now.unwrap_or_default(), before.unwrap_or_default());
        let reference = meta::reference(service);
        for family in before.iter().filter(|(f, b)| b.is_ok() && !now.contains_key(*f)).map(|(f, _)| f) {
            let message = format!("Topology Aware Hints has been disabled, addressType: {family}");
            self.events.warning(&reference, "TopologyAwareHintsDisabled", message);
        }
        for (family, result) in now.iter().filter(|(f, r)| before.get(*f) != Some(*r)) {
            match result {
                Ok(()) => {
                    let message = format!("Topology Aware Hints has been enabled, addressType: {family}");
                    self.events.normal(&reference, "TopologyAwareHintsEnabled", message);
                }
                Err(why) => {
                    let message = format!("{why}, addressType: {family}");
                    self.events.warning(&reference, "TopologyAwareHintsDisabled", message);
                }
            }
        }
    }
}
