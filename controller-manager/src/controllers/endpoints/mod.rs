//! Endpoints: the older form of endpoint slices, one object per service, for clients that still read it.

mod subsets;

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::events::EventRecorder;
use component_base::controller::informer::{Store, key_of, split_key};
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::{Endpoints, Pod, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};

use crate::context::{Context, synced};
use crate::util::{errors, meta, services};

const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const MANAGER: &str = "endpoint-controller";
const HEADLESS: &str = "service.kubernetes.io/headless";
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
/// Addresses one object holds at most.
const MAX: usize = 1000;

struct Controller {
    client: Client,
    events: EventRecorder,
    services: Store<Service>,
    pods: Store<Pod>,
    endpoints: Store<Endpoints>,
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let services = ctx.informers.of::<Service>();
    let all_pods = ctx.informers.of::<Pod>();
    let endpoints = ctx.informers.of::<Endpoints>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let c = Arc::new(Controller {
        client: ctx.client("endpoint-controller")?,
        events: ctx.events.for_component("endpoint-controller"),
        services: services.store(),
        pods: all_pods.store(),
        endpoints: endpoints.store(),
    });
    let q = queue.clone();
    services.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let (this, q) = (c.clone(), queue.clone());
    all_pods.on_change(move |d| services::touched(&this.services, d).into_iter().for_each(|k| q.add(k)));
    let q = queue.clone();
    endpoints.on_change(move |d| q.add(key_of(d.object().as_ref())));
    let ready = vec![synced(&services), synced(&all_pods), synced(&endpoints)];
    ctx.work("endpoint", &queue, ctx.flags.concurrent_endpoint_syncs, ready, move |key| {
        let c = c.clone();
        async move { c.sync(&key).await }
    });
    Ok(())
}

/// The wanted object, made of the one there is.
fn wanted(service: &Service, pods: &[Arc<Pod>], current: Option<&Endpoints>) -> Endpoints {
    let (subsets, truncated) = subsets::build(service, pods, MAX);
    let mut labels = service.metadata.labels.clone().unwrap_or_default();
    if services::is_headless(service) {
        labels.insert(HEADLESS.into(), String::new());
    } else {
        labels.remove(HEADLESS);
    }
    labels.insert(MANAGED_BY.into(), MANAGER.into());
    let mut object = current.cloned().unwrap_or_else(|| Endpoints {
        metadata: ObjectMeta {
            name: service.metadata.name.clone(),
            namespace: service.metadata.namespace.clone(),
            ..ObjectMeta::default()
        },
        subsets: None,
    });
    object.subsets = Some(subsets).filter(|s| !s.is_empty());
    object.metadata.labels = Some(labels);
    let annotations = object.metadata.annotations.get_or_insert_default();
    if truncated {
        annotations.insert(OVER_CAPACITY.into(), "truncated".into());
    } else {
        annotations.remove(OVER_CAPACITY);
    }
    object.metadata.annotations = object.metadata.annotations.take().filter(|a| !a.is_empty());
    object
}

impl Controller {
    async fn sync(&self, key: &str) -> anyhow::Result<()> {
        let (namespace, name) = split_key(key);
        let api: Api<Endpoints> = Api::namespaced(self.client.clone(), namespace.unwrap_or_default());
        let current = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            // Others may keep Endpoints without a service (leader locks did): only ours go.
            let ours = current
                .is_some_and(|e| e.metadata.labels.as_ref().is_some_and(|l| l.contains_key(MANAGED_BY)));
            return match ours {
                false => Ok(()),
                true => match api.delete(name, &DeleteParams::default()).await {
                    Err(e) if !errors::not_found(&e) => {
                        Err(e).with_context(|| format!("deleting endpoints {key}"))
                    }
                    _ => Ok(()),
                },
            };
        };
        let Some(selector) = services::selector(&service) else { return Ok(()) };
        if services::is_external(&service) {
            return Ok(());
        }
        let mut pods = self.pods.in_namespace(namespace.unwrap_or_default());
        pods.retain(|p| selector.matches(p.metadata.labels.as_ref()));
        let wanted = wanted(&service, &pods, current.as_deref());
        let written = match &current {
            Some(current) if same(current, &wanted) => return Ok(()),
            Some(_) => api.replace(name, &PostParams::default(), &wanted).await,
            None => api.create(&PostParams::default(), &wanted).await,
        };
        match written {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(s)) if errors::namespace_terminating(&s) => Ok(()),
            Err(e) => {
                if errors::code(&e) != Some(409) {
                    let (reason, verb) = match current {
                        Some(_) => ("FailedToUpdateEndpoint", "update"),
                        None => ("FailedToCreateEndpoint", "create"),
                    };
                    let message = format!("Failed to {verb} endpoint {key}: {}", errors::message(&e));
                    self.events.warning(&meta::reference(service.as_ref()), reason, message);
                }
                Err(anyhow::Error::from(e).context(format!("writing endpoints {key}")))
            }
        }
    }
}

fn same(a: &Endpoints, b: &Endpoints) -> bool {
    a.metadata.labels == b.metadata.labels
        && a.metadata.annotations == b.metadata.annotations
        && subsets::sorted(a.subsets.clone().unwrap_or_default())
            == subsets::sorted(b.subsets.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writing_twice_is_not_needed() {
        let mut service = Service::default();
        service.metadata.name = Some("s".into());
        let made = wanted(&service, &[], None);
        assert!(same(&made, &wanted(&service, &[], Some(&made))));
        service.metadata.labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(!same(&made, &wanted(&service, &[], Some(&made))));
    }
}
