//! Which objects a node may see: those that the pods bound to it use.
//!
//! Kept incrementally: each source object (pod, volume attachment, resource slice, certificate request) says what
//! it makes visible to its node, counted, so that an event costs only what it changes. Persistent volumes stand
//! between a claim and their own secrets and are followed at decision time.

use std::collections::{BTreeSet, HashMap};

use parking_lot::RwLock;
use serde_json::Value;

use super::super::lookup::{items, text};

/// Kinds of objects that nodes see by relation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    ConfigMap,
    Secret,
    Pod,
    Claim,
    Volume,
    ResourceClaim,
    ResourceSlice,
    VolumeAttachment,
    ServiceAccount,
    PodCertificateRequest,
}

/// Kind, namespace, name.
type Object = (Kind, Box<str>, Box<str>);

#[derive(Debug, Default, PartialEq, Eq)]
struct Source {
    node: Box<str>,
    uses: Vec<Object>,
}

#[derive(Debug)]
struct Volume {
    claim: Object,
    secrets: Vec<Object>,
}

#[derive(Debug, Default)]
struct Inner {
    sources: HashMap<Object, Source>,
    /// How many sources on each node use an object.
    nodes: HashMap<Object, HashMap<Box<str>, u32>>,
    volumes: HashMap<Box<str>, Volume>,
    /// Volumes that use a secret.
    secret_volumes: HashMap<Object, BTreeSet<Box<str>>>,
}

/// The relations. Reads and writes may come from any thread.
#[derive(Debug, Default)]
pub struct Graph {
    inner: RwLock<Inner>,
}

impl Graph {
    /// Takes in an object of one of the resources that [`Self::watches`] names.
    pub fn upsert(&self, resource: &str, object: &Value) {
        let namespace = text(object, "/metadata/namespace");
        let name = text(object, "/metadata/name");
        let source = match resource {
            "pods" => pod_source(object),
            "volumeattachments" => plain(Kind::VolumeAttachment, "", name, text(object, "/spec/nodeName")),
            "resourceslices" => plain(Kind::ResourceSlice, "", name, text(object, "/spec/nodeName")),
            "podcertificaterequests" => {
                plain(Kind::PodCertificateRequest, namespace, name, text(object, "/spec/nodeName"))
            }
            "persistentvolumes" => {
                self.inner.write().put_volume(name, object);
                return;
            }
            _ => return,
        };
        let Some(key) = source_key(resource, namespace, name) else { return };
        if self.inner.read().sources.get(&key) == source.as_ref() {
            return;
        }
        self.inner.write().put_source(key, source);
    }

    /// Forgets an object.
    pub fn remove(&self, resource: &str, namespace: &str, name: &str) {
        if resource == "persistentvolumes" {
            self.inner.write().drop_volume(name);
        } else if let Some(key) = source_key(resource, namespace, name) {
            self.inner.write().put_source(key, None);
        }
    }

    /// Group and resource of what must be fed in.
    pub fn watches() -> &'static [(&'static str, &'static str)] {
        &[
            ("", "pods"),
            ("", "persistentvolumes"),
            ("storage.k8s.io", "volumeattachments"),
            ("resource.k8s.io", "resourceslices"),
            ("certificates.k8s.io", "podcertificaterequests"),
        ]
    }

    /// Whether the node may see the object.
    pub fn related(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let inner = self.inner.read();
        let object: Object = (kind, namespace.into(), name.into());
        if inner.direct(node, &object) {
            return true;
        }
        match kind {
            Kind::Volume => inner.volumes.get(name).is_some_and(|v| inner.direct(node, &v.claim)),
            Kind::Secret => inner.secret_volumes.get(&object).is_some_and(|volumes| {
                volumes.iter().any(|v| inner.volumes.get(v).is_some_and(|v| inner.direct(node, &v.claim)))
            }),
            _ => false,
        }
    }
}

impl Inner {
    fn direct(&self, node: &str, object: &Object) -> bool {
        self.nodes.get(object).is_some_and(|n| n.contains_key(node))
    }

    fn put_source(&mut self, key: Object, source: Option<Source>) {
        if let Some(old) = self.sources.remove(&key) {
            for object in old.uses {
                let Some(nodes) = self.nodes.get_mut(&object) else { continue };
                if let Some(count) = nodes.get_mut(&old.node) {
                    *count -= 1;
                    if *count == 0 {
                        nodes.remove(&old.node);
                    }
                }
                if nodes.is_empty() {
                    self.nodes.remove(&object);
                }
            }
        }
        let Some(source) = source else { return };
        for object in &source.uses {
            let nodes = self.nodes.entry(object.clone()).or_default();
            *nodes.entry(source.node.clone()).or_default() += 1;
        }
        self.sources.insert(key, source);
    }

    fn put_volume(&mut self, name: &str, pv: &Value) {
        self.drop_volume(name);
        let claim_name = text(pv, "/spec/claimRef/name");
        if claim_name.is_empty() {
            return;
        }
        let namespace = text(pv, "/spec/claimRef/namespace");
        let secrets = volume_secrets(pv, namespace);
        for s in &secrets {
            self.secret_volumes.entry(s.clone()).or_default().insert(name.into());
        }
        let claim = (Kind::Claim, namespace.into(), claim_name.into());
        self.volumes.insert(name.into(), Volume { claim, secrets });
    }

    fn drop_volume(&mut self, name: &str) {
        let Some(old) = self.volumes.remove(name) else { return };
        for s in old.secrets {
            if let Some(volumes) = self.secret_volumes.get_mut(&s) {
                volumes.remove(name);
                if volumes.is_empty() {
                    self.secret_volumes.remove(&s);
                }
            }
        }
    }
}

fn source_key(resource: &str, namespace: &str, name: &str) -> Option<Object> {
    let kind = match resource {
        "pods" => Kind::Pod,
        "volumeattachments" => Kind::VolumeAttachment,
        "resourceslices" => Kind::ResourceSlice,
        "podcertificaterequests" => Kind::PodCertificateRequest,
        _ => return None,
    };
    Some((kind, namespace.into(), name.into()))
}

fn plain(kind: Kind, namespace: &str, name: &str, node: &str) -> Option<Source> {
    (!node.is_empty())
        .then(|| Source { node: node.into(), uses: vec![(kind, namespace.into(), name.into())] })
}

fn pod_source(pod: &Value) -> Option<Source> {
    let node = text(pod, "/spec/nodeName");
    if node.is_empty() {
        return None;
    }
    let namespace = text(pod, "/metadata/namespace");
    let name = text(pod, "/metadata/name");
    let mut uses: BTreeSet<Object> = BTreeSet::new();
    uses.insert((Kind::Pod, namespace.into(), name.into()));
    // A mirror pod's spec is the node's own word: it must not open anything.
    if pod.pointer("/metadata/annotations/kubernetes.io~1config.mirror").is_none() {
        let mut add = |kind: Kind, name: &str| {
            if !name.is_empty() {
                uses.insert((kind, namespace.into(), name.into()));
            }
        };
        add(Kind::ServiceAccount, text(pod, "/spec/serviceAccountName"));
        for s in secret_names(pod) {
            add(Kind::Secret, s);
        }
        for c in config_map_names(pod) {
            add(Kind::ConfigMap, c);
        }
        for v in items(pod, "/spec/volumes") {
            add(Kind::Claim, text(v, "/persistentVolumeClaim/claimName"));
            if v.get("ephemeral").is_some_and(|e| !e.is_null()) {
                add(Kind::Claim, &format!("{name}-{}", text(v, "/name")));
            }
        }
        for c in items(pod, "/spec/resourceClaims") {
            add(Kind::ResourceClaim, text(c, "/resourceClaimName"));
        }
        for c in items(pod, "/status/resourceClaimStatuses") {
            add(Kind::ResourceClaim, text(c, "/resourceClaimName"));
        }
        add(Kind::ResourceClaim, text(pod, "/status/extendedResourceClaimStatus/resourceClaimName"));
    }
    Some(Source { node: node.into(), uses: uses.into_iter().collect() })
}

/// All containers of a pod: init, regular and ephemeral ones.
pub(crate) fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/spec/initContainers", "/spec/containers", "/spec/ephemeralContainers"]
        .into_iter()
        .flat_map(|p| items(pod, p))
}

/// The secrets that a pod refers to anywhere in its spec (some more than once).
pub(crate) fn secret_names(pod: &Value) -> Vec<&str> {
    let mut out = Vec::new();
    out.extend(items(pod, "/spec/imagePullSecrets").iter().map(|s| text(s, "/name")));
    for c in containers(pod) {
        out.extend(items(c, "/envFrom").iter().map(|e| text(e, "/secretRef/name")));
        out.extend(items(c, "/env").iter().map(|e| text(e, "/valueFrom/secretKeyRef/name")));
    }
    for v in items(pod, "/spec/volumes") {
        for p in [
            "/azureFile/secretName",
            "/cephfs/secretRef/name",
            "/cinder/secretRef/name",
            "/flexVolume/secretRef/name",
            "/rbd/secretRef/name",
            "/secret/secretName",
            "/scaleIO/secretRef/name",
            "/iscsi/secretRef/name",
            "/storageos/secretRef/name",
            "/csi/nodePublishSecretRef/name",
        ] {
            out.push(text(v, p));
        }
        out.extend(items(v, "/projected/sources").iter().map(|s| text(s, "/secret/name")));
    }
    out.retain(|s| !s.is_empty());
    out
}

/// The config maps that a pod refers to.
pub(crate) fn config_map_names(pod: &Value) -> Vec<&str> {
    let mut out = Vec::new();
    for c in containers(pod) {
        out.extend(items(c, "/envFrom").iter().map(|e| text(e, "/configMapRef/name")));
        out.extend(items(c, "/env").iter().map(|e| text(e, "/valueFrom/configMapKeyRef/name")));
    }
    for v in items(pod, "/spec/volumes") {
        out.push(text(v, "/configMap/name"));
        out.extend(items(v, "/projected/sources").iter().map(|s| text(s, "/configMap/name")));
    }
    out.retain(|s| !s.is_empty());
    out
}

/// Secrets of a volume that the kubelet itself reads.
fn volume_secrets(pv: &Value, claim_namespace: &str) -> Vec<Object> {
    let mut out = Vec::new();
    let mut add = |namespace: &str, name: &str| {
        if !name.is_empty() {
            let namespace = if namespace.is_empty() { claim_namespace } else { namespace };
            out.push((Kind::Secret, namespace.into(), name.into()));
        }
    };
    add(text(pv, "/spec/azureFile/secretNamespace"), text(pv, "/spec/azureFile/secretName"));
    for source in [
        "cephfs/secretRef",
        "cinder/secretRef",
        "flexVolume/secretRef",
        "rbd/secretRef",
        "scaleIO/secretRef",
        "iscsi/secretRef",
        "storageos/secretRef",
        "csi/nodePublishSecretRef",
        "csi/nodeStageSecretRef",
        "csi/nodeExpandSecretRef",
    ] {
        add(text(pv, &format!("/spec/{source}/namespace")), text(pv, &format!("/spec/{source}/name")));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod() -> Value {
        json!({"metadata":{"name":"p","namespace":"ns"},"spec":{"nodeName":"n1","serviceAccountName":"sa",
            "imagePullSecrets":[{"name":"pull"}],
            "initContainers":[{"env":[{"valueFrom":{"secretKeyRef":{"name":"s1"}}}]}],
            "containers":[{"envFrom":[{"configMapRef":{"name":"c1"}}]}],
            "volumes":[{"name":"a","projected":{"sources":[{"configMap":{"name":"c2"}},{"secret":{"name":"s2"}}]}},
                {"name":"b","persistentVolumeClaim":{"claimName":"data"}},{"name":"scratch","ephemeral":{}}]}})
    }

    #[test]
    fn a_pod_opens_what_it_uses_to_its_node_only() {
        let g = Graph::default();
        g.upsert("pods", &pod());
        for (kind, name) in [
            (Kind::Pod, "p"),
            (Kind::Secret, "pull"),
            (Kind::Secret, "s1"),
            (Kind::Secret, "s2"),
            (Kind::ConfigMap, "c1"),
            (Kind::ConfigMap, "c2"),
            (Kind::Claim, "data"),
            (Kind::Claim, "p-scratch"),
            (Kind::ServiceAccount, "sa"),
        ] {
            assert!(g.related("n1", kind, "ns", name), "{kind:?} {name}");
            assert!(!g.related("n2", kind, "ns", name));
            assert!(!g.related("n1", kind, "other", name));
        }
        assert!(!g.related("n1", Kind::Secret, "ns", "c1"));
    }

    #[test]
    fn two_pods_share_and_the_last_one_closes() {
        let g = Graph::default();
        let mut other = pod();
        other["metadata"]["name"] = "q".into();
        g.upsert("pods", &pod());
        g.upsert("pods", &other);
        g.upsert("pods", &other);
        g.remove("pods", "ns", "p");
        assert!(g.related("n1", Kind::Secret, "ns", "s1"));
        g.remove("pods", "ns", "q");
        assert!(!g.related("n1", Kind::Secret, "ns", "s1"));
        assert!(g.inner.read().nodes.is_empty());
    }

    #[test]
    fn mirror_and_unbound_pods_open_nothing() {
        let g = Graph::default();
        let mut p = pod();
        p["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror":"x"});
        g.upsert("pods", &p);
        assert!(g.related("n1", Kind::Pod, "ns", "p"));
        assert!(!g.related("n1", Kind::Secret, "ns", "s1"));
        let mut p = pod();
        p["spec"]["nodeName"] = "".into();
        g.upsert("pods", &p);
        assert!(!g.related("n1", Kind::Pod, "ns", "p"));
    }

    #[test]
    fn volumes_and_their_secrets_follow_the_claim() {
        let g = Graph::default();
        g.upsert("pods", &pod());
        let pv = json!({"metadata":{"name":"pv1"},"spec":{"claimRef":{"namespace":"ns","name":"data"},
            "csi":{"nodePublishSecretRef":{"name":"mount","namespace":"infra"},"controllerPublishSecretRef":{"name":"ctl","namespace":"infra"}}}});
        g.upsert("persistentvolumes", &pv);
        assert!(g.related("n1", Kind::Volume, "", "pv1"));
        assert!(g.related("n1", Kind::Secret, "infra", "mount"));
        assert!(!g.related("n1", Kind::Secret, "infra", "ctl"));
        assert!(!g.related("n2", Kind::Volume, "", "pv1"));
        g.remove("pods", "ns", "p");
        assert!(!g.related("n1", Kind::Volume, "", "pv1"));
        g.remove("persistentvolumes", "", "pv1");
        assert!(g.inner.read().secret_volumes.is_empty());
    }
}
