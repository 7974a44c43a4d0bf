//! What files a configMap, secret, downwardAPI or projected volume holds. Pure: objects and tokens are passed in.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapProjection, ConfigMapVolumeSource, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource,
    SecretProjection, SecretVolumeSource,
};

use crate::pod::{
    env::ObjectSet,
    fields::{self, NodeFacts},
    spec,
};

/// One file of a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    pub data: Vec<u8>,
    pub mode: u32,
    /// Owner where it is not root.
    pub owner: Option<u32>,
}

/// Relative path → file.
pub type Payload = BTreeMap<String, File>;

const DEFAULT_MODE: u32 = 0o644;

/// Tokens and trust bundles of a projected volume, by position of their source.
#[derive(Default)]
pub struct Tokens {
    pub tokens: BTreeMap<usize, String>,
    pub owner: Option<u32>,
    pub restrict: bool,
}

fn mode(own: Option<i32>, default: Option<i32>) -> u32 {
    own.or(default).map_or(DEFAULT_MODE, |m| m as u32 & 0o777)
}

/// Chooses keys: all, or those listed, which then must exist unless optional.
fn pick(
    all: BTreeMap<String, Vec<u8>>,
    items: Option<&Vec<KeyToPath>>,
    default_mode: Option<i32>,
    optional: bool,
    what: &str,
    out: &mut Payload,
) -> Result<(), String> {
    match items.filter(|i| !i.is_empty()) {
        None => {
            for (key, data) in all {
                out.insert(key, File { data, mode: mode(None, default_mode), owner: None });
            }
        }
        Some(items) => {
            for item in items {
                match all.get(&item.key) {
                    Some(data) => {
                        let file =
                            File { data: data.clone(), mode: mode(item.mode, default_mode), owner: None };
                        out.insert(checked(&item.path)?, file);
                    }
                    None if optional => {}
                    None => return Err(format!("{what} references non-existent config key: {}", item.key)),
                }
            }
        }
    }
    Ok(())
}

fn checked(path: &str) -> Result<String, String> {
    let bad = path.is_empty()
        || path.starts_with('/')
        || path.len() > 4096
        || path
            .split('/')
            .any(|part| part == ".." || part.starts_with("..") || part.is_empty() || part.len() > 255);
    if bad { Err(format!("invalid path {path:?} in volume payload")) } else { Ok(path.to_owned()) }
}

fn config_map_data(
    objects: &ObjectSet,
    name: &str,
    optional: bool,
) -> Result<BTreeMap<String, Vec<u8>>, String> {
    match objects.config_maps.get(name) {
        Some(cm) => {
            let mut all: BTreeMap<String, Vec<u8>> =
                cm.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes())).collect();
            all.extend(cm.binary_data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())));
            Ok(all)
        }
        None if optional => Ok(BTreeMap::new()),
        None => Err(format!("configmap {name:?} not found")),
    }
}

fn secret_data(objects: &ObjectSet, name: &str, optional: bool) -> Result<BTreeMap<String, Vec<u8>>, String> {
    match objects.secrets.get(name) {
        Some(s) => Ok(s.data.iter().flatten().map(|(k, v)| (k.clone(), v.0.clone())).collect()),
        None if optional => Ok(BTreeMap::new()),
        None => Err(format!("secret {name:?} not found")),
    }
}

pub fn config_map(v: &ConfigMapVolumeSource, objects: &ObjectSet) -> Result<Payload, String> {
    let mut out = Payload::new();
    let optional = v.optional == Some(true);
    pick(
        config_map_data(objects, &v.name, optional)?,
        v.items.as_ref(),
        v.default_mode,
        optional,
        "configmap",
        &mut out,
    )?;
    Ok(out)
}

pub fn secret(v: &SecretVolumeSource, objects: &ObjectSet) -> Result<Payload, String> {
    let mut out = Payload::new();
    let optional = v.optional == Some(true);
    let name = v.secret_name.as_deref().unwrap_or_default();
    pick(
        secret_data(objects, name, optional)?,
        v.items.as_ref(),
        v.default_mode,
        optional,
        "references",
        &mut out,
    )?;
    Ok(out)
}

pub fn downward_api(
    items: &[DownwardAPIVolumeFile],
    default_mode: Option<i32>,
    pod: &Pod,
    facts: &NodeFacts,
) -> Result<Payload, String> {
    let mut out = Payload::new();
    for item in items {
        let text = if let Some(f) = &item.field_ref {
            fields::field(pod, facts, f)?
        } else if let Some(r) = &item.resource_field_ref {
            let name = r.container_name.as_deref().unwrap_or_default();
            let (_, c) =
                spec::find_container(pod, name).ok_or_else(|| format!("container {name} not found"))?;
            fields::resource(&c, facts, r)?
        } else {
            return Err(format!("downwardAPI file {:?} has no source", item.path));
        };
        let file = File { data: text.into_bytes(), mode: mode(item.mode, default_mode), owner: None };
        out.insert(checked(&item.path)?, file);
    }
    Ok(out)
}

fn projected_config_map(
    s: &ConfigMapProjection,
    default_mode: Option<i32>,
    objects: &ObjectSet,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = s.optional == Some(true);
    pick(
        config_map_data(objects, &s.name, optional)?,
        s.items.as_ref(),
        default_mode,
        optional,
        "configmap",
        out,
    )
}

fn projected_secret(
    s: &SecretProjection,
    default_mode: Option<i32>,
    objects: &ObjectSet,
    out: &mut Payload,
) -> Result<(), String> {
    let optional = s.optional == Some(true);
    pick(
        secret_data(objects, &s.name, optional)?,
        s.items.as_ref(),
        default_mode,
        optional,
        "references",
        out,
    )
}

pub fn projected(
    v: &ProjectedVolumeSource,
    pod: &Pod,
    facts: &NodeFacts,
    objects: &ObjectSet,
    tokens: &Tokens,
) -> Result<Payload, String> {
    let mut out = Payload::new();
    for (index, source) in v.sources.iter().flatten().enumerate() {
        if let Some(s) = &source.config_map {
            projected_config_map(s, v.default_mode, objects, &mut out)?;
        } else if let Some(s) = &source.secret {
            projected_secret(s, v.default_mode, objects, &mut out)?;
        } else if let Some(s) = &source.downward_api {
            out.extend(downward_api(s.items.as_deref().unwrap_or_default(), v.default_mode, pod, facts)?);
        } else if let Some(s) = &source.service_account_token {
            let token = tokens.tokens.get(&index).ok_or("service account token is not available")?;
            let mode = if tokens.restrict { 0o600 } else { mode(None, v.default_mode) };
            let file = File { data: token.clone().into_bytes(), mode, owner: tokens.owner };
            out.insert(checked(&s.path)?, file);
        } else if source.cluster_trust_bundle.is_some() {
            return Err("clusterTrustBundle projections are not supported by this kubelet".into());
        } else if source.pod_certificate.is_some() {
            return Err("podCertificate projections are not supported by this kubelet".into());
        } else {
            return Err("projected volume source of an unknown type".into());
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn items_modes_and_missing_keys() {
        let mut o = ObjectSet::default();
        let cm = serde_json::from_value(
            serde_json::json!({"data": {"a": "1", "b": "2"}, "binaryData": {"c": "/w=="}}),
        )
        .unwrap();
        o.config_maps.insert("m".into(), Arc::new(cm));
        let v = |j: serde_json::Value| -> ConfigMapVolumeSource { serde_json::from_value(j).unwrap() };
        let all = config_map(&v(serde_json::json!({"name": "m", "defaultMode": 256})), &o).unwrap();
        assert_eq!(all.len(), 3);
        assert_eq!(all["c"], File { data: vec![0xff], mode: 0o400, owner: None });
        let one = config_map(
            &v(serde_json::json!({"name": "m", "items": [{"key": "a", "path": "d/x", "mode": 448}]})),
            &o,
        )
        .unwrap();
        assert_eq!(one["d/x"].mode, 0o700);
        let bad = |j| config_map(&v(j), &o).unwrap_err();
        assert!(
            bad(serde_json::json!({"name": "m", "items": [{"key": "z", "path": "x"}]}))
                .contains("non-existent config key: z")
        );
        assert!(
            bad(serde_json::json!({"name": "m", "items": [{"key": "a", "path": "../x"}]}))
                .contains("invalid path")
        );
        assert_eq!(bad(serde_json::json!({"name": "q"})), "configmap \"q\" not found");
        assert!(config_map(&v(serde_json::json!({"name": "q", "optional": true})), &o).unwrap().is_empty());
    }
}
