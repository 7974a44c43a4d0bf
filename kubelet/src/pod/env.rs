//! A container's environment, from every source the API has, in upstream's order of precedence. Pure: the
//! referenced objects are fetched before.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Container, FileKeySelector, Pod, Secret};

use super::{
    env_file,
    expand::expand,
    fields::{self, NodeFacts},
    spec,
};

/// The ConfigMaps and Secrets of one namespace that a pod refers to, as far as they exist.
#[derive(Clone, Default)]
pub struct ObjectSet {
    pub config_maps: HashMap<String, Arc<ConfigMap>>,
    pub secrets: HashMap<String, Arc<Secret>>,
}

impl ObjectSet {
    /// A key of a ConfigMap: `Ok(None)` where it is missing but optional.
    pub fn config_map_key(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        optional: bool,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some(cm) = self.config_maps.get(name) else {
            return if optional { Ok(None) } else { Err(format!("configmap {name:?} not found")) };
        };
        let text = cm.data.as_ref().and_then(|d| d.get(key)).map(|s| s.clone().into_bytes());
        match text.or_else(|| cm.binary_data.as_ref().and_then(|d| d.get(key)).map(|b| b.0.clone())) {
            None if !optional => Err(format!("couldn't find key {key} in ConfigMap {namespace}/{name}")),
            found => Ok(found),
        }
    }

    /// A key of a Secret.
    pub fn secret_key(
        &self,
        namespace: &str,
        name: &str,
        key: &str,
        optional: bool,
    ) -> Result<Option<Vec<u8>>, String> {
        let Some(secret) = self.secrets.get(name) else {
            return if optional { Ok(None) } else { Err(format!("secret {name:?} not found")) };
        };
        match secret.data.as_ref().and_then(|d| d.get(key)) {
            None if !optional => Err(format!("couldn't find key {key} in Secret {namespace}/{name}")),
            found => Ok(found.map(|b| b.0.clone())),
        }
    }
}

/// Names of all objects that a pod's containers and volumes refer to: (ConfigMaps, Secrets).
pub fn references(pod: &Pod) -> (Vec<String>, Vec<String>) {
    let (mut maps, mut secrets) = (Vec::new(), Vec::new());
    let spec = spec::spec(pod);
    let ephemeral: Vec<Container> =
        spec.ephemeral_containers.iter().flatten().map(spec::from_ephemeral).collect();
    for c in spec.containers.iter().chain(spec.init_containers.iter().flatten()).chain(&ephemeral) {
        for from in c.env_from.iter().flatten() {
            maps.extend(from.config_map_ref.iter().map(|r| r.name.clone()));
            secrets.extend(from.secret_ref.iter().map(|r| r.name.clone()));
        }
        for source in c.env.iter().flatten().filter_map(|e| e.value_from.as_ref()) {
            maps.extend(source.config_map_key_ref.iter().map(|r| r.name.clone()));
            secrets.extend(source.secret_key_ref.iter().map(|r| r.name.clone()));
        }
    }
    for v in spec.volumes.iter().flatten() {
        maps.extend(v.config_map.iter().map(|m| m.name.clone()));
        secrets.extend(v.secret.iter().filter_map(|s| s.secret_name.clone()));
        for source in v.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            maps.extend(source.config_map.iter().map(|m| m.name.clone()));
            secrets.extend(source.secret.iter().map(|s| s.name.clone()));
        }
    }
    maps.sort();
    maps.dedup();
    secrets.sort();
    secrets.dedup();
    (maps, secrets)
}

/// The environment in a stable order. `files` gives what is in a file of one of the pod's volumes.
pub fn environment(
    pod: &Pod,
    container: &Container,
    facts: &NodeFacts,
    services: &BTreeMap<String, String>,
    objects: &ObjectSet,
    files: &dyn Fn(&FileKeySelector) -> Result<String, String>,
) -> Result<Vec<(String, String)>, String> {
    let namespace = spec::namespace(pod);
    let mut result: BTreeMap<String, String> = BTreeMap::new();
    for from in container.env_from.iter().flatten() {
        let prefix = from.prefix.as_deref().unwrap_or_default();
        if let Some(r) = &from.config_map_ref {
            match objects.config_maps.get(&r.name) {
                Some(cm) => {
                    for (k, v) in cm.data.iter().flatten() {
                        insert_from(&mut result, prefix, k, v.clone());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("configmap {:?} not found", r.name)),
            }
        }
        if let Some(r) = &from.secret_ref {
            match objects.secrets.get(&r.name) {
                Some(s) => {
                    for (k, v) in s.data.iter().flatten() {
                        insert_from(&mut result, prefix, k, String::from_utf8_lossy(&v.0).into_owned());
                    }
                }
                None if r.optional == Some(true) => {}
                None => return Err(format!("secret {:?} not found", r.name)),
            }
        }
    }
    // Variables in order: each may refer to those before it and to the service variables.
    let mut order: Vec<(String, String)> = Vec::new();
    for var in container.env.iter().flatten() {
        let value = match (&var.value, &var.value_from) {
            (Some(text), _) if !text.is_empty() => {
                expand(text, |n| result.get(n).or_else(|| services.get(n)).map(String::as_str)).0
            }
            (_, None) => String::new(),
            (_, Some(source)) => {
                let found = if let Some(f) = &source.field_ref {
                    Some(fields::field(pod, facts, f)?)
                } else if let Some(r) = &source.resource_field_ref {
                    let other = r.container_name.as_deref().filter(|n| !n.is_empty());
                    let of = match other {
                        Some(name) => spec::find_container(pod, name)
                            .ok_or_else(|| format!("container {name} not found"))?
                            .1
                            .into_owned(),
                        None => container.clone(),
                    };
                    Some(fields::resource(&of, facts, r)?)
                } else if let Some(r) = &source.config_map_key_ref {
                    objects
                        .config_map_key(namespace, &r.name, &r.key, r.optional == Some(true))?
                        .map(|b| String::from_utf8_lossy(&b).into_owned())
                } else if let Some(r) = &source.secret_key_ref {
                    objects
                        .secret_key(namespace, &r.name, &r.key, r.optional == Some(true))?
                        .map(|b| String::from_utf8_lossy(&b).into_owned())
                } else if let Some(f) = &source.file_key_ref {
                    let found = env_file::value(&files(f)?, &f.key)
                        .map_err(|e| format!("couldn't parse env file {:?}: {e}", f.path))?;
                    if found.is_none() && f.optional != Some(true) {
                        return Err(format!(
                            "environment variable key {:?} not found in file {:?}",
                            f.key, f.path
                        ));
                    }
                    found
                } else {
                    return Err(format!("environment variable {}: its source is not supported", var.name));
                };
                match found {
                    Some(v) => v,
                    None => continue,
                }
            }
        };
        result.insert(var.name.clone(), value.clone());
        order.retain(|(n, _)| *n != var.name);
        order.push((var.name.clone(), value));
    }
    let mut out: Vec<(String, String)> = services
        .iter()
        .filter(|(k, _)| !result.contains_key(*k))
        .map(|(k, v)| (k.clone(), v.clone()))
        .collect();
    out.extend(
        result
            .iter()
            .filter(|(k, _)| !order.iter().any(|(n, _)| n == *k))
            .map(|(k, v)| (k.clone(), v.clone())),
    );
    out.extend(order);
    Ok(out)
}

fn insert_from(result: &mut BTreeMap<String, String>, prefix: &str, key: &str, value: String) {
    result.insert(format!("{prefix}{key}"), value);
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn precedence_expansion_and_sources() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
        "metadata": {"name": "p", "namespace": "d"},
        "spec": {"containers": [{"name": "c",
            "envFrom": [{"configMapRef": {"name": "m"}, "prefix": "P_"}],
            "env": [
                {"name": "A", "value": "$(P_k)-$(KUBERNETES_SERVICE_HOST)-$(NOPE)"},
                {"name": "B", "value": "$(A)!"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "x"}}},
                {"name": "O", "valueFrom": {"secretKeyRef": {"name": "none", "key": "x", "optional": true}}},
                {"name": "F", "valueFrom": {"fileKeyRef": {"volumeName": "v", "path": "e", "key": "K"}}},
                {"name": "G", "valueFrom":
                    {"fileKeyRef": {"volumeName": "v", "path": "e", "key": "L", "optional": true}}}
            ]}]}}))
        .unwrap();
        let c = pod.spec.as_ref().unwrap().containers[0].clone();
        let services = BTreeMap::from([("KUBERNETES_SERVICE_HOST".to_owned(), "10.0.0.1".to_owned())]);
        let mut objects = ObjectSet::default();
        let file = Cell::new("K='f'");
        let files = |f: &FileKeySelector| match f.volume_name.as_str() {
            "v" => Ok(file.get().to_owned()),
            _ => Err("no such volume".to_owned()),
        };
        let call = |o: &ObjectSet| environment(&pod, &c, &NodeFacts::default(), &services, o, &files);
        assert_eq!(call(&objects).unwrap_err(), "configmap \"m\" not found");
        let m: ConfigMap = serde_json::from_value(serde_json::json!({"data": {"k": "v"}})).unwrap();
        objects.config_maps.insert("m".into(), Arc::new(m));
        assert_eq!(call(&objects).unwrap_err(), "secret \"s\" not found");
        let s: Secret = serde_json::from_value(serde_json::json!({"data": {"x": "eA=="}})).unwrap();
        objects.secrets.insert("s".into(), Arc::new(s));
        let env: HashMap<String, String> = call(&objects).unwrap().into_iter().collect();
        assert_eq!(env["A"], "v-10.0.0.1-$(NOPE)");
        assert_eq!(env["B"], "v-10.0.0.1-$(NOPE)!");
        assert_eq!(env["N"], "p");
        assert_eq!(env["S"], "x");
        assert!(!env.contains_key("O") && !env.contains_key("G"));
        assert_eq!(env["F"], "f");
        file.set("L='x'");
        assert_eq!(call(&objects).unwrap_err(), "environment variable key \"K\" not found in file \"e\"");
        file.set("K=f");
        assert!(call(&objects).unwrap_err().starts_with("couldn't parse env file \"e\": "));
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
    }
}
