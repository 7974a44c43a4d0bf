//! Service ranges (`ServiceCIDR`): marked ready, and kept from being deleted as long as they alone contain the address
//! of a service.
//!
//! Source: KEP-1880.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::Store;
use component_base::controller::queue::WorkQueue;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::networking::v1::{IPAddress, ServiceCIDR};
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::{Context, synced};
use crate::util::cidr::Cidr;
use crate::util::{errors, meta};

const NAME: &str = "service-cidr-controller";
const FINALIZER: &str = "networking.k8s.io/service-cidr-finalizer";
/// Label of addresses that the API server gave to services.
const MANAGED_BY: &str = "ipaddress.kubernetes.io/managed-by";
const ALLOCATOR: &str = "ipallocator.k8s.io";
/// How long API servers may need to see that a range is being deleted, before it may go.
const GRACE: SignedDuration = SignedDuration::from_secs(10);

fn prefixes(cidr: &ServiceCIDR) -> impl Iterator<Item = Cidr> {
    cidr.spec.iter().flat_map(|s| s.cidrs.iter().flatten()).filter_map(|c| c.parse().ok())
}

/// The address that the API server gave to a service.
fn address(object: &IPAddress) -> Option<IpAddr> {
    let by = object.metadata.labels.as_ref()?.get(MANAGED_BY)?;
    (by == ALLOCATOR).then(|| meta::name(&object.metadata).parse().ok()).flatten()
}

/// Whether no service would lose the range of its address if `cidr` went.
fn may_go(cidr: &ServiceCIDR, all: &[Arc<ServiceCIDR>], addresses: impl IntoIterator<Item = IpAddr>) -> bool {
    let others: Vec<Cidr> =
        all.iter().filter(|c| c.metadata.name != cidr.metadata.name).flat_map(|c| prefixes(c)).collect();
    if prefixes(cidr).all(|p| others.iter().any(|o| o.covers(&p))) {
        return true;
    }
    !addresses.into_iter().any(|a| prefixes(cidr).any(|p| p.gives(a)) && !others.iter().any(|o| o.gives(a)))
}

#[derive(Debug, PartialEq)]
enum Action {
    Nothing,
    Wait(SignedDuration),
    AddFinalizer,
    RemoveFinalizer,
    /// Status, reason and message of the condition `Ready`.
    Report(&'static str, &'static str, &'static str),
}

fn report(cidr: &ServiceCIDR, status: &'static str, reason: &'static str, message: &'static str) -> Action {
    let conditions = cidr.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let mut ready = conditions.filter(|c| c.type_ == "Ready");
    match ready.next() {
        Some(c) if c.status == status && c.reason == reason && c.message == message => Action::Nothing,
        _ => Action::Report(status, reason, message),
    }
}

/// The next thing to do about a range.
fn plan(cidr: &ServiceCIDR, may_go: impl FnOnce() -> bool, now: Timestamp) -> Action {
    let held = cidr.metadata.finalizers.iter().flatten().any(|f| f == FINALIZER);
    let Some(deleted) = &cidr.metadata.deletion_timestamp else {
        return if held {
            report(cidr, "True", "", "Kubernetes Service CIDR is ready")
        } else {
            Action::AddFinalizer
        };
    };
    if !held {
        return Action::Nothing;
    }
    if !may_go() {
        return report(
            cidr,
            "False",
            "Terminating",
            "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR",
        );
    }
    let left = GRACE - now.duration_since(deleted.0);
    if left.is_positive() { Action::Wait(left) } else { Action::RemoveFinalizer }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let cidrs = ctx.informers.of::<ServiceCIDR>();
    let addresses = ctx.informers.of::<IPAddress>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let (q, store) = (queue.clone(), cidrs.store());
    cidrs.on_change(move |d| {
        // A range that comes, goes or changes can set others free, or hold them.
        q.add(meta::name(&d.object().metadata).to_owned());
        let overlap =
            |c: &ServiceCIDR| prefixes(c).any(|p| prefixes(d.object()).any(|o| p.covers(&o) || o.covers(&p)));
        store.list().iter().filter(|c| overlap(c)).for_each(|c| q.add(meta::name(&c.metadata).to_owned()));
    });
    let (q, store) = (queue.clone(), cidrs.store());
    addresses.on_change(move |d| {
        let Some(a) = address(d.object()).filter(|_| d.old().is_none() || d.is_deleted()) else { return };
        let holds = |c: &ServiceCIDR| prefixes(c).any(|p| p.gives(a));
        store.list().iter().filter(|c| holds(c)).for_each(|c| q.add(meta::name(&c.metadata).to_owned()));
    });
    let controller = Arc::new(Controller {
        client: ctx.client("service-cidrs-controller")?,
        cidrs: cidrs.store(),
        addresses: addresses.store(),
        queue: queue.clone(),
        events: ctx.events.for_component(NAME),
    });
    ctx.work("ipaddresses", &queue, 5, vec![synced(&cidrs), synced(&addresses)], move |name| {
        let controller = controller.clone();
        async move { controller.sync(&name).await }
    });
    Ok(())
}

struct Controller {
    client: Client,
    cidrs: Store<ServiceCIDR>,
    addresses: Store<IPAddress>,
    queue: WorkQueue<String>,
    events: EventRecorder,
}

impl Controller {
    async fn sync(&self, name: &str) -> anyhow::Result<()> {
        let Some(cidr) = self.cidrs.get(name) else { return Ok(()) };
        let free = || {
            let addresses = self.addresses.list();
            may_go(&cidr, &self.cidrs.list(), addresses.iter().filter_map(|a| address(a)))
        };
        let now = Timestamp::now();
        let api: Api<ServiceCIDR> = Api::all(self.client.clone());
        let done = match plan(&cidr, free, now) {
            Action::Nothing => return Ok(()),
            Action::Wait(left) => {
                self.queue.add_after(name.to_owned(), Duration::try_from(left).unwrap_or_default());
                return Ok(());
            }
            Action::AddFinalizer => {
                let patch = json!({"metadata": {"finalizers": [FINALIZER]}});
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
            }
            Action::RemoveFinalizer => {
                let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
                api.patch(name, &PatchParams::default(), &Patch::Strategic(patch)).await
            }
            Action::Report(status, reason, message) => {
                let patch = json!({
                    "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR", "metadata": {"name": name},
                    "status": {"conditions": [{"type": "Ready", "status": status, "reason": reason,
                        "message": message, "lastTransitionTime": meta::api_time(now)}]}
                });
                let done =
                    api.patch_status(name, &PatchParams::apply(NAME).force(), &Patch::Apply(patch)).await;
                if status == "True" && done.is_err() {
                    self.events.warning(
                        &meta::reference(cidr.as_ref()),
                        "KubernetesServiceCIDRError",
                        "The ServiceCIDR Status can not be set to Ready=True",
                    );
                }
                done
            }
        };
        match done {
            Err(e) if errors::not_found(&e) => Ok(()),
            other => other.map(|_| ()).with_context(|| format!("updating service range {name}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cidr(name: &str, ranges: &[&str]) -> Arc<ServiceCIDR> {
        Arc::new(
            serde_json::from_value(json!({"metadata": {"name": name}, "spec": {"cidrs": ranges}})).unwrap(),
        )
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn a_range_is_held_by_addresses_that_only_it_contains() {
        let (a, b, wide) =
            (cidr("a", &["10.0.0.0/24"]), cidr("b", &["10.0.1.0/24"]), cidr("wide", &["10.0.0.0/16"]));
        assert!(!may_go(&a, &[a.clone(), b.clone()], [ip("10.0.0.5")]));
        assert!(may_go(&a, &[a.clone(), b.clone()], [ip("10.0.1.5")]));
        assert!(may_go(&a, &[a.clone(), wide.clone()], [ip("10.0.0.5")]), "the wide one takes over");
        assert!(!may_go(&wide, &[a, wide.clone()], [ip("10.0.2.5")]));
    }

    #[test]
    fn first_the_finalizer_then_ready_and_at_the_end_a_pause() {
        let now = Timestamp::UNIX_EPOCH;
        let mut c = cidr("a", &["10.0.0.0/24"]).as_ref().clone();
        assert_eq!(plan(&c, || true, now), Action::AddFinalizer);
        c.metadata.finalizers = Some(vec![FINALIZER.into()]);
        assert!(matches!(plan(&c, || true, now), Action::Report("True", "", _)));
        c.metadata.deletion_timestamp = Some(meta::api_time(now));
        assert!(matches!(plan(&c, || false, now), Action::Report("False", "Terminating", _)));
        assert_eq!(plan(&c, || true, now), Action::Wait(GRACE));
        assert_eq!(plan(&c, || true, now + GRACE), Action::RemoveFinalizer);
    }
}
