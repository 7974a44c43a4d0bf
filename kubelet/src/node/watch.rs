//! Watches this node's own object: its podCIDR, labels and existence.

use std::{collections::BTreeMap, sync::Arc};

use component_base::controller::watching;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, runtime::watcher};

use super::register;
use crate::{context::Context, network};

/// Follows the node for ever; writes the CNI configuration when the podCIDR is known, if asked to.
pub async fn run(ctx: Arc<Context>, cni: Option<network::CniWriter>, labels: BTreeMap<String, String>) {
    let Some(client) = ctx.client.clone() else { return };
    let own = watcher::Config::default().fields(&format!("metadata.name={}", ctx.node_name));
    let mut events = watching::events(Api::<Node>::all(client), own);
    let mut cidrs: Vec<String> = Vec::new();
    while let Some(event) = events.next().await {
        match event {
            watcher::Event::InitApply(node) | watcher::Event::Apply(node) => {
                let now = pod_cidrs(&node);
                ctx.csi.node_changed(&node);
                *ctx.node.write() = Some(Arc::new(node));
                if now != cidrs {
                    cidrs = now;
                    network_changed(&ctx, cni.as_ref(), &cidrs).await;
                }
            }
            watcher::Event::Delete(_) => {
                tracing::warn!(node = ctx.node_name, "the node object was deleted, registering again");
                register::run(&ctx, &labels).await;
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }
}

fn pod_cidrs(node: &Node) -> Vec<String> {
    let Some(spec) = &node.spec else { return Vec::new() };
    match &spec.pod_cidrs {
        Some(list) if !list.is_empty() => list.clone(),
        _ => spec.pod_cidr.iter().cloned().collect(),
    }
}

/// Writes the CNI configuration and tells the runtime.
pub async fn network_changed(ctx: &Context, cni: Option<&network::CniWriter>, cidrs: &[String]) {
    if cidrs.is_empty() {
        return;
    }
    tracing::info!(pod_cidr = cidrs.join(","), "the node's pod network is known");
    if let Some(writer) = cni
        && let Err(e) = writer.write(cidrs)
    {
        tracing::error!(error = format!("{e:#}"), "cannot write the CNI configuration");
    }
    if let Err(e) = ctx.cri.update_runtime_config(&cidrs.join(",")).await
        && !e.unimplemented()
    {
        tracing::warn!(error = %e, "cannot tell the runtime the pod CIDR");
    }
}
