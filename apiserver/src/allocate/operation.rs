//! One create or update of a service: fills its fields while [`Guard`] notes what that takes and frees.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::Value;

use super::cidr::Cidr;
use super::{Guard, families, fields, service_ips};
use crate::field::{Error, ErrorList, Path};
use crate::lookup::{items, text};
use crate::status::{ApiError, ApiResult};

/// What dry runs show for a node port: nothing is taken, any value would do.
const DRY_RUN_PORT: u16 = 32769;
/// How many taken addresses a dynamic allocation may run into before it gives up as if the range were full.
const MAX_COLLISIONS: usize = 1 << 16;

/// One create or update on its way.
pub struct Operation {
    pub dry_run: bool,
    /// Ports that a dry run pretends to take.
    pub shown_ports: Vec<u16>,
    pub guard: Guard,
}

fn invalid(service: &Value, error: Error) -> ApiError {
    ApiError::invalid("", "Service", text(service, "/metadata/name"), &ErrorList::from(vec![error]))
}

impl Operation {
    pub fn init_families(&self, service: &mut Value, old: Option<&Value>) -> ApiResult<()> {
        let configured: Vec<&str> = self.guard.inner.config.cidrs.iter().map(Cidr::family).collect();
        families::init(service, old, &configured)
            .map_err(|e| ApiError::invalid("", "Service", text(service, "/metadata/name"), &e))
    }

    /// An address for every family of the service, those it names or any.
    pub async fn cluster_ips(&mut self, service: &mut Value) -> ApiResult<()> {
        if fields::is_external_name(service) || fields::is_headless(service) {
            return Ok(());
        }
        let named = fields::cluster_ips(service);
        let mut ips = Vec::new();
        for (i, family) in fields::families(service).iter().enumerate() {
            let wanted = named.get(i).map(String::as_str).unwrap_or_default();
            ips.push(self.cluster_ip(service, family, wanted).await?.to_string());
        }
        if let Some(first) = ips.first() {
            service["spec"]["clusterIP"] = first.as_str().into();
        }
        fields::set_strings(service, "clusterIPs", &ips);
        Ok(())
    }

    pub async fn change_cluster_ips(&mut self, old: &Value, service: &mut Value) -> ApiResult<()> {
        if fields::is_external_name(old) {
            return self.cluster_ips(service).await;
        }
        if fields::is_headless(old) {
            return Ok(());
        }
        if fields::is_external_name(service) {
            self.guard.free_ips = service_ips(old);
            return Ok(());
        }
        let (before, now) = (fields::families(old), fields::families(service));
        let mut ips = fields::cluster_ips(service);
        if before.len() == 1 && now.len() == 2 {
            let wanted = ips.get(1).cloned().unwrap_or_default();
            let ip = self.cluster_ip(service, &now[1], &wanted).await?.to_string();
            ips.truncate(1);
            ips.push(ip);
            fields::set_strings(service, "clusterIPs", &ips);
        } else if before.len() == 2 && now.len() == 1 {
            self.guard.free_ips = service_ips(old).into_iter().skip(1).collect();
        }
        Ok(())
    }

    async fn cluster_ip(&mut self, service: &Value, family: &str, wanted: &str) -> ApiResult<IpAddr> {
        let inner = self.guard.inner.clone();
        let ranges = inner.ranges(family).await?;
        if wanted.is_empty() {
            return self.any_ip(service, &ranges).await;
        }
        let refuse = |reason: &str| {
            let path = Path::new("spec").child("clusterIPs");
            let message = format!("failed to allocate IP {wanted}: {reason}");
            invalid(service, Error::invalid(&path, fields::cluster_ips(service), message))
        };
        let Ok(ip) = wanted.parse::<IpAddr>() else {
            return Err(ApiError::internal(format!("failed to parse service IP \"{wanted}\"")));
        };
        if !ranges.iter().any(|c| c.contains(ip)) {
            if let (true, Some(range)) = (self.dry_run, ranges.first()) {
                return Err(refuse(&format!(
                    "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {range}"
                )));
            }
            return Err(refuse("the provided network does not match the current range"));
        }
        if self.dry_run {
            return Ok(ip);
        }
        inner.take_ip(ip, service).await?.map_err(|reason| refuse(&reason))?;
        inner.count(0);
        self.guard.taken_ips.push(ip);
        Ok(ip)
    }

    async fn any_ip(&mut self, service: &Value, ranges: &[Cidr]) -> ApiResult<IpAddr> {
        let inner = self.guard.inner.clone();
        if let (true, Some(range)) = (self.dry_run, ranges.first()) {
            return Ok(range.network());
        }
        // Others may have freed what this server knows to be taken.
        for refreshed in [false, true] {
            if refreshed {
                inner.learn_addresses().await?;
            }
            let mut collisions = 0;
            for range in ranges {
                let candidates = range.candidates(&mut rand::rng());
                for ip in candidates {
                    if inner.known.lock().contains(&ip) {
                        continue;
                    }
                    if inner.take_ip(ip, service).await?.is_ok() {
                        inner.count(1);
                        self.guard.taken_ips.push(ip);
                        return Ok(ip);
                    }
                    collisions += 1;
                    if collisions > MAX_COLLISIONS {
                        break;
                    }
                }
            }
        }
        let name = text(service, "/metadata/name");
        Err(ApiError::internal(format!(
            "failed to allocate a serviceIP for Service \"{name}\": range is full"
        )))
    }

    /// The inner error says why the port cannot be had.
    async fn take_port(&mut self, port: u16) -> ApiResult<Result<(), String>> {
        if !self.dry_run {
            let taken = self.guard.inner.ports.change(|p| p.take(port)).await?;
            if taken.is_ok() {
                self.guard.inner.count(2);
                self.guard.taken_ports.push(port);
            }
            return Ok(taken);
        }
        let current = self.guard.inner.ports.current().await?;
        if current.taken(port) || self.shown_ports.contains(&port) {
            return Ok(Err("provided port is already allocated".to_owned()));
        }
        self.shown_ports.push(port);
        Ok(Ok(()))
    }

    async fn take_any_port(&mut self) -> ApiResult<Result<u16, String>> {
        if self.dry_run {
            let port = self.shown_ports.iter().max().map_or(DRY_RUN_PORT, |p| p.saturating_add(1));
            self.shown_ports.push(port);
            return Ok(Ok(port));
        }
        let taken = self.guard.inner.ports.change(|p| p.take_any(&mut rand::rng())).await?;
        if let Ok(port) = &taken {
            self.guard.inner.count(3);
            self.guard.taken_ports.push(*port);
        }
        Ok(taken)
    }

    /// Node ports of a new service. Entries for the same port (TCP and UDP) share one.
    pub async fn new_node_ports(&mut self, service: &mut Value) -> ApiResult<()> {
        let wants = fields::wants_node_ports(service);
        let mut ports = items(service, "/spec/ports").to_vec();
        let mut shared: HashMap<u16, u16> = HashMap::new();
        for i in 0..ports.len() {
            let (number, asked) = (fields::port(&ports[i], "port"), fields::port(&ports[i], "nodePort"));
            if asked == 0 && !wants {
                continue;
            }
            let known = shared.get(&number).copied();
            let requested = ports
                .iter()
                .filter(|p| fields::port(p, "port") == number)
                .map(|p| fields::port(p, "nodePort"))
                .find(|p| *p != 0);
            let node_port = match (known, asked, requested) {
                (None, _, Some(requested)) => {
                    self.take_port(requested).await?.map_err(|e| bad_node_port(service, i, requested, e))?;
                    shared.insert(number, requested);
                    // Another entry's request is this entry's port too, unless it asked for its own.
                    if asked != 0 && asked != requested {
                        self.take_port(asked).await?.map_err(|e| bad_node_port(service, i, asked, e))?;
                        asked
                    } else {
                        requested
                    }
                }
                (None, _, None) => {
                    let any = self.take_any_port().await?.map_err(full)?;
                    shared.insert(number, any);
                    any
                }
                (Some(known), 0, _) => known,
                (Some(known), asked, _) if known == asked => known,
                (Some(_), asked, _) => {
                    self.take_port(asked).await?.map_err(|e| bad_node_port(service, i, asked, e))?;
                    asked
                }
            };
            ports[i]["nodePort"] = node_port.into();
        }
        if !ports.is_empty() {
            service["spec"]["ports"] = Value::Array(ports);
        }
        Ok(())
    }

    pub async fn change_node_ports(&mut self, old: &Value, service: &mut Value) -> ApiResult<()> {
        let before = fields::node_ports(old);
        if !fields::has_node_ports(service) {
            if fields::has_node_ports(old) {
                self.guard.free_ports.extend(before);
            }
            return Ok(());
        }
        let wants = fields::wants_node_ports(service);
        let mut ports = items(service, "/spec/ports").to_vec();
        let mut taken: Vec<u16> = Vec::new();
        let mut seen: Vec<(String, u16)> = Vec::new();
        for (i, p) in ports.iter_mut().enumerate() {
            let mut node_port = fields::port(p, "nodePort");
            if node_port == 0 && !wants {
                continue;
            }
            if node_port == 0 {
                node_port = self.take_any_port().await?.map_err(full)?;
                p["nodePort"] = node_port.into();
            } else if !before.contains(&node_port) && !taken.contains(&node_port) {
                self.take_port(node_port).await?.map_err(|e| bad_node_port(service, i, node_port, e))?;
                taken.push(node_port);
            }
            let entry = (text(p, "/protocol").to_owned(), node_port);
            if seen.contains(&entry) {
                return Err(ApiError::internal(format!("duplicate nodePort: {{{} {}}}", entry.0, entry.1)));
            }
            seen.push(entry);
        }
        if !ports.is_empty() {
            service["spec"]["ports"] = Value::Array(ports);
        }
        let now = fields::node_ports(service);
        self.guard.free_ports.extend(before.into_iter().filter(|p| !now.contains(p)));
        Ok(())
    }

    pub async fn health_check_port(&mut self, service: &mut Value) -> ApiResult<()> {
        let asked = fields::health_check_port(service);
        if asked != 0 {
            return self.take_port(asked).await?.map_err(|e| {
                ApiError::internal(format!("failed to allocate requested HealthCheck NodePort {asked}: {e}"))
            });
        }
        let port = self
            .take_any_port()
            .await?
            .map_err(|e| ApiError::internal(format!("failed to allocate a HealthCheck NodePort 0: {e}")))?;
        service["spec"]["healthCheckNodePort"] = port.into();
        Ok(())
    }

    /// The guard; a dry run's frees nothing either.
    pub fn finish(mut self) -> Guard {
        if self.dry_run {
            self.guard.free_ips.clear();
            self.guard.free_ports.clear();
        }
        self.guard
    }
}

/// The first address is the service's for as long as it has one.
pub fn same_first_ip(old: &Value, service: &Value) -> ApiResult<()> {
    let (before, now) = (fields::cluster_ips(old), fields::cluster_ips(service));
    if fields::is_external_name(old) || fields::is_external_name(service) || before.is_empty() {
        return Ok(());
    }
    if before.first() == now.first() {
        return Ok(());
    }
    let path = Path::new("spec").child("clusterIPs").index(0);
    Err(invalid(service, Error::invalid(&path, now, "may not change once set")))
}

fn bad_node_port(service: &Value, i: usize, port: u16, reason: String) -> ApiError {
    let path = Path::new("spec").child("ports").index(i).child("nodePort");
    invalid(service, Error::invalid(&path, port, reason))
}

fn full(reason: String) -> ApiError {
    ApiError::internal(format!("failed to allocate a nodePort: {reason}"))
}
