//! Brings addresses and ports in line with the services that are stored: at the start, and every few minutes, since
//! a server that ended in the middle of a write tells nobody. Other servers write meanwhile: what may belong to a
//! service that is about to be stored is left alone for a while.
//!
//! Upstream's counterparts are the repair controllers for IP addresses and node ports.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::Duration;

use component_base::process::Shutdown;
use jiff::Timestamp;
use serde_json::Value;

use super::ports::Ports;
use super::{MANAGED_BY, MANAGED_BY_LABEL, Services, fields, is_parent, service_ips};
use crate::lookup::{self, text};
use crate::status::{ApiError, ApiResult};

const INTERVAL: Duration = Duration::from_secs(180);
/// How old an address without a service is before it is freed.
const GRACE_SECONDS: i64 = 60;
/// In how many runs a port without a service is seen before it is freed.
const LEAK_RUNS: u32 = 3;
/// Changes of the node ports by others in the middle of one run.
const ATTEMPTS: usize = 16;

/// Ports that no service has, and in how many runs so far.
#[derive(Default)]
pub struct Leaks(HashMap<u16, u32>);

impl Services {
    /// Goes on repairing until `stop`.
    pub fn keep_repairing(&self, mut leaks: Leaks, stop: Shutdown) {
        let services = self.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(INTERVAL) => {}
                }
                if let Err(e) = services.repair(&mut leaks).await {
                    tracing::warn!(error = %e, "cluster IPs and node ports could not be checked");
                }
            }
        });
    }

    /// One run.
    ///
    /// # Errors
    /// The store does not answer.
    pub async fn repair(&self, leaks: &mut Leaks) -> ApiResult<()> {
        self.repair_ips().await?;
        for _ in 0..ATTEMPTS {
            if self.repair_ports(leaks).await? {
                return Ok(());
            }
        }
        Err(ApiError::conflict("", "servicenodeportallocations", "", "they change all the time"))
    }

    async fn repair_ips(&self) -> ApiResult<()> {
        let inner = &self.inner;
        let addresses = inner.writer.list(lookup::IP_ADDRESSES, "").await?;
        let services = inner.writer.list(lookup::SERVICES, "").await?;
        let owned: HashMap<IpAddr, &Value> =
            services.iter().flat_map(|s| service_ips(s).into_iter().map(|ip| (ip, &**s))).collect();
        let present: HashMap<IpAddr, &Value> =
            addresses.iter().filter_map(|a| Some((text(a, "/metadata/name").parse().ok()?, &**a))).collect();
        for (ip, address) in &present {
            let ours = text(address, MANAGED_BY_LABEL) == MANAGED_BY;
            let used = owned.get(ip).is_some_and(|s| is_parent(address, s));
            if ours && !used && is_old(address) {
                tracing::info!(%ip, "freeing a cluster IP that no service has");
                inner.free_address(*ip, Some(text(address, "/metadata/uid"))).await;
                if let Some(service) = owned.get(ip) {
                    self.take_for(*ip, service).await?;
                }
            }
        }
        for (ip, service) in &owned {
            if !present.contains_key(ip) {
                tracing::info!(%ip, service = text(service, "/metadata/name"), "repairing a cluster IP");
                self.take_for(*ip, service).await?;
            }
        }
        *inner.known.lock() = owned.into_keys().chain(present.into_keys()).collect();
        Ok(())
    }

    /// Takes the address of a stored service. Another server may have been faster.
    async fn take_for(&self, ip: IpAddr, service: &Value) -> ApiResult<()> {
        if let Err(why) = self.inner.take_ip(ip, service).await? {
            tracing::debug!(%ip, service = text(service, "/metadata/name"), why, "cluster IP not taken");
        }
        Ok(())
    }

    /// False if others changed the ports meanwhile.
    async fn repair_ports(&self, leaks: &mut Leaks) -> ApiResult<bool> {
        // First what is allocated, then who has it: a service that is stored in between has its port already.
        let stored = self.inner.ports.current().await?;
        let services = self.inner.writer.list(lookup::SERVICES, "").await?;
        let (wanted, counted) = plan(&stored, &services, leaks);
        let done = wanted == stored && !stored.is_empty() || self.inner.ports.replace(wanted).await?;
        if done {
            *leaks = counted;
        }
        Ok(done)
    }
}

/// What should be allocated, and which of it no service has.
fn plan(stored: &Ports, services: &[std::sync::Arc<Value>], leaks: &Leaks) -> (Ports, Leaks) {
    let mut wanted = stored.emptied();
    for s in services {
        for port in fields::node_ports(s).into_iter().chain(Some(fields::health_check_port(s))) {
            // The same port under several protocols is one allocation; one outside the range is none.
            if port != 0 && wanted.take(port).is_ok() && !stored.taken(port) {
                let service = text(s, "/metadata/name");
                tracing::info!(port, service, "repairing a node port");
            }
        }
    }
    let mut counted = Leaks::default();
    for port in stored.iter() {
        if wanted.taken(port) {
            continue;
        }
        let runs = leaks.0.get(&port).copied().unwrap_or(0) + 1;
        if runs > LEAK_RUNS {
            tracing::warn!(port, "freeing a node port that no service has");
            continue;
        }
        counted.0.insert(port, runs);
        // It is in the range and free: it came from there.
        let _ = wanted.take(port);
    }
    (wanted, counted)
}

fn is_old(address: &Value) -> bool {
    let created = text(address, "/metadata/creationTimestamp").parse::<Timestamp>();
    created.is_ok_and(|t| Timestamp::now().duration_since(t).as_secs() > GRACE_SECONDS)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;

    use super::*;
    use crate::allocate::ports::PortRange;

    #[test]
    fn ports_without_a_service_are_freed_after_some_runs() {
        let mut stored = Ports::new(PortRange::parse("30000-30009").unwrap());
        stored.take(30001).unwrap();
        stored.take(30002).unwrap();
        let service = |port: u16| Arc::new(json!({"spec": {"ports": [{"nodePort": port}]}}));
        let services = [service(30001), service(30005), service(80)];
        let mut leaks = Leaks::default();
        for _ in 0..LEAK_RUNS {
            (stored, leaks) = plan(&stored, &services, &leaks);
            assert_eq!(stored.iter().collect::<Vec<_>>(), [30001, 30002, 30005]);
        }
        // Somebody has it after all: the count begins anew.
        let (_, again) = plan(&stored, &[service(30002)], &leaks);
        assert!(!again.0.contains_key(&30002));
        (stored, leaks) = plan(&stored, &services, &leaks);
        assert_eq!(stored.iter().collect::<Vec<_>>(), [30001, 30005]);
        assert!(leaks.0.is_empty());
    }
}
