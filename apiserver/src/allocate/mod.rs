//! Cluster IPs and node ports of services.
//!
//! A cluster IP is taken by creating the `IPAddress` object of that name: the store's create-if-absent makes it
//! atomic between all servers. Node ports are taken in the memory of this server. The service itself is written
//! after; [`Guard`] gives back what was taken if that fails, and gives free what an update no longer uses if it
//! succeeds. A crash in between leaves an address without a service, which [`Services::rebuild`] frees at the next
//! start; it never gives one address to two services.

pub mod cidr;
mod families;
mod fields;
mod operation;
pub mod ports;

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::lookup::{self, ObjectWriter, items, text};
use crate::status::{ApiError, ApiResult};
use cidr::Cidr;
use operation::{Operation, same_first_ip};
use ports::{PortRange, Ports};

const MANAGED_BY: &str = "ipallocator.k8s.io";
const MANAGED_BY_LABEL: &str = "/metadata/labels/ipaddress.kubernetes.io~1managed-by";

/// Ranges of the cluster.
#[derive(Debug, Clone)]
pub struct Config {
    /// `--service-cluster-ip-range`: one CIDR, or one of each family with the default family first.
    pub cidrs: Vec<Cidr>,
    pub node_ports: PortRange,
}

impl Config {
    /// From the flags' values.
    pub fn parse(cluster_ip_range: &str, node_port_range: &str) -> Result<Self, String> {
        let cidrs: Vec<Cidr> = cluster_ip_range
            .split(',')
            .map(|c| Cidr::parse(c).map_err(|e| format!("--service-cluster-ip-range: {e}")))
            .collect::<Result<_, _>>()?;
        if cidrs.len() > 2 || (cidrs.len() == 2 && cidrs[0].family() == cidrs[1].family()) {
            return Err("--service-cluster-ip-range: give one CIDR, or one IPv4 and one IPv6 CIDR".to_owned());
        }
        Ok(Self { cidrs, node_ports: PortRange::parse(node_port_range)? })
    }
}

struct Inner {
    config: Config,
    writer: Arc<dyn ObjectWriter>,
    ports: Mutex<Ports>,
    /// Addresses known to be taken: spares attempts, decides nothing.
    known: Mutex<HashSet<IpAddr>>,
    /// Addresses that were asked for by name and at random, then ports likewise.
    allocations: [AtomicU64; 4],
}

/// How much of the ranges is taken, for metrics.
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// Range, addresses taken, addresses free.
    pub ranges: Vec<(String, u64, u64)>,
    pub ports_taken: u64,
    pub ports_free: u64,
    /// Since the start: addresses by name, at random; ports by number, at random.
    pub allocations: [u64; 4],
}

/// The allocator of one server.
#[derive(Clone)]
pub struct Services {
    inner: Arc<Inner>,
}

/// What one write took and will give free. Call [`Guard::commit`] once the service is stored; dropping the guard
/// gives back what was taken.
#[must_use = "dropping the guard releases what was allocated"]
pub struct Guard {
    inner: Arc<Inner>,
    taken_ips: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    free_ips: Vec<IpAddr>,
    free_ports: Vec<u16>,
}

impl Services {
    pub fn new(config: Config, writer: Arc<dyn ObjectWriter>) -> Self {
        let ports = Mutex::new(Ports::new(config.node_ports));
        Self {
            inner: Arc::new(Inner {
                config,
                writer,
                ports,
                known: Mutex::default(),
                allocations: Default::default(),
            }),
        }
    }

    /// The address of the `kubernetes` service.
    pub fn api_server_ip(&self) -> Option<IpAddr> {
        self.inner.config.cidrs.first().map(Cidr::first)
    }

    /// How much of the ranges is taken.
    pub fn usage(&self) -> Usage {
        let known = self.inner.known.lock();
        let (ports_taken, ports_free) = self.inner.ports.lock().usage();
        Usage {
            ranges: self
                .inner
                .config
                .cidrs
                .iter()
                .map(|c| {
                    let taken = known.iter().filter(|ip| c.contains(**ip)).count() as u64;
                    (c.to_string(), taken, c.size().saturating_sub(taken))
                })
                .collect(),
            ports_taken,
            ports_free,
            allocations: [0, 1, 2, 3].map(|i| self.inner.allocations[i].load(Ordering::Relaxed)),
        }
    }

    /// Learns from the stored services what is taken, takes what is not yet, and frees what no service has.
    /// Run before serving.
    pub async fn rebuild(&self) -> ApiResult<()> {
        let services = self.inner.writer.list(lookup::SERVICES, "").await?;
        let addresses = self.inner.writer.list(lookup::IP_ADDRESSES, "").await?;
        let mut owned: HashMap<IpAddr, &Value> = HashMap::new();
        {
            let mut ports = self.inner.ports.lock();
            ports.clear();
            for s in &services {
                let all = fields::node_ports(s).into_iter().chain(Some(fields::health_check_port(s)));
                for p in all.filter(|p| *p != 0) {
                    // The same port under several protocols is one allocation; one outside the range is none.
                    if let Err(e) = ports.take(p) {
                        tracing::debug!(
                            port = p,
                            service = text(s, "/metadata/name"),
                            reason = e,
                            "node port kept"
                        );
                    }
                }
                for ip in service_ips(s) {
                    owned.insert(ip, s);
                }
            }
        }
        let present: HashMap<IpAddr, &Value> =
            addresses.iter().filter_map(|a| Some((text(a, "/metadata/name").parse().ok()?, &**a))).collect();
        for (ip, service) in &owned {
            if !present.contains_key(ip) {
                tracing::info!(%ip, service = text(service, "/metadata/name"), "repairing a cluster IP");
                self.inner.take_ip(*ip, service).await?.map_err(ApiError::internal)?;
            }
        }
        for (ip, address) in &present {
            let ours = text(address, MANAGED_BY_LABEL) == MANAGED_BY;
            if ours && !owned.get(ip).is_some_and(|s| is_parent(address, s)) {
                tracing::info!(%ip, "freeing a cluster IP that no service has");
                self.inner.free_ip(*ip).await;
                if let Some(service) = owned.get(ip) {
                    self.inner.take_ip(*ip, service).await?.map_err(ApiError::internal)?;
                }
            }
        }
        *self.inner.known.lock() = owned.into_keys().collect();
        Ok(())
    }

    /// Fills the allocated fields of a new service, whose name and namespace are set. A dry run takes nothing.
    pub async fn create(&self, service: &mut Value, dry_run: bool) -> ApiResult<Guard> {
        let mut op = self.operation(dry_run);
        fields::normalize_cluster_ips(service, None);
        op.init_families(service, None)?;
        op.cluster_ips(service).await?;
        if fields::has_node_ports(service) {
            op.new_node_ports(service)?;
        }
        if fields::needs_health_check(service) {
            op.health_check_port(service)?;
        }
        Ok(op.guard)
    }

    /// Fills the allocated fields of a changed service, keeping those of `old` that the client left out.
    pub async fn update(&self, old: &Value, service: &mut Value, dry_run: bool) -> ApiResult<Guard> {
        let mut op = self.operation(dry_run);
        fields::keep_allocated(service, old);
        fields::normalize_cluster_ips(service, Some(old));
        op.init_families(service, Some(old))?;
        same_first_ip(old, service)?;
        if !families::settled(service, old) {
            op.change_cluster_ips(old, service).await?;
        }
        op.change_node_ports(old, service)?;
        match (fields::needs_health_check(old), fields::needs_health_check(service)) {
            (false, true) => op.health_check_port(service)?,
            (true, false) => op.guard.free_ports.push(fields::health_check_port(old)),
            _ => {}
        }
        fields::drop_unused(service, old);
        Ok(op.finish())
    }

    /// Gives free what a deleted service had.
    pub async fn release(&self, service: &Value) {
        let mut guard = self.operation(false).guard;
        guard.free_ips = service_ips(service);
        guard.free_ports = fields::node_ports(service);
        if fields::needs_health_check(service) {
            guard.free_ports.push(fields::health_check_port(service));
        }
        guard.commit().await;
    }

    fn operation(&self, dry_run: bool) -> Operation {
        Operation {
            dry_run,
            shown_ports: Vec::new(),
            guard: Guard {
                inner: self.inner.clone(),
                taken_ips: Vec::new(),
                taken_ports: Vec::new(),
                free_ips: Vec::new(),
                free_ports: Vec::new(),
            },
        }
    }
}

fn service_ips(service: &Value) -> Vec<IpAddr> {
    if fields::is_external_name(service) || fields::is_headless(service) {
        return Vec::new();
    }
    fields::cluster_ips(service).iter().filter_map(|ip| ip.parse().ok()).collect()
}

fn is_parent(address: &Value, service: &Value) -> bool {
    let parent = |f: &str| text(address, &format!("/spec/parentRef/{f}")).to_owned();
    parent("resource") == "services"
        && parent("name") == text(service, "/metadata/name")
        && parent("namespace") == text(service, "/metadata/namespace")
}

impl Inner {
    /// Counts an allocation; see [`Usage::allocations`].
    fn count(&self, kind: usize) {
        self.allocations[kind].fetch_add(1, Ordering::Relaxed);
    }

    /// Takes an address; the inner error says why it cannot be had.
    async fn take_ip(&self, ip: IpAddr, service: &Value) -> ApiResult<Result<(), String>> {
        let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
        let object = json!({
            "apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
            "metadata": {
                "name": ip.to_string(),
                "labels": {
                    "ipaddress.kubernetes.io/ip-family": family,
                    "ipaddress.kubernetes.io/managed-by": MANAGED_BY,
                },
            },
            "spec": {"parentRef": {
                "resource": "services", "namespace": text(service, "/metadata/namespace"),
                "name": text(service, "/metadata/name"),
            }},
        });
        match self.writer.create(lookup::IP_ADDRESSES, "", object).await {
            Ok(_) => {
                self.known.lock().insert(ip);
                Ok(Ok(()))
            }
            Err(e) if e.reason == "AlreadyExists" => {
                self.known.lock().insert(ip);
                Ok(Err("provided IP is already allocated".to_owned()))
            }
            Err(e) => Err(e),
        }
    }

    async fn free_ip(&self, ip: IpAddr) {
        match self.writer.delete(lookup::IP_ADDRESSES, "", &ip.to_string(), None).await {
            Ok(()) => {}
            Err(e) if e.reason == "NotFound" => {}
            // The next start frees it.
            Err(e) => tracing::warn!(%ip, error = %e, "a cluster IP could not be released"),
        }
        self.known.lock().remove(&ip);
    }

    /// The ranges of a family: those of the flags, then those added as ready `ServiceCIDR` objects.
    async fn ranges(&self, family: &str) -> ApiResult<Vec<Cidr>> {
        let mut out: Vec<Cidr> = self.config.cidrs.iter().filter(|c| c.family() == family).copied().collect();
        for object in self.writer.list(lookup::SERVICE_CIDRS, "").await? {
            let ready = items(&object, "/status/conditions")
                .iter()
                .any(|c| text(c, "/type") == "Ready" && text(c, "/status") == "True");
            if !ready || !text(&object, "/metadata/deletionTimestamp").is_empty() {
                continue;
            }
            for c in items(&object, "/spec/cidrs").iter().filter_map(Value::as_str) {
                if let Ok(c) = Cidr::parse(c)
                    && c.family() == family
                    && !out.contains(&c)
                {
                    out.push(c);
                }
            }
        }
        Ok(out)
    }
}

impl Guard {
    /// The service is stored: what it no longer uses becomes free.
    pub async fn commit(mut self) {
        self.taken_ips.clear();
        self.taken_ports.clear();
        {
            let mut ports = self.inner.ports.lock();
            for p in self.free_ports.drain(..) {
                ports.release(p);
            }
        }
        for ip in std::mem::take(&mut self.free_ips) {
            self.inner.free_ip(ip).await;
        }
    }

    /// The service is not stored: what was taken for it becomes free.
    pub async fn revert(mut self) {
        self.give_back_ports();
        for ip in std::mem::take(&mut self.taken_ips) {
            self.inner.free_ip(ip).await;
        }
    }

    fn give_back_ports(&mut self) {
        let mut ports = self.inner.ports.lock();
        for p in self.taken_ports.drain(..) {
            ports.release(p);
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.give_back_ports();
        let ips = std::mem::take(&mut self.taken_ips);
        if ips.is_empty() {
            return;
        }
        let inner = self.inner.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                for ip in ips {
                    inner.free_ip(ip).await;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
