//! Annotates every node with how long kubelets may keep secrets and config maps without asking again: the more nodes
//! there are, the longer. Growing and shrinking clusters change it at different sizes, so that it does not go back and
//! forth.

use std::sync::Arc;

use anyhow::Context as _;
use component_base::controller::informer::Delta;
use component_base::controller::queue::WorkQueue;
use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{Patch, PatchParams};
use parking_lot::Mutex;
use serde_json::json;

use crate::context::{Context, synced};
use crate::util::{errors, meta};

const ANNOTATION: &str = "node.alpha.kubernetes.io/ttl";

/// Nodes below which a step is left, nodes above which it is left, and its seconds.
const STEPS: [(usize, usize, u32); 5] =
    [(0, 100, 0), (90, 500, 15), (450, 1000, 30), (900, 2000, 60), (1800, usize::MAX, 300)];

/// Where the cluster is among [`STEPS`].
#[derive(Debug, Default)]
struct Size {
    nodes: usize,
    step: usize,
}

impl Size {
    fn added(&mut self) {
        self.nodes += 1;
        if self.nodes > STEPS[self.step].1 {
            self.step += 1;
        }
    }

    fn removed(&mut self) {
        self.nodes = self.nodes.saturating_sub(1);
        if self.nodes < STEPS[self.step].0 {
            self.step -= 1;
        }
    }

    fn seconds(&self) -> u32 {
        STEPS[self.step].2
    }
}

/// Sets the controller up.
pub fn start(ctx: &Context) -> anyhow::Result<()> {
    let nodes = ctx.informers.of::<Node>();
    let queue: WorkQueue<String> = WorkQueue::default();
    let size = Arc::new(Mutex::new(Size::default()));
    let (q, s) = (queue.clone(), size.clone());
    nodes.on_change(move |d| {
        match d {
            Delta::Added(_) => s.lock().added(),
            Delta::Deleted(_) => return s.lock().removed(),
            Delta::Updated(..) => {}
        }
        q.add(meta::name(&d.object().metadata).to_owned());
    });
    let (client, store) = (ctx.client("ttl-controller")?, nodes.store());
    ctx.work("ttlcontroller", &queue, 5, vec![synced(&nodes)], move |name| {
        let (client, store, size) = (client.clone(), store.clone(), size.clone());
        async move {
            let Some(node) = store.get(&name) else { return Ok(()) };
            let seconds = size.lock().seconds().to_string();
            if meta::annotation(&node.metadata, ANNOTATION) == Some(seconds.as_str()) {
                return Ok(());
            }
            let patch = json!({"metadata": {"annotations": {ANNOTATION: seconds}}});
            let api: Api<Node> = Api::all(client);
            match api.patch(&name, &PatchParams::default(), &Patch::Strategic(patch)).await {
                Err(e) if errors::not_found(&e) => Ok(()),
                other => other.map(|_| ()).with_context(|| format!("annotating node {name}")),
            }
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn growing_and_shrinking_change_at_different_sizes() {
        let mut size = Size::default();
        let mut up = Vec::new();
        for _ in 0..2100 {
            let before = size.seconds();
            size.added();
            if size.seconds() != before {
                up.push((size.nodes, size.seconds()));
            }
        }
        assert_eq!(up, [(101, 15), (501, 30), (1001, 60), (2001, 300)]);
        let mut down = Vec::new();
        for _ in 0..2200 {
            let before = size.seconds();
            size.removed();
            if size.seconds() != before {
                down.push((size.nodes, size.seconds()));
            }
        }
        assert_eq!(down, [(1799, 60), (899, 30), (449, 15), (89, 0)]);
    }
}
