//! The service `default/kubernetes`, through which pods reach this server, and its endpoints.

use serde_json::{Value, json};

use super::Settings;
use crate::lookup::{self, ObjectWriter, Resource};
use crate::status::ApiResult;

const NAMESPACE: &str = "default";
const NAME: &str = "kubernetes";

/// Creates the service and, where this server's address is known, its endpoints; corrects both.
pub async fn reconcile(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<()> {
    if settings.service_ip.is_empty() {
        return Ok(());
    }
    let service = service(settings);
    match writer.get(lookup::SERVICES, NAMESPACE, NAME).await? {
        None => {
            create_or_leave(writer, lookup::SERVICES, service).await?;
        }
        Some(old) => {
            let same = |at: &str| old.pointer(at) == service.pointer(at);
            let same_port = same("/spec/ports/0/targetPort") && same("/spec/type");
            let same_node_port = settings.node_port == 0 || same("/spec/ports/0/nodePort");
            if !same_port || !same_node_port {
                let mut new = (*old).clone();
                new["spec"]["type"] = service["spec"]["type"].clone();
                new["spec"]["ports"] = service["spec"]["ports"].clone();
                writer.update(lookup::SERVICES, NAMESPACE, new).await?;
            }
        }
    }
    if settings.advertise_address.is_empty() || !settings.reconcile_endpoints {
        return Ok(());
    }
    ensure(writer, lookup::ENDPOINTS, endpoints(settings), &["subsets"]).await?;
    ensure(writer, lookup::ENDPOINT_SLICES, slice(settings), &["endpoints", "ports"]).await
}

/// Takes this server out of the endpoints: called on a clean shutdown, so that pods stop coming here.
pub async fn withdraw(writer: &dyn ObjectWriter, settings: &Settings) -> ApiResult<()> {
    if settings.advertise_address.is_empty() || !settings.reconcile_endpoints {
        return Ok(());
    }
    for (resource, field) in [(lookup::ENDPOINTS, "subsets"), (lookup::ENDPOINT_SLICES, "endpoints")] {
        if let Some(old) = writer.get(resource, NAMESPACE, NAME).await? {
            let mut new = (*old).clone();
            new[field] = json!([]);
            writer.update(resource, NAMESPACE, new).await?;
        }
    }
    Ok(())
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

fn endpoints(settings: &Settings) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Endpoints",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE,
            "labels": {"endpointslice.kubernetes.io/skip-mirror": "true"},
        },
        "subsets": [{
            "addresses": [{"ip": settings.advertise_address}],
            "ports": [{"name": "https", "port": settings.secure_port, "protocol": "TCP"}],
        }],
    })
}

fn slice(settings: &Settings) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "name": NAME, "namespace": NAMESPACE, "labels": {"kubernetes.io/service-name": NAME},
        },
        "addressType": if ipv6(&settings.advertise_address) { "IPv6" } else { "IPv4" },
        "endpoints": [{"addresses": [settings.advertise_address], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": settings.secure_port, "protocol": "TCP"}],
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lookup::ObjectLookup as _;
    use crate::lookup::testing::Objects;

    #[tokio::test]
    async fn follows_a_changed_address() {
        let store = Objects::default();
        let mut s = Settings {
            service_ip: "10.96.0.1".into(),
            advertise_address: "192.0.2.1".into(),
            secure_port: 6443,
            reconcile_endpoints: true,
            ..Settings::default()
        };
        reconcile(&store, &s).await.unwrap();
        s.advertise_address = "192.0.2.2".into();
        s.secure_port = 7443;
        reconcile(&store, &s).await.unwrap();
        let e = store.get(lookup::ENDPOINTS, "default", "kubernetes").await.unwrap().unwrap();
        assert_eq!(e.pointer("/subsets/0/addresses/0/ip").unwrap(), "192.0.2.2");
        let svc = store.get(lookup::SERVICES, "default", "kubernetes").await.unwrap().unwrap();
        assert_eq!(svc.pointer("/spec/ports/0/targetPort").unwrap(), 7443);
        withdraw(&store, &s).await.unwrap();
        let e = store.get(lookup::ENDPOINT_SLICES, "default", "kubernetes").await.unwrap().unwrap();
        assert_eq!(e["endpoints"], json!([]));
    }
}
