//! The ResourceClaims the scheduler knows, and which of them a pod has.
//!
//! Claims are kept as the API has them: they are written back whole. What the scheduler has written itself is known at
//! once (*assumed*); an allocation that is decided but not yet written is *pending* and counts as given away, too.

use std::collections::HashMap;
use std::sync::Arc;

use k8s_openapi::api::resource::v1 as api;

use super::extended;
use super::state::Allocated;
use crate::model::{PodInfo, Str};

/// A claim that a pod names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimRef {
    /// The name inside of the pod.
    pub name: Str,
    pub source: Source,
}

/// Where the claim is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A claim of that name.
    Named(Str),
    /// Made for the pod from a template, which is not done yet.
    Awaited,
    /// Made for the pod; none was needed.
    NotNeeded,
    /// Made for the pod, under that name.
    Made(Str),
    /// Said in a way that is not known.
    Unknown,
}

impl ClaimRef {
    /// The name of the claim, if there is one.
    #[must_use]
    pub fn claim(&self) -> Option<&Str> {
        match &self.source {
            Source::Named(n) | Source::Made(n) => Some(n),
            Source::Awaited | Source::NotNeeded | Source::Unknown => None,
        }
    }
}

/// A claim that the cache shares with whoever works on it.
pub type Shared = Arc<api::ResourceClaim>;

/// A claim as it is kept: without what nobody here reads, which the API server leaves as it is when it is not there.
#[must_use]
pub fn kept(mut c: api::ResourceClaim) -> Shared {
    c.metadata.managed_fields = None;
    Arc::new(c)
}

/// The version of an object; later ones are larger.
fn version(c: &api::ResourceClaim) -> u64 {
    c.metadata.resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0)
}

/// The UID of a claim.
#[must_use]
pub fn uid(c: &api::ResourceClaim) -> &str {
    c.metadata.uid.as_deref().unwrap_or("")
}

/// What a claim has been given.
#[must_use]
pub fn allocation(c: &api::ResourceClaim) -> Option<&api::AllocationResult> {
    c.status.as_ref()?.allocation.as_ref()
}

/// `namespace/name` of a claim.
#[must_use]
pub fn shown(c: &api::ResourceClaim) -> String {
    let m = &c.metadata;
    format!("{}/{}", m.namespace.as_deref().unwrap_or(""), m.name.as_deref().unwrap_or(""))
}

/// Whether the claim is reserved for the pod with this UID.
#[must_use]
pub fn reserved_for(c: &api::ResourceClaim, pod: &str) -> bool {
    c.status.iter().flat_map(|s| s.reserved_for.iter().flatten()).any(|r| r.uid == pod)
}

/// A claim is older than what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stale;

/// All claims.
#[derive(Debug, Default)]
pub struct Claims {
    known: HashMap<(Str, Str), Shared>,
    /// Allocations that are being written, by UID of the claim.
    pending: HashMap<Str, api::AllocationResult>,
    /// What each claim counts for in `allocated`, by UID.
    counted: HashMap<Str, Counted>,
    allocated: Allocated,
    /// Claims that were made for extended resources, by UID of the pod.
    extended: HashMap<Str, (Str, Str)>,
}

/// The allocation a claim counts for.
#[derive(Debug)]
enum Counted {
    /// That of its status.
    Written(Shared),
    /// That which is pending.
    Pending,
}

fn key(c: &api::ResourceClaim) -> (Str, Str) {
    let m = &c.metadata;
    (m.namespace.as_deref().unwrap_or("").into(), m.name.as_deref().unwrap_or("").into())
}

impl Claims {
    /// A claim by namespace and name.
    #[must_use]
    pub fn get(&self, namespace: &Str, name: &Str) -> Option<&Shared> {
        self.known.get(&(namespace.clone(), name.clone()))
    }

    /// Namespaces and names of all claims.
    pub fn keys(&self) -> impl Iterator<Item = &(Str, Str)> {
        self.known.keys()
    }

    /// What is given away.
    #[must_use]
    pub fn allocated(&self) -> &Allocated {
        &self.allocated
    }

    /// Takes in a claim, of which a watch or an answer of the API server told; gives the claim that it replaces.
    ///
    /// # Errors
    /// A newer version is known: nothing has changed.
    pub fn set(&mut self, c: Shared) -> Result<Option<Shared>, Stale> {
        let key = key(&c);
        if let Some(old) = self.known.get(&key)
            && uid(old) == uid(&c)
            && version(old) > version(&c)
        {
            return Err(Stale);
        }
        let old = self.known.insert(key.clone(), c.clone());
        if let Some(o) = &old
            && uid(o) != uid(&c)
        {
            self.recount(&uid(o).into(), None);
            self.unlink(o);
        }
        if let Some(pod) = extended::made_for(&c) {
            self.extended.insert(pod.into(), key);
        }
        self.recount(&uid(&c).into(), Some(&c));
        Ok(old)
    }

    /// Forgets a claim that is gone.
    pub fn remove(&mut self, namespace: &Str, name: &Str) -> Option<Shared> {
        let old = self.known.remove(&(namespace.clone(), name.clone()))?;
        self.recount(&uid(&old).into(), None);
        self.unlink(&old);
        Some(old)
    }

    /// The claim that was made for a pod's extended resources.
    #[must_use]
    pub fn extended(&self, pod: &str) -> Option<&Shared> {
        self.known.get(self.extended.get(pod)?)
    }

    fn unlink(&mut self, gone: &Shared) {
        if let Some(pod) = extended::made_for(gone)
            && self.extended.get(pod) == Some(&key(gone))
        {
            self.extended.remove(pod);
        }
    }

    /// Counts what is about to be written for a claim.
    pub fn reserve(&mut self, claim: &Str, a: api::AllocationResult) {
        if self.counted.contains_key(claim) {
            // Written already: that is what counts.
            return;
        }
        self.allocated.change(&a, true);
        self.counted.insert(claim.clone(), Counted::Pending);
        self.pending.insert(claim.clone(), a);
    }

    /// An allocation has been written, or will not be. True if it was pending.
    pub fn release(&mut self, claim: &str) -> bool {
        let Some(a) = self.pending.remove(claim) else { return false };
        if matches!(self.counted.get(claim), Some(Counted::Pending)) {
            self.counted.remove(claim);
            self.allocated.change(&a, false);
        }
        true
    }

    /// Whether an allocation of the claim is being written.
    #[must_use]
    pub fn is_pending(&self, claim: &str) -> bool {
        self.pending.contains_key(claim)
    }

    fn recount(&mut self, claim: &Str, now: Option<&Shared>) {
        let written = now.filter(|c| allocation(c).is_some());
        match self.counted.remove(claim) {
            // As long as the write is under way, a claim without an allocation is one from before.
            Some(Counted::Pending) if written.is_none() && now.is_some() => {
                self.counted.insert(claim.clone(), Counted::Pending);
                return;
            }
            Some(Counted::Pending) => {
                if let Some(a) = self.pending.get(claim) {
                    self.allocated.change(a, false);
                }
            }
            Some(Counted::Written(old)) => {
                if let Some(a) = allocation(&old) {
                    self.allocated.change(a, false);
                }
            }
            None => {}
        }
        if let Some(c) = written
            && let Some(a) = allocation(c)
        {
            self.allocated.change(a, true);
            self.counted.insert(claim.clone(), Counted::Written(c.clone()));
        }
    }

    /// The claims of a pod, in their order.
    ///
    /// # Errors
    /// Why the pod has to wait: a claim is missing, being deleted, or not its own.
    pub fn of<'a>(&'a self, pod: &PodInfo) -> Result<Vec<&'a Shared>, String> {
        let mut out = Vec::new();
        for r in &pod.want().resource_claims {
            let name = match &r.source {
                Source::Named(n) | Source::Made(n) => n,
                Source::NotNeeded => continue,
                Source::Awaited => {
                    return Err(format!("pod \"{}\": ResourceClaim not created yet", pod.key()));
                }
                Source::Unknown => {
                    return Err(format!(
                        "pod \"{}\", spec.resourceClaim {:?}: none of the supported fields are set",
                        pod.key(),
                        r.name
                    ));
                }
            };
            let Some(c) = self.get(&pod.namespace, name) else {
                return Err(format!("could not find ResourceClaim \"{}/{name}\"", pod.namespace));
            };
            if c.metadata.deletion_timestamp.is_some() {
                return Err(format!("resourceclaim {name:?} is being deleted"));
            }
            let owners = || c.metadata.owner_references.iter().flatten();
            let mine = || owners().any(|o| o.controller == Some(true) && o.uid.as_str() == pod.uid.as_ref());
            if matches!(r.source, Source::Made(_)) && !mine() {
                return Err(format!(
                    "ResourceClaim {} was not created for Pod {} (Pod is not owner)",
                    shown(c),
                    pod.key()
                ));
            }
            out.push(c);
        }
        Ok(out)
    }
}
