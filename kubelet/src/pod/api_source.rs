//! Pods that the API server binds to this node: one watch with a field selector.

use std::sync::Arc;

use component_base::controller::watching;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, Client, runtime::watcher};

use super::{PodManager, spec};

/// Feeds the manager for ever. `on_synced` is called once, after the first complete list.
pub async fn run(client: Client, node: &str, manager: Arc<PodManager>, on_synced: impl FnOnce()) {
    let api: Api<Pod> = Api::all(client);
    let own = watcher::Config::default().fields(&format!("spec.nodeName={node}"));
    let mut events = watching::events(api, own);
    let mut initial: Vec<Pod> = Vec::new();
    let mut on_synced = Some(on_synced);
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::Init => initial.clear(),
            watcher::Event::InitApply(pod) => initial.push(pod),
            watcher::Event::InitDone => {
                let list = std::mem::take(&mut initial);
                let (mirrors, pods): (Vec<_>, Vec<_>) = list.into_iter().partition(spec::is_mirror);
                manager.mirrors.replace(mirrors);
                manager.replace(pods, false);
                if let Some(f) = on_synced.take() {
                    f();
                }
            }
            watcher::Event::Apply(pod) if spec::is_mirror(&pod) => manager.mirrors.apply(pod),
            watcher::Event::Apply(pod) => manager.apply(pod),
            watcher::Event::Delete(pod) if spec::is_mirror(&pod) => manager.mirrors.remove(&pod),
            watcher::Event::Delete(pod) => {
                let uid = spec::uid(&pod).to_owned();
                manager.apply(pod);
                manager.remove(&uid);
            }
        }
    }
}
