//! Allocation on small clusters, written as the API writes them.

mod brute_force;
mod extended;
mod features;
mod flow;

use std::sync::Arc;

use k8s_openapi::api::resource::v1 as api;
use serde_json::{Value, json};

use super::model;
use super::request::read;
use super::result::allocation;
use super::search::{Failure, Matches, search};
use super::state::Dra;
use crate::model::Labels;

/// The driver of all devices here.
pub const DRIVER: &str = "gpu.example.com";

pub fn object<T: serde::de::DeserializeOwned>(v: Value) -> T {
    serde_json::from_value(v).expect("an object of the API")
}

/// A slice of the pool `pool` for a node, or what else `spec` says.
pub fn slice(name: &str, pool: &str, spec: Value) -> Arc<super::Slice> {
    let mut full = json!({
        "driver": DRIVER, "nodeName": "n",
        "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
    });
    for (k, v) in spec.as_object().into_iter().flatten() {
        full[k] = v.clone();
    }
    if spec.get("nodeName").is_none()
        && ["allNodes", "nodeSelector", "perDeviceNodeSelection"].iter().any(|k| spec.get(k).is_some())
    {
        full["nodeName"] = Value::Null;
    }
    model::slice(&object(json!({"metadata": {"name": name}, "spec": full})))
}

/// Devices without more than a name and an index.
pub fn plain(names: &[&str]) -> Value {
    let device = |(i, n): (usize, &&str)| json!({"name": n, "attributes": {"index": {"int": i}}});
    Value::Array(names.iter().enumerate().map(device).collect())
}

pub fn claim(name: &str, devices: Value) -> api::ResourceClaim {
    let metadata = json!({"name": name, "namespace": "default", "uid": format!("uid-{name}")});
    object(json!({"metadata": metadata, "spec": {"devices": devices}}))
}

/// A claim for one device of the class `gpu`.
pub fn one(name: &str) -> api::ResourceClaim {
    claim(name, json!({"requests": [{"name": "r", "exactly": {"deviceClassName": "gpu"}}]}))
}

/// The class `gpu`, which takes all devices of the driver, and these slices.
pub fn cluster(slices: impl IntoIterator<Item = Arc<super::Slice>>) -> Dra {
    let mut dra = Dra::default();
    let selectors = json!([{"cel": {"expression": format!("device.driver == '{DRIVER}'")}}]);
    add_class(&mut dra, "gpu", json!({"selectors": selectors}));
    for s in slices {
        dra.slices.set(s);
    }
    dra
}

pub fn add_class(dra: &mut Dra, name: &str, spec: Value) {
    let c = model::class(&object(json!({"metadata": {"name": name}, "spec": spec})));
    dra.classes.insert(c.name.clone(), c);
}

/// What the claims get on a node, with the shares numbered.
pub fn allocate_on(
    dra: &Dra,
    node: &str,
    labels: &Labels,
    claims: &[&api::ResourceClaim],
) -> Result<Option<Vec<api::AllocationResult>>, Failure> {
    let wanted: Vec<_> =
        claims.iter().map(|c| read(dra, c)).collect::<Result<_, _>>().map_err(Failure::Broken)?;
    let found = search(dra, (node, labels), &wanted, &Matches::default(), &|| false)?;
    let mut shares = 0;
    let mut share = || {
        shares += 1;
        format!("share-{shares}")
    };
    let word = |found: Vec<Vec<_>>| {
        wanted.iter().zip(&found).map(|(w, c)| allocation(w, c, node, &mut share)).collect::<Vec<_>>()
    };
    Ok(found.map(word))
}

/// The same on the node `n`: request and device of every result, or why there is none.
pub fn allocate(dra: &Dra, claims: &[&api::ResourceClaim]) -> Result<Vec<String>, String> {
    match allocate_on(dra, "n", &Labels::default(), claims) {
        Ok(Some(found)) => Ok(found.iter().flat_map(given).collect()),
        Ok(None) => Err("no".into()),
        Err(Failure::Broken(text)) => Err(text),
        Err(other) => Err(format!("{other:?}")),
    }
}

/// `request=pool/device` of every result.
pub fn given(a: &api::AllocationResult) -> Vec<String> {
    let results = a.devices.iter().flat_map(|d| d.results.iter().flatten());
    results.map(|r| format!("{}={}/{}", r.request, r.pool, r.device)).collect()
}

/// Writes an allocation into a claim and tells the cluster.
pub fn give(dra: &mut Dra, c: &api::ResourceClaim, a: api::AllocationResult) {
    let mut c = c.clone();
    c.status = Some(api::ResourceClaimStatus { allocation: Some(a), ..Default::default() });
    dra.claims.set(Arc::new(c)).expect("not older than what is known");
}

/// Allocates a claim on the node `n` and writes that.
pub fn settle(dra: &mut Dra, c: &api::ResourceClaim) -> Result<Vec<String>, String> {
    let found = allocate_on(dra, "n", &Labels::default(), &[c]).map_err(|e| format!("{e:?}"))?;
    let Some(a) = found.and_then(|mut f| f.pop()) else { return Err("no".into()) };
    let told = given(&a);
    give(dra, c, a);
    Ok(told)
}
