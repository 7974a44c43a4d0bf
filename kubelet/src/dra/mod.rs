//! Dynamic resource allocation (KEP-4381): the devices that a pod's ResourceClaims were given are prepared before the
//! pod starts and unprepared after its containers have ended, by the drivers that registered on this node.
//!
//! [`plugins`] knows the drivers and takes their ResourceSlices away when they are gone, [`wire`] says what is asked,
//! [`claims`] remembers what was prepared for whom, and [`checkpoint`] keeps that on disk, so that a restart forgets
//! nothing.
//!
//! A claim is noted on disk before its drivers are first asked and forgotten after they were last asked: whatever
//! happens in between, unpreparing asks again, which drivers must allow.

mod checkpoint;
mod claims;
pub mod plugins;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, PodResourceClaim};
use k8s_openapi::api::resource::v1::ResourceClaim;
use kube::{Api, Client};
use parking_lot::Mutex;

use self::{
    claims::{Claims, Info},
    plugins::{Plugin, Plugins},
    wire::Claim,
};
use crate::pod::spec;

/// The node's prepared claims and the drivers for them.
pub struct Dra {
    pub plugins: Plugins,
    client: Option<Client>,
    path: PathBuf,
    claims: Mutex<Claims>,
}

impl Dra {
    /// Reads what an earlier kubelet left.
    ///
    /// # Errors
    /// The file cannot be read or is damaged: nobody knows what is prepared.
    pub fn new(root: &Path, client: Option<Client>, node_name: &str) -> Result<Self, String> {
        let path = root.join(checkpoint::FILE);
        let claims = checkpoint::read(&path)
            .map_err(|e| format!("reading {}: {e}; drain the node and remove the file", path.display()))?;
        let plugins = Plugins::new(client.clone(), node_name);
        Ok(Self { plugins, client, path, claims: Mutex::new(claims) })
    }

    fn save(&self, claims: &Claims) -> Result<(), String> {
        checkpoint::write(&self.path, claims).map_err(|e| format!("checkpoint ResourceClaim state: {e}"))
    }

    /// Prepares all claims of a pod. Safe to repeat.
    ///
    /// # Errors
    /// A claim is not there or not the pod's, a driver is not there or could not do it.
    pub async fn prepare(&self, pod: &Pod) -> Result<(), String> {
        let names = claim_names(pod)?;
        if names.is_empty() {
            return Ok(());
        }
        let client =
            self.client.as_ref().ok_or("ResourceClaims need an API server, and none is configured")?;
        let api: Api<ResourceClaim> = Api::namespaced(client.clone(), spec::namespace(pod));
        let fetch = |name: String| {
            let api = api.clone();
            async move { api.get(&name).await.map_err(|e| format!("fetch ResourceClaim {name}: {e}")) }
        };
        let done = self.prepare_with(pod, names, fetch).await;
        done.map_err(|e| format!("prepare dynamic resources: {e}"))
    }

    async fn prepare_with<F>(
        &self,
        pod: &Pod,
        names: Vec<ClaimName>,
        fetch: impl Fn(String) -> F,
    ) -> Result<(), String>
    where
        F: Future<Output = Result<ResourceClaim, String>>,
    {
        // Everything is looked at before anything is noted: a pod that cannot start at all must not wait for drivers
        // when it is deleted.
        let mut wanted: Vec<(Info, BTreeMap<String, Plugin>)> = Vec::new();
        for ClaimName { name, generated } in names {
            let claim = fetch(name).await?;
            check(pod, &claim, generated)?;
            let info = Info::new(&claim)?;
            let drivers = info.drivers.keys().map(|d| Ok((d.clone(), self.plugins.get(d)?)));
            let drivers = drivers.collect::<Result<_, String>>()?;
            wanted.push((info, drivers));
        }
        let mut batches: BTreeMap<String, (Plugin, Vec<Claim>)> = BTreeMap::new();
        {
            let mut claims = self.claims.lock();
            for (info, drivers) in &wanted {
                let known = claims.note(info.clone(), spec::uid(pod))?;
                if known.prepared {
                    continue;
                }
                for (driver, plugin) in drivers {
                    let batch = batches.entry(driver.clone()).or_insert_with(|| (plugin.clone(), Vec::new()));
                    batch.1.push(info.claim());
                }
            }
            self.save(&claims)?;
        }
        for (driver, (plugin, batch)) in batches {
            let prepared = plugin.prepare(&batch).await.map_err(|e| format!("NodePrepareResources: {e}"))?;
            let mut claims = self.claims.lock();
            for (uid, answer) in prepared {
                let Some(claim) = batch.iter().find(|c| c.uid == uid) else {
                    return Err(format!("NodePrepareResources returned result for unknown claim UID {uid}"));
                };
                if !answer.error.is_empty() {
                    return Err(format!(
                        "NodePrepareResources failed for ResourceClaim {}: {}",
                        claim.name, answer.error
                    ));
                }
                claims.set_devices(claim, &driver, answer.devices)?;
            }
        }
        let mut claims = self.claims.lock();
        for (info, _) in &wanted {
            claims.set_prepared(&info.namespace, &info.name);
        }
        self.save(&claims)
    }

    /// The devices of a container, as the runtime finds them in its CDI configuration.
    ///
    /// # Errors
    /// A claim has not been prepared.
    pub fn cdi_devices(&self, pod: &Pod, c: &Container) -> Result<Vec<String>, String> {
        let claims = self.claims.lock();
        let mut out = Vec::new();
        for (claim, request) in uses(pod, c)? {
            let Some(info) = claims.get(spec::namespace(pod), &claim) else {
                let namespace = spec::namespace(pod);
                return Err(format!(
                    "internal error: unable to get claim info for ResourceClaim {claim} in namespace {namespace}"
                ));
            };
            out.extend(info.cdi_devices(&request));
        }
        Ok(out)
    }

    /// Unprepares what nobody but this pod uses. Safe to repeat.
    ///
    /// # Errors
    /// A driver is not there, or could not do it: the claim stays noted.
    pub async fn unprepare(&self, pod_uid: &str) -> Result<(), String> {
        let done = self.unprepare_with(pod_uid).await;
        done.map_err(|e| format!("unprepare dynamic resources: {e}"))
    }

    async fn unprepare_with(&self, pod_uid: &str) -> Result<(), String> {
        let alone: Vec<Info> = {
            let mut claims = self.claims.lock();
            let (alone, shared) = claims.of_pod(pod_uid);
            if alone.is_empty() && !shared {
                return Ok(());
            }
            claims.forget_shared(pod_uid);
            alone
        };
        let mut batches: BTreeMap<&str, Vec<Claim>> = BTreeMap::new();
        for info in &alone {
            for driver in info.drivers.keys() {
                batches.entry(driver).or_default().push(info.claim());
            }
        }
        for (driver, batch) in batches {
            let plugin = self.plugins.get(driver)?;
            let answers =
                plugin.unprepare(&batch).await.map_err(|e| format!("NodeUnprepareResources: {e}"))?;
            for (uid, error) in answers {
                let Some(claim) = batch.iter().find(|c| c.uid == uid) else {
                    return Err(format!(
                        "NodeUnprepareResources returned result for unknown claim UID {uid}"
                    ));
                };
                if !error.is_empty() {
                    return Err(format!(
                        "NodeUnprepareResources failed for ResourceClaim {}: {error}",
                        claim.name
                    ));
                }
            }
        }
        let mut claims = self.claims.lock();
        for info in &alone {
            claims.remove(&info.namespace, &info.name);
        }
        self.save(&claims)
    }

    /// Whether claims are noted for a pod.
    pub fn uses(&self, pod_uid: &str) -> bool {
        self.claims.lock().iter().any(|i| i.pods.contains(pod_uid))
    }

    /// UIDs of the pods that claims are noted for.
    pub fn pods(&self) -> BTreeSet<String> {
        self.claims.lock().pods()
    }
}

/// A claim of a pod.
struct ClaimName {
    name: String,
    /// Made for the pod: it must be its owner.
    generated: bool,
}

/// The claim behind an entry of the pod's spec; none where none was needed.
fn claim_name(pod: &Pod, c: &PodResourceClaim) -> Result<Option<ClaimName>, String> {
    let key = format!("pod \"{}\"", spec::key(pod));
    match (&c.resource_claim_name, &c.resource_claim_template_name) {
        (Some(name), _) => Ok(Some(ClaimName { name: name.clone(), generated: false })),
        (None, Some(_)) => {
            let mut made = pod.status.iter().flat_map(|s| s.resource_claim_statuses.iter().flatten());
            let found = made.find(|s| s.name == c.name);
            let found = found.ok_or_else(|| format!("{key}: ResourceClaim not created yet"))?;
            Ok(found.resource_claim_name.clone().map(|name| ClaimName { name, generated: true }))
        }
        (None, None) => {
            Err(format!("{key}, spec.resourceClaim {:?}: none of the supported fields are set", c.name))
        }
    }
}

/// The claim that the scheduler made for a pod's extended resources (KEP-5004).
fn extended(pod: &Pod) -> Option<&k8s_openapi::api::core::v1::PodExtendedResourceClaimStatus> {
    pod.status.as_ref()?.extended_resource_claim_status.as_ref()
}

fn claim_names(pod: &Pod) -> Result<Vec<ClaimName>, String> {
    let mut out = Vec::new();
    for c in spec::spec(pod).resource_claims.iter().flatten() {
        out.extend(claim_name(pod, c)?);
    }
    let extended = extended(pod).map(|e| e.resource_claim_name.clone());
    out.extend(extended.map(|name| ClaimName { name, generated: false }));
    Ok(out)
}

/// The claims that a container uses, with the request of the claim; an empty one stands for all.
fn uses(pod: &Pod, c: &Container) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    let used = c.resources.iter().flat_map(|r| r.claims.iter().flatten());
    for u in used {
        let mut all = spec::spec(pod).resource_claims.iter().flatten();
        let Some(p) = all.find(|p| p.name == u.name) else { continue };
        let request = u.request.clone().unwrap_or_default();
        out.extend(claim_name(pod, p)?.map(|n| (n.name, request)));
    }
    if let Some(e) = extended(pod) {
        let mapped = e.request_mappings.iter().filter(|m| m.container_name == c.name);
        out.extend(mapped.map(|m| (e.resource_claim_name.clone(), m.request_name.clone())));
    }
    Ok(out)
}

/// Whether the pod may use the claim.
fn check(pod: &Pod, claim: &ResourceClaim, generated: bool) -> Result<(), String> {
    let m = &claim.metadata;
    let (name, uid) = (m.name.as_deref().unwrap_or(""), m.uid.as_deref().unwrap_or(""));
    let mine = || {
        let mut owners = m.owner_references.iter().flatten();
        owners.any(|o| o.controller == Some(true) && o.uid == spec::uid(pod))
    };
    if generated && !mine() {
        return Err(format!(
            "ResourceClaim {}/{name} was not created for Pod {} (Pod is not owner)",
            spec::namespace(pod),
            spec::key(pod)
        ));
    }
    let mut reserved = claim.status.iter().flat_map(|s| s.reserved_for.iter().flatten());
    if !reserved.any(|r| r.uid == spec::uid(pod)) {
        return Err(format!(
            "pod {} ({}) is not allowed to use ResourceClaim {name} ({uid})",
            spec::name(pod),
            spec::uid(pod)
        ));
    }
    Ok(())
}
