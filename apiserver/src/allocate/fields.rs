//! The fields of a service that allocation reads and fills, and how an update that leaves them out keeps them.

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::lookup::{items, text};

/// `spec.type`; absent means `ClusterIP`.
pub fn kind(service: &Value) -> &str {
    match text(service, "/spec/type") {
        "" => "ClusterIP",
        t => t,
    }
}

pub fn is_external_name(service: &Value) -> bool {
    kind(service) == "ExternalName"
}

pub fn cluster_ip(service: &Value) -> &str {
    text(service, "/spec/clusterIP")
}

pub fn strings(service: &Value, field: &str) -> Vec<String> {
    service["spec"][field]
        .as_array()
        .map(|a| a.iter().filter_map(|v| v.as_str().map(str::to_owned)).collect())
        .unwrap_or_default()
}

pub fn cluster_ips(service: &Value) -> Vec<String> {
    strings(service, "clusterIPs")
}

pub fn families(service: &Value) -> Vec<String> {
    strings(service, "ipFamilies")
}

pub fn policy(service: &Value) -> &str {
    text(service, "/spec/ipFamilyPolicy")
}

pub fn has_selector(service: &Value) -> bool {
    service.pointer("/spec/selector").and_then(Value::as_object).is_some_and(|m| !m.is_empty())
}

pub fn is_headless(service: &Value) -> bool {
    cluster_ips(service).first().is_some_and(|ip| ip == "None") || cluster_ip(service) == "None"
}

/// Sets a list field, or removes it where it is empty.
pub fn set_strings(service: &mut Value, field: &str, values: &[String]) {
    if values.is_empty() {
        remove(service, field);
    } else {
        service["spec"][field] = json!(values);
    }
}

pub fn remove(service: &mut Value, field: &str) {
    if let Some(spec) = service.get_mut("spec").and_then(Value::as_object_mut) {
        spec.remove(field);
    }
}

pub fn family_of(ip: &str) -> &'static str {
    match ip.parse() {
        Ok(IpAddr::V4(_)) => "IPv4",
        Ok(IpAddr::V6(_)) => "IPv6",
        Err(_) => "unknown",
    }
}

pub fn port(value: &Value, field: &str) -> u16 {
    value.get(field).and_then(Value::as_u64).and_then(|p| u16::try_from(p).ok()).unwrap_or(0)
}

/// The service's node ports, without that of the health check.
pub fn node_ports(service: &Value) -> Vec<u16> {
    items(service, "/spec/ports").iter().map(|p| port(p, "nodePort")).filter(|p| *p != 0).collect()
}

pub fn health_check_port(service: &Value) -> u16 {
    port(&service["spec"], "healthCheckNodePort")
}

pub fn has_node_ports(service: &Value) -> bool {
    matches!(kind(service), "NodePort" | "LoadBalancer")
}

/// Whether ports that name no node port get one.
pub fn wants_node_ports(service: &Value) -> bool {
    match kind(service) {
        "NodePort" => true,
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"].as_bool().unwrap_or(true),
        _ => false,
    }
}

pub fn needs_health_check(service: &Value) -> bool {
    kind(service) == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Brings `clusterIP` and `clusterIPs` of a new or changed service in line, where the client set only one.
pub fn normalize_cluster_ips(service: &mut Value, old: Option<&Value>) {
    let ip = cluster_ip(service).to_owned();
    let Some(old) = old else {
        if !ip.is_empty() && cluster_ips(service).is_empty() {
            set_strings(service, "clusterIPs", &[ip]);
        }
        return;
    };
    let old_ips = cluster_ips(old);
    let old_ip = cluster_ip(old);
    if !old_ips.is_empty() && cluster_ips(service).is_empty() && old_ip == ip {
        set_strings(service, "clusterIPs", &old_ips);
    }
    if old_ip != ip && old_ips == cluster_ips(service) {
        if ip.is_empty() {
            remove(service, "clusterIPs");
        } else {
            set_strings(service, "clusterIPs", &[ip]);
        }
    }
}

/// Keeps what was allocated where the client left it out, so that the same manifest can be sent again.
pub fn keep_allocated(service: &mut Value, old: &Value) {
    if !is_external_name(old) && !is_external_name(service) {
        if cluster_ip(service).is_empty() && !cluster_ip(old).is_empty() {
            service["spec"]["clusterIP"] = cluster_ip(old).into();
        }
        if cluster_ips(service).is_empty() {
            set_strings(service, "clusterIPs", &cluster_ips(old));
        }
    }
    if wants_node_ports(old) && wants_node_ports(service) {
        let new_ports = node_ports(service);
        let both: Vec<u16> = node_ports(old).into_iter().filter(|p| new_ports.contains(p)).collect();
        let by_name: Vec<(String, u16)> = items(old, "/spec/ports")
            .iter()
            .map(|p| (text(p, "/name").to_owned(), port(p, "nodePort")))
            .collect();
        if let Some(ports) = service["spec"].get_mut("ports").and_then(Value::as_array_mut) {
            for p in ports {
                let name = text(p, "/name");
                let known = by_name.iter().rev().find(|(n, _)| n == name).map_or(0, |(_, p)| *p);
                if port(p, "nodePort") == 0 && known != 0 && !both.contains(&known) {
                    p["nodePort"] = known.into();
                }
            }
        }
    }
    if needs_health_check(old) && needs_health_check(service) && health_check_port(service) == 0 {
        let kept = health_check_port(old);
        if kept != 0 {
            service["spec"]["healthCheckNodePort"] = kept.into();
        }
    }
}

/// Removes what the new type has no use for, where the client just left it standing.
pub fn drop_unused(service: &mut Value, old: &Value) {
    if !is_external_name(old) && is_external_name(service) {
        if cluster_ip(old) == cluster_ip(service) && cluster_ips(old) == cluster_ips(service) {
            remove(service, "clusterIP");
            remove(service, "clusterIPs");
        }
        for field in ["ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if old["spec"].get(field) == service["spec"].get(field) {
                remove(service, field);
            }
        }
    }
    if has_node_ports(old) && !has_node_ports(service) {
        let before = node_ports(old);
        if node_ports(service).iter().all(|p| before.contains(p))
            && let Some(ports) = service["spec"].get_mut("ports").and_then(Value::as_array_mut)
        {
            for p in ports.iter_mut().filter_map(Value::as_object_mut) {
                p.remove("nodePort");
            }
        }
    }
    if needs_health_check(old)
        && !needs_health_check(service)
        && health_check_port(old) == health_check_port(service)
    {
        remove(service, "healthCheckNodePort");
    }
    let same = |field: &str, service: &Value| old["spec"].get(field) == service["spec"].get(field);
    if kind(old) == "LoadBalancer" && kind(service) != "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if same(field, service) {
                remove(service, field);
            }
        }
        service["status"]["loadBalancer"] = json!({});
    }
    let external = |s: &Value| {
        has_node_ports(s) || (kind(s) == "ClusterIP" && !items(s, "/spec/externalIPs").is_empty())
    };
    if external(old) && !external(service) && same("externalTrafficPolicy", service) {
        remove(service, "externalTrafficPolicy");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn svc(spec: Value) -> Value {
        json!({"metadata":{"name":"s","namespace":"ns"},"spec":spec})
    }

    #[test]
    fn resending_a_manifest_keeps_what_was_allocated() {
        let old = svc(json!({"type":"NodePort","clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"],
            "ports":[{"name":"a","port":80,"nodePort":30001},{"name":"b","port":81,"nodePort":30002}]}));
        let mut new = svc(json!({"type":"NodePort","ports":[{"name":"b","port":81},{"name":"c","port":82}]}));
        keep_allocated(&mut new, &old);
        normalize_cluster_ips(&mut new, Some(&old));
        assert_eq!(cluster_ips(&new), ["10.0.0.9"]);
        assert_eq!(new["spec"]["ports"][0]["nodePort"], 30002);
        assert!(new["spec"]["ports"][1].get("nodePort").is_none());
    }

    #[test]
    fn a_type_change_sheds_fields() {
        let old = svc(json!({"type":"NodePort","clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"],
            "ipFamilies":["IPv4"],"ipFamilyPolicy":"SingleStack","externalTrafficPolicy":"Cluster",
            "ports":[{"port":80,"nodePort":30001}]}));
        let mut new = old.clone();
        new["spec"]["type"] = "ClusterIP".into();
        drop_unused(&mut new, &old);
        assert!(node_ports(&new).is_empty());
        assert_eq!(cluster_ip(&new), "10.0.0.9");
        assert!(new["spec"].get("externalTrafficPolicy").is_none());
        let mut new = old.clone();
        new["spec"]["type"] = "ExternalName".into();
        drop_unused(&mut new, &old);
        for f in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
            assert!(new["spec"].get(f).is_none(), "{f}");
        }
    }

    #[test]
    fn the_singular_field_leads() {
        let mut s = svc(json!({"clusterIP":"None"}));
        normalize_cluster_ips(&mut s, None);
        assert_eq!(cluster_ips(&s), ["None"]);
        let old = svc(json!({"clusterIP":"10.0.0.9","clusterIPs":["10.0.0.9"]}));
        let mut s = old.clone();
        s["spec"]["clusterIP"] = "10.0.0.8".into();
        normalize_cluster_ips(&mut s, Some(&old));
        assert_eq!(cluster_ips(&s), ["10.0.0.8"]);
    }
}
