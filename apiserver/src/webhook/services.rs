//! From a service reference to an address, out of the watch cache: nothing is listed or read from the store.
//!
//! Without `--enable-aggregator-routing` the service's cluster IP is used, with it one of its ready endpoints.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::cache::{Freshness, Object};
use crate::lookup::{items, text};
use crate::registry::storage::Storage;

/// Label with which a slice names its service.
pub const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// A way from service references to addresses.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// `HOST:PORT` for `port` of the service.
    ///
    /// # Errors
    /// Why there is none, in upstream's words.
    async fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String>;
}

/// Resolves by the cluster's services and endpoint slices.
pub struct ServiceResolver {
    services: Arc<Storage>,
    /// Given where endpoints are called instead of cluster IPs.
    slices: Option<Arc<Storage>>,
    /// This server, for the service `default/kubernetes`.
    own: String,
}

impl ServiceResolver {
    /// `own` is where this server listens; `slices` turns on routing to endpoints.
    pub fn new(services: Arc<Storage>, slices: Option<Arc<Storage>>, own: String) -> Self {
        Self { services, slices, own }
    }
}

#[async_trait]
impl Resolve for ServiceResolver {
    async fn resolve(&self, namespace: &str, name: &str, port: u16) -> Result<String, String> {
        if (namespace, name, port) == ("default", "kubernetes", 443) {
            return Ok(self.own.clone());
        }
        let service = get(&self.services, namespace, name)
            .await?
            .ok_or_else(|| format!("service \"{name}\" not found"))?;
        let Some(slices) = &self.slices else { return cluster_address(&service, port) };
        let slices = of_service(slices, namespace, name).await?;
        endpoint_address(&service, port, &slices, |n| rand::random_range(0..n))
    }
}

/// An object as it is in the cache now; a miss is checked against the store's newest.
pub async fn get(storage: &Storage, namespace: &str, name: &str) -> Result<Option<Value>, String> {
    let key = storage.key(namespace, name);
    for freshness in [Freshness::Any, Freshness::Newest] {
        if let Some(o) = storage.cache.get(&key, freshness).await.map_err(|e| e.to_string())? {
            return decode(storage, &o).map(Some);
        }
    }
    Ok(None)
}

/// The slices of a service.
pub async fn of_service(storage: &Storage, namespace: &str, name: &str) -> Result<Vec<Value>, String> {
    let start = storage.range(namespace);
    let end = crate::store::prefix_end(&start);
    let list = storage.cache.list(&start, &end, Freshness::Any).await.map_err(|e| e.to_string())?;
    list.iter().filter(|o| o.labels.get(SERVICE_NAME) == Some(name)).map(|o| decode(storage, o)).collect()
}

fn decode(storage: &Storage, o: &Object) -> Result<Value, String> {
    storage.decode_bytes(&o.key, &o.bytes, o.mod_revision).map_err(|e| e.to_string())
}

fn join(host: &str, port: u64) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

fn service_port(service: &Value, port: u16) -> Result<&Value, String> {
    items(service, "/spec/ports").iter().find(|p| p["port"].as_u64() == Some(u64::from(port))).ok_or_else(
        || format!("no service port {port} found for service \"{}\"", text(service, "/metadata/name")),
    )
}

fn unsupported(service: &Value) -> String {
    format!("unsupported service type \"{}\"", text(service, "/spec/type"))
}

/// The address by cluster IP, or the external name.
pub fn cluster_address(service: &Value, port: u16) -> Result<String, String> {
    let ip = text(service, "/spec/clusterIP");
    match text(service, "/spec/type") {
        "ClusterIP" if ip == "None" => Err("cannot route to service with ClusterIP \"None\"".to_owned()),
        "ClusterIP" | "LoadBalancer" | "NodePort" => {
            service_port(service, port)?;
            Ok(join(ip, u64::from(port)))
        }
        "ExternalName" => Ok(join(text(service, "/spec/externalName"), u64::from(port))),
        _ => Err(unsupported(service)),
    }
}

/// The address of one ready endpoint; those of the service's first IP family come first. `pick` chooses below a number.
pub fn endpoint_address(
    service: &Value,
    port: u16,
    slices: &[Value],
    pick: impl Fn(usize) -> usize,
) -> Result<String, String> {
    if !matches!(text(service, "/spec/type"), "ClusterIP" | "LoadBalancer" | "NodePort") {
        return Err(unsupported(service));
    }
    let port = service_port(service, port)?;
    let name = text(port, "/name");
    let primary = text(service, "/spec/ipFamilies/0");
    let preferred = |s: &&Value| primary.is_empty() || text(s, "/addressType") == primary;
    let (first, later): (Vec<&Value>, Vec<&Value>) = slices.iter().partition(preferred);
    for slices in [first, later] {
        let offset = if slices.is_empty() { 0 } else { pick(slices.len()) };
        for i in 0..slices.len() {
            let slice = slices[(i + offset) % slices.len()];
            if let Some(a) = ready_address(slice, name, &pick) {
                return Ok(a);
            }
        }
    }
    Err(format!("no endpoints available for service \"{}\"", text(service, "/metadata/name")))
}

fn ready_address(slice: &Value, port_name: &str, pick: &impl Fn(usize) -> usize) -> Option<String> {
    let named = |p: &&Value| text(p, "/name") == port_name && p["port"].is_u64();
    let port = items(slice, "/ports").iter().find(named)?["port"].as_u64()?;
    let ready: Vec<&Value> = items(slice, "/endpoints").iter().filter(|e| is_ready(e)).collect();
    if ready.is_empty() {
        return None;
    }
    let address = text(ready[pick(ready.len())], "/addresses/0");
    (!address.is_empty()).then(|| join(address, port))
}

/// Whether an endpoint takes traffic: unknown counts as ready.
pub fn is_ready(endpoint: &Value) -> bool {
    endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false))
}
