//! Watches this node's own object: its podCIDR, labels and existence.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::{Api, runtime::watcher};

use super::register;
use crate::{context::Context, network, util::api_watch};

/// Follows the node for ever; writes the CNI configuration when the podCIDR is known, if asked to.
pub async fn run(ctx: Arc<Context>, cni: Option<network::CniWriter>, labels: BTreeMap<String, String>) {
    let Some(client) = ctx.client.clone() else { return };
    let mut stream =
        api_watch::events(Api::<Node>::all(client), Some(format!("metadata.name={}", ctx.node_name)));
    let mut cidrs: Vec<String> = Vec::new();
    loop {
        match stream.try_next().await {
            Ok(Some(watcher::Event::InitApply(mut node) | watcher::Event::Apply(mut node))) => {
                node.metadata.managed_fields = None;
                let now = pod_cidrs(&node);
                *ctx.node.write() = Some(Arc::new(node));
                if now != cidrs {
                    cidrs = now;
                    network_changed(&ctx, cni.as_ref(), &cidrs).await;
                }
            }
            Ok(Some(watcher::Event::Delete(_))) => {
                tracing::warn!(node = ctx.node_name, "the node object was deleted, registering again");
                register::run(&ctx, &labels).await;
            }
            Ok(Some(_)) => {}
            Ok(None) => return,
            Err(e) => {
                tracing::debug!(error = %e, "watching the node failed, trying again");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
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
