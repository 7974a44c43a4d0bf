//! What the cluster is told of the node's drivers: the CSINode object, the node's topology labels, and its annotation
//! with the drivers' names for it.

use std::{collections::BTreeMap, sync::Arc};

use k8s_openapi::{
    api::{
        core::v1::Node,
        storage::v1::{CSINode, CSINodeDriver, CSINodeSpec, VolumeNodeResources},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};

use super::wire::NodeInfo;
use crate::context::Context;

const NODE_IDS: &str = "csi.volume.kubernetes.io/nodeid";
/// Attempts at an update that others get in the way of.
const ATTEMPTS: u32 = 5;

/// A driver's entry in the CSINode object.
fn entry(driver: &str, info: &NodeInfo) -> CSINodeDriver {
    let mut keys: Vec<String> =
        info.accessible_topology.iter().flat_map(|t| t.segments.keys().cloned()).collect();
    keys.sort();
    let count = i32::try_from(info.max_volumes_per_node).unwrap_or(i32::MAX);
    CSINodeDriver {
        name: driver.to_owned(),
        node_id: info.node_id.clone(),
        topology_keys: Some(keys),
        allocatable: (count > 0).then_some(VolumeNodeResources { count: Some(count) }),
    }
}

/// The drivers with one put in or taken out; `None` if that changes nothing.
fn changed(
    drivers: &[CSINodeDriver],
    name: &str,
    with: Option<&CSINodeDriver>,
) -> Option<Vec<CSINodeDriver>> {
    let mut next: Vec<CSINodeDriver> = drivers.iter().filter(|d| d.name != name).cloned().collect();
    next.extend(with.cloned());
    let same = next.len() == drivers.len() && next.iter().all(|d| drivers.contains(d));
    (!same).then_some(next)
}

/// Makes the node's CSINode object if it is missing, so that schedulers see that there are no drivers yet.
pub async fn initialize(ctx: &Context) {
    if let Err(e) = update(ctx, "", None).await {
        tracing::warn!(error = e, "cannot make the node's CSINode object");
    }
}

async fn update(ctx: &Context, name: &str, with: Option<&CSINodeDriver>) -> Result<(), String> {
    let Some(client) = ctx.client.clone() else { return Ok(()) };
    let api: Api<CSINode> = Api::all(client);
    let mut last = String::new();
    for _ in 0..ATTEMPTS {
        let found = api.get_opt(&ctx.node_name).await.map_err(|e| e.to_string())?;
        let result = match found {
            None => {
                let owner = ctx.node.read().as_ref().and_then(|n| n.metadata.uid.clone());
                let Some(uid) = owner else { return Err("the node is not registered yet".into()) };
                let owner = OwnerReference {
                    api_version: "v1".into(),
                    kind: "Node".into(),
                    name: ctx.node_name.clone(),
                    uid,
                    ..OwnerReference::default()
                };
                let new = CSINode {
                    metadata: ObjectMeta {
                        name: Some(ctx.node_name.clone()),
                        owner_references: Some(vec![owner]),
                        ..ObjectMeta::default()
                    },
                    spec: CSINodeSpec { drivers: with.cloned().into_iter().collect() },
                };
                api.create(&PostParams::default(), &new).await
            }
            Some(mut node) => {
                let Some(drivers) = changed(&node.spec.drivers, name, with) else { return Ok(()) };
                node.spec.drivers = drivers;
                api.replace(&ctx.node_name, &PostParams::default(), &node).await
            }
        };
        match result {
            Ok(_) => return Ok(()),
            Err(kube::Error::Api(s)) if s.code == 409 => last = s.message.clone(),
            Err(e) => return Err(format!("updating CSINode {}: {e}", ctx.node_name)),
        }
    }
    Err(format!("updating CSINode {}: {last}", ctx.node_name))
}

/// Tells the cluster of a driver.
pub async fn add(ctx: &Arc<Context>, driver: &str, info: &NodeInfo) -> Result<(), String> {
    if info.node_id.is_empty() {
        return Err(format!("driver {driver} has no id for this node"));
    }
    annotate(ctx, driver, Some(info)).await?;
    update(ctx, driver, Some(&entry(driver, info))).await
}

/// Takes back what was told of a driver.
pub async fn remove(ctx: &Arc<Context>, driver: &str) {
    let told = async {
        update(ctx, driver, None).await?;
        annotate(ctx, driver, None).await
    };
    if let Err(e) = told.await {
        tracing::warn!(driver, error = e, "cannot tell the cluster that a CSI driver is gone");
    }
}

async fn annotate(ctx: &Context, driver: &str, info: Option<&NodeInfo>) -> Result<(), String> {
    let Some(client) = ctx.client.clone() else { return Ok(()) };
    let api: Api<Node> = Api::all(client);
    let node = api.get(&ctx.node_name).await.map_err(|e| format!("reading the node: {e}"))?;
    let known = node.metadata.annotations.as_ref().and_then(|a| a.get(NODE_IDS));
    let mut ids: BTreeMap<String, String> =
        known.and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let labels =
        info.and_then(|i| i.accessible_topology.as_ref()).map(|t| t.segments.clone()).unwrap_or_default();
    match info {
        Some(info) => ids.insert(driver.to_owned(), info.node_id.clone()),
        None => ids.remove(driver),
    };
    let text =
        (!ids.is_empty()).then(|| serde_json::to_string(&ids)).transpose().map_err(|e| e.to_string())?;
    let patch = serde_json::json!({"metadata": {"annotations": {NODE_IDS: text}, "labels": labels}});
    api.patch(&ctx.node_name, &PatchParams::default(), &Patch::Merge(patch))
        .await
        .map(drop)
        .map_err(|e| format!("annotating the node: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::volume::csi::wire::Topology;

    #[test]
    fn a_driver_is_listed_once() {
        let info = NodeInfo {
            node_id: "i".into(),
            max_volumes_per_node: 8,
            accessible_topology: Some(Topology {
                segments: [("z".to_owned(), "1".to_owned()), ("a".to_owned(), "2".to_owned())].into(),
            }),
        };
        let e = entry("d", &info);
        assert_eq!(e.topology_keys, Some(vec!["a".to_owned(), "z".to_owned()]));
        assert_eq!(e.allocatable, Some(VolumeNodeResources { count: Some(8) }));
        let one = changed(&[], "d", Some(&e)).unwrap();
        assert_eq!(changed(&one, "d", Some(&e)), None);
        assert_eq!(changed(&one, "x", None), None);
        assert_eq!(changed(&one, "d", None), Some(vec![]));
        let moved = entry("d", &NodeInfo { node_id: "j".into(), ..info });
        assert_eq!(changed(&one, "d", Some(&moved)).unwrap().len(), 1);
    }
}
