//! The service `default/kubernetes`, through which pods reach the API servers, and its endpoints: the addresses of all
//! servers that are there by [`MasterLeases`], which every server brings about.

use std::time::Duration;

use component_base::process::Shutdown;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::Settings;
use super::master_leases::MasterLeases;
use crate::lookup::{self, ObjectWriter, Resource};
use crate::status::{ApiError, ApiResult};

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";
/// How often a server says that it is there; upstream's `DefaultEndpointReconcilerInterval`.
const INTERVAL: Duration = Duration::from_secs(10);

/// Creates the service, or corrects it.
///
/// # Errors
/// The store does not answer, or somebody else has the address.
pub async fn reconcile(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<()> {
    if settings.service_ip.is_empty() {
        return Ok(());
    }
    let service = service(settings);
    match writer.get(lookup::SERVICES, NAMESPACE, NAME).await? {
        None => create_or_leave(writer, lookup::SERVICES, service).await,
        Some(old) => {
            let same = |at: &str| old.pointer(at) == service.pointer(at);
            let same_port = same("/spec/ports/0/targetPort") && same("/spec/type");
            let same_node_port = settings.node_port == 0 || same("/spec/ports/0/nodePort");
            if same_port && same_node_port {
                return Ok(());
            }
            let mut new = (*old).clone();
            new["spec"]["type"] = service["spec"]["type"].clone();
            new["spec"]["ports"] = service["spec"]["ports"].clone();
            writer.update(lookup::SERVICES, NAMESPACE, new).await.map(drop)
        }
    }
}

/// The part of a server in the endpoints of the service.
#[derive(Clone)]
pub struct Endpoints {
    leases: MasterLeases,
    settings: Settings,
}

impl Endpoints {
    /// None where this server has nothing to do with them.
    pub fn new(leases: MasterLeases, settings: &Settings) -> Option<Self> {
        let taking_part = !settings.advertise_address.is_empty() && settings.reconcile_endpoints;
        taking_part.then(|| Self { leases, settings: settings.clone() })
    }

    /// Says that this server is there, and writes down who is.
    ///
    /// # Errors
    /// The store does not answer. What was begun is ended by the next call.
    pub async fn announce(&self, writer: &dyn ObjectWriter) -> ApiResult<()> {
        self.leases.renew(&self.settings.advertise_address).await?;
        let all = self.leases.list().await?;
        if all.is_empty() {
            return Err(ApiError::internal(
                "no API server IP addresses were listed in storage, refusing to erase all endpoints for the kubernetes Service",
            ));
        }
        self.write(writer, &all).await
    }

    /// Takes this server out, so that pods stop coming here.
    ///
    /// # Errors
    /// The store does not answer; the other servers do it some seconds later.
    pub async fn withdraw(&self, writer: &dyn ObjectWriter) -> ApiResult<()> {
        self.leases.remove(&self.settings.advertise_address).await?;
        let others = self.leases.list().await?;
        self.write(writer, &others).await
    }

    /// Goes on announcing until `stop`. Only the clock shows that another server is gone.
    pub async fn keep(self, writer: &dyn ObjectWriter, stop: &Shutdown) {
        let mut tick = tokio::time::interval(INTERVAL);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = tick.tick() => {}
            }
            let done = match reconcile(writer, &self.settings).await {
                Ok(()) => self.announce(writer).await,
                failed => failed,
            };
            match done {
                // Another server was faster; the next turn sees what it has made.
                Err(e) if e.reason == "Conflict" => {
                    tracing::debug!(error = %e, "the kubernetes service's endpoints");
                }
                Err(e) => tracing::warn!(error = %e, "the kubernetes service could not be kept in order"),
                Ok(()) => {}
            }
        }
    }

    async fn write(&self, writer: &dyn ObjectWriter, servers: &[String]) -> ApiResult<()> {
        let port = self.settings.secure_port;
        // Servers on different ports would never agree: the first one's holds until another is alone.
        let alone = servers == [self.settings.advertise_address.clone()];
        let mut wanted = endpoints(servers, port);
        if let Some(old) = writer.get(lookup::ENDPOINTS, NAMESPACE, NAME).await?
            && let (false, Some(ports)) = (alone, old.pointer("/subsets/0/ports"))
            && let Some(subset) = wanted.pointer_mut("/subsets/0")
        {
            subset["ports"] = ports.clone();
        }
        ensure(writer, lookup::ENDPOINTS, wanted, &["subsets"]).await?;
        let family = ipv6(&self.settings.advertise_address);
        let servers: Vec<&String> = servers.iter().filter(|a| ipv6(a) == family).collect();
        let fields: &[&str] = if alone { &["endpoints", "ports"] } else { &["endpoints"] };
        ensure(writer, lookup::ENDPOINT_SLICES, slice(&servers, family, port), fields).await
    }
}

async fn create_or_leave(writer: &dyn ObjectWriter, resource: Resource, object: Value) -> ApiResult<()> {
    match writer.create(resource, NAMESPACE, object).await {
        Err(e) if e.reason != "AlreadyExists" => Err(e),
        _ => Ok(()),
    }
}

async fn ensure(
    writer: &dyn ObjectWriter,
    resource: Resource,
    wanted: Value,
    fields: &[&str],
) -> ApiResult<()> {
    let Some(old) = writer.get(resource, NAMESPACE, NAME).await? else {
        return create_or_leave(writer, resource, wanted).await;
    };
    if fields.iter().all(|f| old.get(*f) == wanted.get(*f)) {
        return Ok(());
    }
    let mut new = (*old).clone();
    for f in fields {
        new[*f] = wanted[*f].clone();
    }
    writer.update(resource, NAMESPACE, new).await.map(drop)
}

fn ipv6(address: &str) -> bool {
    address.contains(':')
}

fn service(settings: &Settings) -> Value {
    let family = if ipv6(&settings.service_ip) { "IPv6" } else { "IPv4" };
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        },
        "spec": {
            "clusterIP": settings.service_ip, "clusterIPs": [settings.service_ip],
            "internalTrafficPolicy": "Cluster", "ipFamilies": [family], "ipFamilyPolicy": "SingleStack",
            "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": settings.secure_port}],
            "sessionAffinity": "None", "type": "ClusterIP",
        },
    });
    if settings.node_port != 0 {
        service["spec"]["type"] = "NodePort".into();
        service["spec"]["ports"][0]["nodePort"] = settings.node_port.into();
    }
    service
}

fn endpoints(servers: &[String], port: u16) -> Value {
    let addresses: Vec<Value> = servers.iter().map(|ip| json!({"ip": ip})).collect();
    let ports = json!([{"name": "https", "port": port, "protocol": "TCP"}]);
    let subsets =
        if addresses.is_empty() { json!([]) } else { json!([{"addresses": addresses, "ports": ports}]) };
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": subsets,
    })
}

fn slice(servers: &[&String], ipv6: bool, port: u16) -> Value {
    let endpoints: Vec<Value> =
        servers.iter().map(|ip| json!({"addresses": [ip], "conditions": {"ready": true}})).collect();
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if ipv6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ObjectLookup as _;
    use crate::lookup::testing::Objects;
    use crate::store::testing::MemoryStore;

    fn settings(address: &str, port: u16) -> Settings {
        Settings {
            service_ip: "10.96.0.1".into(),
            advertise_address: address.into(),
            secure_port: port,
            reconcile_endpoints: true,
            ..Settings::default()
        }
    }

    async fn listed(objects: &Objects) -> Vec<String> {
        let e = objects.get(lookup::ENDPOINTS, NAMESPACE, NAME).await.unwrap().unwrap();
        let s = objects.get(lookup::ENDPOINT_SLICES, NAMESPACE, NAME).await.unwrap().unwrap();
        let ips = |list: &[Value], at: &str| list.iter().map(|a| lookup::text(a, at).to_owned()).collect();
        let a: Vec<String> = ips(lookup::items(&e, "/subsets/0/addresses"), "/ip");
        let b: Vec<String> = ips(lookup::items(&s, "/endpoints"), "/addresses/0");
        assert_eq!(a, b);
        a
    }

    #[tokio::test]
    async fn follows_a_changed_port() {
        let objects = Objects::default();
        reconcile(&objects, &settings("192.0.2.1", 6443)).await.unwrap();
        reconcile(&objects, &settings("192.0.2.2", 7443)).await.unwrap();
        let svc = objects.get(lookup::SERVICES, NAMESPACE, NAME).await.unwrap().unwrap();
        assert_eq!(svc.pointer("/spec/ports/0/targetPort").unwrap(), 7443);
    }

    #[tokio::test]
    async fn all_servers_are_endpoints_until_they_end() {
        let (objects, store) = (Objects::default(), MemoryStore::new());
        let leases = MasterLeases::new(store);
        let server =
            |n: u8| Endpoints::new(leases.clone(), &settings(&format!("192.0.2.{n}"), 6443)).unwrap();
        for n in [2, 1, 3] {
            server(n).announce(&objects).await.unwrap();
        }
        assert_eq!(listed(&objects).await, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
        // Another port is no reason to write.
        let before = objects.get(lookup::ENDPOINTS, NAMESPACE, NAME).await.unwrap();
        Endpoints::new(leases.clone(), &settings("192.0.2.3", 7443))
            .unwrap()
            .announce(&objects)
            .await
            .unwrap();
        assert_eq!(objects.get(lookup::ENDPOINTS, NAMESPACE, NAME).await.unwrap(), before);
        // One ends, one is killed and its key expires: another writes that down.
        server(1).withdraw(&objects).await.unwrap();
        assert_eq!(listed(&objects).await, ["192.0.2.2", "192.0.2.3"]);
        leases.remove("192.0.2.3").await.unwrap();
        server(2).announce(&objects).await.unwrap();
        assert_eq!(listed(&objects).await, ["192.0.2.2"]);
        server(2).withdraw(&objects).await.unwrap();
        assert!(listed(&objects).await.is_empty());
        let none = Settings { reconcile_endpoints: false, ..settings("192.0.2.9", 6443) };
        assert!(Endpoints::new(leases, &none).is_none());
    }
}
