//! Services and slices of one address family, and which services changed since the last look.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::convert::PortEndpoints;
use super::{Endpoint, Service, ServiceName, ServicePort};

/// Follows services and endpoint slices.
#[derive(Debug, Default)]
pub struct State {
    services: BTreeMap<ServiceName, Service>,
    /// Per service: its slices by name.
    slices: HashMap<ServiceName, BTreeMap<Box<str>, Vec<PortEndpoints>>>,
    dirty: BTreeSet<ServiceName>,
}

impl State {
    /// A service changed, or is gone.
    pub fn set_service(&mut self, name: &ServiceName, service: Option<Service>) {
        let changed = match service {
            Some(s) => {
                let same = self.services.get(name) == Some(&s);
                if !same {
                    self.services.insert(name.clone(), s);
                }
                !same
            }
            None => self.services.remove(name).is_some(),
        };
        if changed {
            self.dirty.insert(name.clone());
        }
    }

    /// A slice changed, or is gone.
    pub fn set_slice(&mut self, service: &ServiceName, slice: &str, ports: Option<Vec<PortEndpoints>>) {
        let changed = match ports {
            Some(p) => {
                let slices = self.slices.entry(service.clone()).or_default();
                if slices.get(slice) == Some(&p) {
                    false
                } else {
                    slices.insert(slice.into(), p);
                    true
                }
            }
            None => {
                let Some(slices) = self.slices.get_mut(service) else { return };
                let gone = slices.remove(slice).is_some();
                if slices.is_empty() {
                    self.slices.remove(service);
                }
                gone
            }
        };
        if changed {
            self.dirty.insert(service.clone());
        }
    }

    /// Services known.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceName, &Service)> {
        self.services.iter()
    }

    /// A service.
    #[must_use]
    pub fn service(&self, name: &ServiceName) -> Option<&Service> {
        self.services.get(name)
    }

    /// Names of all slices with their services.
    pub fn slices(&self) -> impl Iterator<Item = (&ServiceName, &str)> {
        self.slices.iter().flat_map(|(s, m)| m.keys().map(move |n| (s, n.as_ref())))
    }

    /// Endpoints of a service port. During a move from one slice to another an address may be in both: the copy
    /// that is more alive counts.
    #[must_use]
    pub fn endpoints(&self, name: &ServiceName, port: &ServicePort) -> Vec<Endpoint> {
        let mut by_address: BTreeMap<(std::net::IpAddr, u16), &Endpoint> = BTreeMap::new();
        for (n, protocol, list) in self.slices.get(name).into_iter().flat_map(|m| m.values().flatten()) {
            if *n != port.name || *protocol != port.protocol {
                continue;
            }
            for e in list {
                let known = by_address.entry((e.ip, e.port)).or_insert(e);
                let rank = |x: &Endpoint| (x.ready, x.serving, !x.terminating);
                if rank(e) > rank(known) {
                    *known = e;
                }
            }
        }
        by_address.into_values().cloned().collect()
    }

    /// How many endpoints on this node are ready, over all ports: what health checks of load balancers ask.
    #[must_use]
    pub fn local_ready(&self, name: &ServiceName) -> usize {
        let all = self.slices.get(name).into_iter().flat_map(|m| m.values().flatten());
        let ips: BTreeSet<std::net::IpAddr> =
            all.flat_map(|(_, _, l)| l).filter(|e| e.local && e.ready).map(|e| e.ip).collect();
        ips.len()
    }

    /// Services that changed since the last call.
    pub fn take_dirty(&mut self) -> BTreeSet<ServiceName> {
        std::mem::take(&mut self.dirty)
    }

    /// Marks everything as changed.
    pub fn mark_all(&mut self) {
        self.dirty.extend(self.services.keys().cloned());
    }

    /// Puts names back that could not be dealt with.
    pub fn mark(&mut self, names: BTreeSet<ServiceName>) {
        self.dirty.extend(names);
    }

    /// Whether anything changed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }
}
