//! Rows of services, endpoints and the networking kinds.

use serde_json::{Value, json};

use super::cells::{Row, joined, labels, list, or, selector_or_none, text};
use super::core::is_marked;

/// At most three, then how many more.
const SHOWN: usize = 3;

fn with_more(all: &[String], empty: &str) -> String {
    if all.is_empty() {
        return empty.to_owned();
    }
    if all.len() > SHOWN {
        return format!("{} + {} more...", all[..SHOWN].join(","), all.len() - SHOWN);
    }
    all.join(",")
}

/// Addresses that a load balancer gave, sorted.
fn balancer(status: &Value) -> String {
    let mut all: Vec<&str> = list(&status["ingress"])
        .iter()
        .map(|i| or(text(i, "ip"), text(i, "hostname")))
        .filter(|s| !s.is_empty())
        .collect();
    all.sort_unstable();
    all.dedup();
    all.join(",")
}

fn external_ip(row: &Row<'_>) -> String {
    let given = joined(row.at("/spec/externalIPs"), ",");
    match row.text("/spec/type") {
        "ClusterIP" | "NodePort" => or(&given, "<none>").to_owned(),
        "LoadBalancer" => {
            let lb = balancer(row.at("/status/loadBalancer"));
            match (lb.is_empty(), given.is_empty()) {
                (true, true) => "<pending>".to_owned(),
                (false, false) => format!("{lb},{given}"),
                _ => format!("{lb}{given}"),
            }
        }
        "ExternalName" => row.text("/spec/externalName").to_owned(),
        _ => "<unknown>".to_owned(),
    }
}

pub fn service(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row
        .list("/spec/ports")
        .iter()
        .map(|p| {
            let (port, protocol) = (p["port"].as_i64().unwrap_or(0), text(p, "protocol"));
            match p["nodePort"].as_i64().unwrap_or(0) {
                0 => format!("{port}/{protocol}"),
                node => format!("{port}:{node}/{protocol}"),
            }
        })
        .collect();
    let ip = row.list("/spec/clusterIPs").first().and_then(Value::as_str).unwrap_or("<none>");
    vec![
        row.name(),
        json!(row.text("/spec/type")),
        json!(ip),
        json!(external_ip(row)),
        json!(or(&ports.join(","), "<none>")),
        row.age(),
        json!(labels(row.at("/spec/selector"))),
    ]
}

fn host_port(ip: &str, port: i64) -> String {
    if ip.contains(':') { format!("[{ip}]:{port}") } else { format!("{ip}:{port}") }
}

pub fn endpoints(row: &Row<'_>) -> Vec<Value> {
    let mut all = Vec::new();
    for subset in row.list("/subsets") {
        let ports = list(&subset["ports"]);
        let ips = || list(&subset["addresses"]).iter().map(|a| text(a, "ip"));
        if ports.is_empty() {
            all.extend(ips().map(str::to_owned));
        }
        for p in ports {
            all.extend(ips().map(|ip| host_port(ip, p["port"].as_i64().unwrap_or(0))));
        }
    }
    let empty = if row.list("/subsets").is_empty() { "<none>" } else { "" };
    vec![row.name(), json!(with_more(&all, empty)), row.age()]
}

pub fn endpoint_slice(row: &Row<'_>) -> Vec<Value> {
    let ports: Vec<String> = row
        .list("/ports")
        .iter()
        .map(|p| match p["port"].as_i64() {
            Some(n) => n.to_string(),
            None => p["name"].as_str().unwrap_or("*").to_owned(),
        })
        .collect();
    let addresses: Vec<String> = row
        .list("/endpoints")
        .iter()
        .flat_map(|e| list(&e["addresses"]))
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    vec![
        row.name(),
        json!(row.text("/addressType")),
        json!(with_more(&ports, "<unset>")),
        json!(with_more(&addresses, "<unset>")),
        row.age(),
    ]
}

fn hosts(rules: &[Value]) -> String {
    let mut shown: Vec<&str> = Vec::new();
    let mut more = false;
    for rule in rules {
        more |= shown.len() == SHOWN;
        let host = text(rule, "host");
        if !more && !host.is_empty() {
            shown.push(host);
        }
    }
    match (shown.is_empty(), more) {
        (true, _) => "*".to_owned(),
        (false, true) => format!("{} + {} more...", shown.join(","), rules.len() - SHOWN),
        (false, false) => shown.join(","),
    }
}

pub fn ingress(row: &Row<'_>) -> Vec<Value> {
    let class = row.at("/spec/ingressClassName").as_str().unwrap_or("<none>");
    let ports = if row.list("/spec/tls").is_empty() { "80" } else { "80, 443" };
    vec![
        row.name(),
        json!(class),
        json!(hosts(row.list("/spec/rules"))),
        json!(balancer(row.at("/status/loadBalancer"))),
        json!(ports),
        row.age(),
    ]
}

pub fn ingress_class(row: &Row<'_>) -> Vec<Value> {
    let mut name = row.text("/metadata/name").to_owned();
    if is_marked(row, &["ingressclass.kubernetes.io/is-default-class"]) {
        name.push_str(" (default)");
    }
    let p = row.at("/spec/parameters");
    let parameters = if p.is_object() {
        let dot = if p["apiGroup"].is_string() { "." } else { "" };
        format!("{}{dot}{}/{}", text(p, "kind"), text(p, "apiGroup"), text(p, "name"))
    } else {
        "<none>".to_owned()
    };
    vec![json!(name), json!(row.text("/spec/controller")), json!(parameters), row.age()]
}

pub fn network_policy(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(selector_or_none(row.at("/spec/podSelector"))), row.age()]
}

pub fn ip_address(row: &Row<'_>) -> Vec<Value> {
    let p = row.at("/spec/parentRef");
    let parent = if p.is_object() {
        let dot = if text(p, "group").is_empty() { "" } else { "." };
        let mut s = format!("{}{dot}{}", text(p, "resource"), text(p, "group")).to_lowercase();
        for part in [text(p, "namespace"), text(p, "name")].into_iter().filter(|x| !x.is_empty()) {
            s.push('/');
            s.push_str(part);
        }
        s
    } else {
        "<none>".to_owned()
    };
    vec![row.name(), json!(parent)]
}

pub fn service_cidr(row: &Row<'_>) -> Vec<Value> {
    vec![row.name(), json!(joined(row.at("/spec/cidrs"), ",")), row.age()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(object: &Value) -> Row<'_> {
        Row { object, now: jiff::Timestamp::UNIX_EPOCH }
    }

    #[test]
    fn service_ports_and_addresses() {
        let s = json!({"metadata": {"name": "s"}, "spec": {"type": "LoadBalancer", "clusterIPs": ["10.0.0.1"],
            "externalIPs": ["9.9.9.9"], "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"},
            {"port": 53, "protocol": "UDP"}]}, "status": {"loadBalancer": {"ingress": [{"ip": "1.1.1.1"}]}}});
        let c = service(&row(&s));
        assert_eq!(c[3], "1.1.1.1,9.9.9.9");
        assert_eq!(c[4], "80:30080/TCP,53/UDP");
        assert_eq!(c[6], "<none>");
    }

    #[test]
    fn endpoints_beyond_three_are_counted() {
        let e = json!({"metadata": {"name": "e"}, "subsets": [{"addresses": [{"ip": "1.1.1.1"}, {"ip": "::2"}],
            "ports": [{"port": 1}, {"port": 2}]}]});
        assert_eq!(endpoints(&row(&e))[1], "1.1.1.1:1,[::2]:1,1.1.1.1:2 + 1 more...");
    }
}
