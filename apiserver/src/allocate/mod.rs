//! Cluster IPs and node ports of services.
//!
//! A cluster IP is taken by creating the `IPAddress` object of that name: the store's create-if-absent makes it
//! atomic between all servers. Node ports are bits of one object that all servers change by compare-and-swap
//! (`shared_ports`). The service itself is written after; [`Guard`] gives back what was taken if that fails, and gives
//! free what an update no longer uses if it succeeds. A crash in between, or a write of which nobody knows whether it
//! happened, leaves an address without a service, which [`Services::repair`] frees after a while; it never gives one
//! address to two services.

pub mod cidr;
mod families;
mod fields;
mod operation;
pub mod ports;
mod repair;
mod shared_ports;

use std::collections::HashSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::lookup::{self, ObjectWriter, items, text};
use crate::status::ApiResult;
use crate::store::Store;
use cidr::Cidr;
use operation::{Operation, same_first_ip};
use ports::PortRange;
pub use repair::Leaks;
use shared_ports::SharedPorts;

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
    ports: SharedPorts,
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

/// What one write took and will give free. Call [`Guard::writing`] before the service is stored and
/// [`Guard::written`] after; dropping the guard before gives back what was taken.
#[must_use = "dropping the guard releases what was allocated"]
pub struct Guard {
    inner: Arc<Inner>,
    taken_ips: Vec<IpAddr>,
    taken_ports: Vec<u16>,
    free_ips: Vec<IpAddr>,
    free_ports: Vec<u16>,
    /// The service is being written: what was taken may be in use.
    writing: bool,
}

impl Services {
    /// `writer` holds the services and addresses, `store` the node ports.
    pub fn new(config: Config, writer: Arc<dyn ObjectWriter>, store: Arc<dyn Store>) -> Self {
        let ports = SharedPorts::new(store, config.node_ports);
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
        let (ports_taken, ports_free) = self.inner.ports.usage();
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

    /// Fills the allocated fields of a new service, whose name and namespace are set. A dry run takes nothing.
    pub async fn create(&self, service: &mut Value, dry_run: bool) -> ApiResult<Guard> {
        let mut op = self.operation(dry_run);
        fields::normalize_cluster_ips(service, None);
        op.init_families(service, None)?;
        op.cluster_ips(service).await?;
        if fields::has_node_ports(service) {
            op.new_node_ports(service).await?;
        }
        if fields::needs_health_check(service) {
            op.health_check_port(service).await?;
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
        op.change_node_ports(old, service).await?;
        match (fields::needs_health_check(old), fields::needs_health_check(service)) {
            (false, true) => op.health_check_port(service).await?,
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
                writing: false,
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
        self.free_address(ip, None).await;
    }

    /// Frees an address; with `uid` only if it is that very object.
    async fn free_address(&self, ip: IpAddr, uid: Option<&str>) {
        match self.writer.delete(lookup::IP_ADDRESSES, "", &ip.to_string(), uid).await {
            Ok(()) => {}
            Err(e) if e.reason == "NotFound" => {}
            // A repair frees it.
            Err(e) => tracing::warn!(%ip, error = %e, "a cluster IP could not be released"),
        }
        self.known.lock().remove(&ip);
    }

    async fn free_ports(&self, free: &[u16]) {
        if free.is_empty() {
            return;
        }
        let release = |p: &mut ports::Ports| {
            free.iter().for_each(|port| p.release(*port));
            Ok(())
        };
        if let Err(e) | Ok(Err(e)) =
            self.ports.change(release).await.map(|r| r.map_err(crate::status::ApiError::internal))
        {
            // A repair frees them.
            tracing::warn!(ports = ?free, error = %e, "node ports could not be released");
        }
    }

    /// Reads which addresses are taken.
    async fn learn_addresses(&self) -> ApiResult<()> {
        let addresses = self.writer.list(lookup::IP_ADDRESSES, "").await?;
        *self.known.lock() =
            addresses.iter().filter_map(|a| text(a, "/metadata/name").parse().ok()).collect();
        Ok(())
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
    /// The service is about to be written: from here on only [`Guard::written`] gives anything back.
    pub fn writing(&mut self) {
        self.writing = true;
    }

    /// The write of the service has ended.
    pub async fn written<T>(self, outcome: &ApiResult<T>) {
        match outcome {
            Ok(_) => self.commit().await,
            // The store may have done it, or do it yet: a repair finds out.
            Err(e) if e.code >= 500 => {}
            Err(_) => self.revert().await,
        }
    }

    /// The service is stored: what it no longer uses becomes free.
    pub async fn commit(mut self) {
        self.taken_ips.clear();
        self.taken_ports.clear();
        self.inner.free_ports(&std::mem::take(&mut self.free_ports)).await;
        for ip in std::mem::take(&mut self.free_ips) {
            self.inner.free_ip(ip).await;
        }
    }

    /// The service is not stored: what was taken for it becomes free.
    pub async fn revert(mut self) {
        self.inner.free_ports(&std::mem::take(&mut self.taken_ports)).await;
        for ip in std::mem::take(&mut self.taken_ips) {
            self.inner.free_ip(ip).await;
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let (ips, ports) = (std::mem::take(&mut self.taken_ips), std::mem::take(&mut self.taken_ports));
        if self.writing || (ips.is_empty() && ports.is_empty()) {
            return;
        }
        let inner = self.inner.clone();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                inner.free_ports(&ports).await;
                for ip in ips {
                    inner.free_ip(ip).await;
                }
            });
        }
    }
}

#[cfg(test)]
mod tests;
