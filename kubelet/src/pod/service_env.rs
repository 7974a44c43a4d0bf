//! The variables that tell a container where services are (`NAME_SERVICE_HOST`, Docker's link variables).

use std::collections::BTreeMap;

/// The part of a service that shows in the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceFacts {
    pub namespace: String,
    pub name: String,
    pub cluster_ip: String,
    pub ports: Vec<ServicePort>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    pub name: String,
    pub port: i32,
    pub protocol: String,
}

const MASTER_NAMESPACE: &str = "default";
const MASTER_SERVICE: &str = "kubernetes";

fn variable(name: &str) -> String {
    name.replace('-', "_").to_uppercase()
}

/// Variables for a pod of `namespace`: its own namespace's services if `links`, and always the API server's.
pub fn variables<'a>(
    services: impl Iterator<Item = &'a ServiceFacts>,
    namespace: &str,
    links: bool,
) -> BTreeMap<String, String> {
    let mut chosen: BTreeMap<&str, &ServiceFacts> = BTreeMap::new();
    for s in services {
        if s.cluster_ip.is_empty() || s.cluster_ip == "None" || s.ports.is_empty() {
            continue;
        }
        let master = s.namespace == MASTER_NAMESPACE && s.name == MASTER_SERVICE;
        if s.namespace == namespace && (links || master) {
            chosen.insert(&s.name, s);
        } else if master {
            chosen.entry(&s.name).or_insert(s);
        }
    }
    let mut out = BTreeMap::new();
    for s in chosen.values() {
        let prefix = variable(&s.name);
        out.insert(format!("{prefix}_SERVICE_HOST"), s.cluster_ip.clone());
        out.insert(format!("{prefix}_SERVICE_PORT"), s.ports[0].port.to_string());
        let host =
            if s.cluster_ip.contains(':') { format!("[{}]", s.cluster_ip) } else { s.cluster_ip.clone() };
        for (i, p) in s.ports.iter().enumerate() {
            if !p.name.is_empty() {
                out.insert(format!("{prefix}_SERVICE_PORT_{}", variable(&p.name)), p.port.to_string());
            }
            let protocol = if p.protocol.is_empty() { "TCP" } else { &p.protocol };
            let lower = protocol.to_lowercase();
            let url = format!("{lower}://{host}:{}", p.port);
            if i == 0 {
                out.insert(format!("{prefix}_PORT"), url.clone());
            }
            let port = format!("{prefix}_PORT_{}_{}", p.port, protocol.to_uppercase());
            out.insert(format!("{port}_PROTO"), lower);
            out.insert(format!("{port}_PORT"), p.port.to_string());
            out.insert(format!("{port}_ADDR"), s.cluster_ip.clone());
            out.insert(port, url);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(ns: &str, name: &str, ip: &str) -> ServiceFacts {
        let port = ServicePort { name: "http-alt".into(), port: 80, protocol: "TCP".into() };
        ServiceFacts { namespace: ns.into(), name: name.into(), cluster_ip: ip.into(), ports: vec![port] }
    }

    #[test]
    fn own_namespace_and_the_api_server() {
        let all = [
            service("default", "kubernetes", "10.0.0.1"),
            service("a", "my-svc", "10.0.0.2"),
            service("a", "headless", "None"),
            service("b", "other", "10.0.0.3"),
        ];
        let env = variables(all.iter(), "a", true);
        assert_eq!(env["MY_SVC_SERVICE_HOST"], "10.0.0.2");
        assert_eq!(env["MY_SVC_SERVICE_PORT_HTTP_ALT"], "80");
        assert_eq!(env["MY_SVC_PORT_80_TCP"], "tcp://10.0.0.2:80");
        assert_eq!(env["KUBERNETES_SERVICE_HOST"], "10.0.0.1");
        assert!(!env.keys().any(|k| k.starts_with("OTHER") || k.starts_with("HEADLESS")));
        let env = variables(all.iter(), "a", false);
        assert!(!env.contains_key("MY_SVC_SERVICE_HOST"));
        assert!(env.contains_key("KUBERNETES_SERVICE_PORT"));
    }
}
