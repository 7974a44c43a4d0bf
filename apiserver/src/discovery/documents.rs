//! The discovery documents as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::registry::resource::{Resource, api_version};
use crate::registry::table::{Group, Table, Version};

/// `/api/v1` or `/apis/GROUP/VERSION`.
pub fn path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") }
}

/// `APIVersions`: what `/api` answers.
pub fn versions(address: &str) -> Value {
    json!({
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    })
}

fn group_entry(g: &Group) -> Map<String, Value> {
    let version = |v: &Version| json!({"groupVersion": api_version(g.name, v.name), "version": v.name});
    let mut m = Map::new();
    m.insert("name".into(), g.name.into());
    m.insert("versions".into(), g.versions.iter().map(version).collect());
    if let Some(v) = g.versions.first() {
        m.insert("preferredVersion".into(), version(v));
    }
    m
}

/// `APIGroupList`: what `/apis` answers.
pub fn groups(table: &Table) -> Value {
    let groups: Vec<Value> =
        table.groups.iter().filter(|g| !g.name.is_empty()).map(|g| group_entry(g).into()).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `APIGroup`: what `/apis/GROUP` answers.
pub fn group(g: &Group) -> Value {
    let mut m = group_entry(g);
    m.insert("kind".into(), "APIGroup".into());
    m.insert("apiVersion".into(), "v1".into());
    m.into()
}

/// The hash by which clients see that the storage version changed.
fn storage_hash(r: &Resource) -> Option<String> {
    let s = r.storage.as_ref()?;
    let digest = Sha256::digest(format!("{}/{}/{}", s.group, s.version, s.kind));
    Some(STANDARD.encode(&digest[..8]))
}

/// Verbs that are told of: of resources whose definition is being deleted, those that add nothing.
fn verbs(r: &Resource) -> Value {
    match &r.custom {
        Some(c) if c.terminating => json!(["delete", "deletecollection", "get", "list", "watch"]),
        _ => r.verbs.into(),
    }
}

/// `APIResourceList`: what `/apis/GROUP/VERSION` answers.
pub fn resources(g: &Group, v: &Version) -> Value {
    let mut list = Vec::new();
    for r in &v.resources {
        let mut m = Map::new();
        m.insert("name".into(), r.resource.into());
        m.insert("singularName".into(), r.singular.into());
        m.insert("namespaced".into(), r.namespaced.into());
        m.insert("kind".into(), r.kind.into());
        m.insert("verbs".into(), verbs(r));
        if !r.short_names.is_empty() {
            m.insert("shortNames".into(), json!(r.short_names));
        }
        if !r.categories.is_empty() {
            m.insert("categories".into(), json!(r.categories));
        }
        if let Some(h) = storage_hash(r) {
            m.insert("storageVersionHash".into(), h.into());
        }
        list.push(Value::Object(m));
        for s in r.subresources.iter() {
            let mut m = Map::new();
            m.insert("name".into(), format!("{}/{}", r.resource, s.name).into());
            m.insert("singularName".into(), "".into());
            m.insert("namespaced".into(), r.namespaced.into());
            if foreign(r, s) {
                m.insert("group".into(), s.kind.group.into());
                m.insert("version".into(), s.kind.version.into());
            }
            m.insert("kind".into(), s.kind.kind.into());
            m.insert("verbs".into(), s.verbs.into());
            list.push(Value::Object(m));
        }
    }
    let mut out = json!({
        "kind": "APIResourceList", "groupVersion": api_version(g.name, v.name), "resources": list,
    });
    // Upstream leaves it out for the core group, whose clients are older than the field.
    if !g.name.is_empty() {
        out["apiVersion"] = "v1".into();
    }
    out
}

/// Whether a subresource's kind is of another group than its parent.
fn foreign(r: &Resource, s: &proto::Subresource) -> bool {
    !s.kind.group.is_empty() && s.kind.group != r.group
}

/// `APIGroupDiscoveryList`: everything at once. `legacy` is `/api`, else `/apis`.
pub fn aggregated(table: &Table, legacy: bool, version: &str) -> Value {
    let items: Vec<Value> = table
        .groups
        .iter()
        .filter(|g| g.name.is_empty() == legacy)
        .map(|g| {
            let versions: Vec<Value> = g
                .versions
                .iter()
                .map(|v| {
                    let resources: Vec<Value> = v.resources.iter().map(|r| resource(r)).collect();
                    json!({"version": v.name, "resources": resources, "freshness": "Current"})
                })
                .collect();
            let meta = if g.name.is_empty() { json!({}) } else { json!({"name": g.name}) };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"),
        "metadata": {}, "items": items,
    })
}

fn resource(r: &Resource) -> Value {
    let mut m = Map::new();
    m.insert("resource".into(), r.resource.into());
    let (group, version) = if r.custom.is_some() { (r.group, r.version) } else { ("", "") };
    m.insert("responseKind".into(), json!({"group": group, "version": version, "kind": r.kind}));
    m.insert("scope".into(), r.scope().into());
    m.insert("singularResource".into(), r.singular.into());
    m.insert("verbs".into(), verbs(r));
    if !r.short_names.is_empty() {
        m.insert("shortNames".into(), json!(r.short_names));
    }
    if !r.categories.is_empty() {
        m.insert("categories".into(), json!(r.categories));
    }
    let subs: Vec<Value> = r
        .subresources
        .iter()
        .map(|s| {
            let told = r.custom.is_some() || foreign(r, s);
            let (group, version) = if told { (s.kind.group, s.kind.version) } else { ("", "") };
            json!({
                "subresource": s.name,
                "responseKind": {"group": group, "version": version, "kind": s.kind.kind},
                "verbs": s.verbs,
            })
        })
        .collect();
    if !subs.is_empty() {
        m.insert("subresources".into(), subs.into());
    }
    Value::Object(m)
}
