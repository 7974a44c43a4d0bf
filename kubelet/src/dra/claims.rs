//! What was prepared, and for whom.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::resource::v1::ResourceClaim;

use super::wire;

/// A prepared device, as its driver describes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    pub pool: String,
    pub name: String,
    pub share_id: Option<String>,
    /// The requests it is for; none for all.
    pub requests: Vec<String>,
    pub cdi_ids: Vec<String>,
}

/// A claim on this node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Info {
    pub uid: String,
    pub name: String,
    pub namespace: String,
    /// UIDs of the pods that use it.
    pub pods: BTreeSet<String>,
    /// All drivers that have a part of it, with the devices that they have prepared.
    pub drivers: BTreeMap<String, Vec<Device>>,
    /// All drivers have prepared it since this kubelet started.
    pub prepared: bool,
}

impl Info {
    /// A claim that nobody uses yet.
    ///
    /// # Errors
    /// It has no allocation.
    pub fn new(c: &ResourceClaim) -> Result<Self, String> {
        let m = &c.metadata;
        let name = m.name.clone().unwrap_or_default();
        let Some(a) = c.status.as_ref().and_then(|s| s.allocation.as_ref()) else {
            return Err(format!("ResourceClaim {name}: not allocated"));
        };
        let results = a.devices.iter().flat_map(|d| d.results.iter().flatten());
        Ok(Self {
            uid: m.uid.clone().unwrap_or_default(),
            namespace: m.namespace.clone().unwrap_or_default(),
            drivers: results.map(|r| (r.driver.clone(), Vec::new())).collect(),
            name,
            ..Self::default()
        })
    }

    /// The claim as drivers are asked about it.
    pub fn claim(&self) -> wire::Claim {
        wire::Claim { namespace: self.namespace.clone(), uid: self.uid.clone(), name: self.name.clone() }
    }

    /// The CDI names of the devices for a request; an empty one stands for all.
    pub fn cdi_devices(&self, request: &str) -> impl Iterator<Item = String> {
        let concerned = move |d: &&Device| {
            request.is_empty() || d.requests.is_empty() || d.requests.iter().any(|r| r == request)
        };
        self.drivers.values().flatten().filter(concerned).flat_map(|d| d.cdi_ids.clone())
    }
}

/// All claims on this node, by namespace and name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Claims(BTreeMap<(String, String), Info>);

impl Claims {
    /// Claims that were noted before.
    pub fn restore(list: impl IntoIterator<Item = Info>) -> Self {
        Self(list.into_iter().map(|i| ((i.namespace.clone(), i.name.clone()), i)).collect())
    }

    pub fn iter(&self) -> impl Iterator<Item = &Info> {
        self.0.values()
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Info> {
        self.0.get(&(namespace.to_owned(), name.to_owned()))
    }

    fn get_mut(&mut self, namespace: &str, name: &str) -> Option<&mut Info> {
        self.0.get_mut(&(namespace.to_owned(), name.to_owned()))
    }

    /// Notes that a pod uses a claim.
    ///
    /// # Errors
    /// Another claim of that name is still there.
    pub fn note(&mut self, info: Info, pod: &str) -> Result<&Info, String> {
        let key = (info.namespace.clone(), info.name.clone());
        let known = self.0.entry(key).or_insert_with(|| info.clone());
        if known.uid != info.uid {
            return Err(format!(
                "old ResourceClaim with same name {} and different UID {} still exists (previous pod force-deleted?!)",
                info.name, known.uid
            ));
        }
        known.pods.insert(pod.to_owned());
        Ok(known)
    }

    /// Keeps what a driver has prepared.
    ///
    /// # Errors
    /// The claim is not noted any more.
    pub fn set_devices(
        &mut self,
        claim: &wire::Claim,
        driver: &str,
        devices: Vec<wire::Device>,
    ) -> Result<(), String> {
        let (namespace, name) = (&claim.namespace, &claim.name);
        let gone = || {
            format!(
                "internal error: unable to get claim info for ResourceClaim {name} in namespace {namespace}"
            )
        };
        let info = self.get_mut(namespace, name).filter(|i| i.uid == claim.uid).ok_or_else(gone)?;
        let devices = devices.into_iter().map(|d| Device {
            pool: d.pool_name,
            name: d.device_name,
            share_id: d.share_id,
            requests: d.request_names,
            cdi_ids: d.cdi_device_ids,
        });
        info.drivers.insert(driver.to_owned(), devices.collect());
        Ok(())
    }

    pub fn set_prepared(&mut self, namespace: &str, name: &str) {
        if let Some(info) = self.get_mut(namespace, name) {
            info.prepared = true;
        }
    }

    /// The claims that a pod alone uses, and whether it shares others.
    pub fn of_pod(&self, pod: &str) -> (Vec<Info>, bool) {
        let (alone, shared): (Vec<&Info>, Vec<&Info>) =
            self.iter().filter(|i| i.pods.contains(pod)).partition(|i| i.pods.len() == 1);
        (alone.into_iter().cloned().collect(), !shared.is_empty())
    }

    /// A pod no longer uses what others use, too.
    pub fn forget_shared(&mut self, pod: &str) {
        for info in self.0.values_mut().filter(|i| i.pods.len() > 1) {
            info.pods.remove(pod);
        }
    }

    pub fn remove(&mut self, namespace: &str, name: &str) {
        self.0.remove(&(namespace.to_owned(), name.to_owned()));
    }

    /// All pods that use claims.
    pub fn pods(&self) -> BTreeSet<String> {
        self.iter().flat_map(|i| i.pods.iter().cloned()).collect()
    }
}
