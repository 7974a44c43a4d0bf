//! A pod's resolver configuration and host name. Pure.

use k8s_cri::v1::DnsConfig;
use k8s_openapi::api::core::v1::Pod;

use super::spec;

const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;

/// Reads a resolv.conf.
pub fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut config = DnsConfig::default();
    for line in text.lines() {
        let line = line.split(['#', ';']).next().unwrap_or_default();
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                config.searches = words
                    .map(|w| if w == "." { w.to_owned() } else { w.trim_end_matches('.').to_owned() })
                    .collect();
            }
            Some("options") => config.options = words.map(str::to_owned).collect(),
            _ => {}
        }
    }
    config
}

/// The configuration for a pod, and a warning for an event where something could not be honoured.
pub fn pod_dns(
    pod: &Pod,
    host: DnsConfig,
    cluster_dns: &[String],
    cluster_domain: &str,
) -> (DnsConfig, Option<String>) {
    let pod_spec = spec::spec(pod);
    let policy = match pod_spec.dns_policy.as_deref() {
        Some("ClusterFirst") | None if spec::host_network(pod) => "Default",
        Some("ClusterFirstWithHostNet") | None => "ClusterFirst",
        Some(other) => other,
    };
    let mut warning = None;
    let mut config = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" if !cluster_dns.is_empty() => {
            let mut searches = Vec::new();
            if !cluster_domain.is_empty() {
                let ns = spec::namespace(pod);
                searches.push(format!("{ns}.svc.{cluster_domain}"));
                searches.push(format!("svc.{cluster_domain}"));
                searches.push(cluster_domain.to_owned());
            }
            searches.extend(host.searches);
            DnsConfig { servers: cluster_dns.to_vec(), searches, options: vec!["ndots:5".into()] }
        }
        "ClusterFirst" => {
            warning = Some(format!(
                "pod: \"{}\". kubelet does not have ClusterDNS IP configured and cannot create Pod using \"ClusterFirst\" policy. Falling back to \"Default\" policy.",
                spec::full_name(pod)
            ));
            host
        }
        _ => host,
    };
    if let Some(own) = &pod_spec.dns_config {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let Some(name) = &option.name else { continue };
            config.options.retain(|o| o.split(':').next() != Some(name));
            config.options.push(match &option.value {
                Some(v) if !v.is_empty() => format!("{name}:{v}"),
                _ => name.clone(),
            });
        }
    }
    dedup(&mut config.servers);
    dedup(&mut config.searches);
    if limit(&mut config) {
        warning.get_or_insert_with(|| {
            "Search Line limits were exceeded or too many nameservers were given, some have been omitted"
                .into()
        });
    }
    (config, warning)
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|x| seen.insert(x.clone()));
}

fn limit(config: &mut DnsConfig) -> bool {
    let before = (config.servers.len(), config.searches.len());
    config.servers.truncate(MAX_SERVERS);
    config.searches.truncate(MAX_SEARCHES);
    while config.searches.iter().map(|s| s.len() + 1).sum::<usize>() > MAX_SEARCH_CHARS + 1 {
        config.searches.pop();
    }
    before != (config.servers.len(), config.searches.len())
}

/// Host name and domain of a pod; the domain is empty without a subdomain.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<(String, String), String> {
    let pod_spec = spec::spec(pod);
    let own = pod_spec.hostname_override.as_deref().filter(|h| !h.is_empty());
    let host = match (own, pod_spec.hostname.as_deref().filter(|h| !h.is_empty())) {
        (Some(h), _) => h.to_owned(),
        (None, Some(h)) => h.to_owned(),
        (None, None) => {
            let short: String = spec::name(pod).chars().take(63).collect();
            short.trim_end_matches(['-', '.']).to_owned()
        }
    };
    let domain = match pod_spec.subdomain.as_deref().filter(|s| !s.is_empty()) {
        Some(sub) if own.is_none() => format!("{sub}.{}.svc.{cluster_domain}", spec::namespace(pod)),
        _ => String::new(),
    };
    Ok((host, domain))
}

/// The name that the pod's kernel namespace gets.
pub fn node_hostname(pod: &Pod, host: &str, domain: &str) -> Result<String, String> {
    if spec::spec(pod).set_hostname_as_fqdn != Some(true) || domain.is_empty() {
        return Ok(host.to_owned());
    }
    let fqdn = format!("{host}.{domain}");
    if fqdn.len() > 64 {
        return Err(format!(
            "failed to construct FQDN from pod hostname and cluster domain, FQDN {fqdn} is too long (64 characters is the max, {} characters requested)",
            fqdn.len()
        ));
    }
    Ok(fqdn)
}

/// The managed `/etc/hosts` of a pod with its own network.
pub fn hosts_file(pod: &Pod, ips: &[String], host: &str, domain: &str) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n",
    );
    for ip in ips {
        if domain.is_empty() {
            out.push_str(&format!("{ip}\t{host}\n"));
        } else {
            out.push_str(&format!("{ip}\t{host}.{domain}\t{host}\n"));
        }
    }
    out + &host_aliases(pod)
}

/// The managed `/etc/hosts` of a pod in the host's network: the host's, with the pod's aliases.
pub fn host_network_hosts_file(pod: &Pod, host_file: &str) -> String {
    format!("# Kubernetes-managed hosts file (host network).\n{host_file}{}", host_aliases(pod))
}

fn host_aliases(pod: &Pod) -> String {
    let mut aliases = spec::spec(pod).host_aliases.iter().flatten().peekable();
    if aliases.peek().is_none() {
        return String::new();
    }
    let mut out = String::from("\n# Entries added by HostAliases.\n");
    for a in aliases {
        let names = a.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", a.ip));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(serde_json::json!({"metadata": {"name": "p", "namespace": "n"}, "spec": spec}))
            .unwrap()
    }

    #[test]
    fn policies() {
        let host = parse_resolv_conf("# c\nnameserver 9.9.9.9\nsearch corp.example. x\noptions timeout:1\n");
        let dns = ["10.96.0.10".to_owned()];
        let get = |spec| pod_dns(&pod(spec), host.clone(), &dns, "cluster.local");
        let (c, w) = get(
            serde_json::json!({"dnsPolicy": "ClusterFirst", "dnsConfig": {"options": [{"name": "ndots", "value": "2"}]}}),
        );
        assert_eq!(c.servers, ["10.96.0.10"]);
        assert_eq!(
            c.searches,
            ["n.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp.example", "x"]
        );
        assert_eq!(c.options, ["ndots:2"]);
        assert!(w.is_none());
        assert_eq!(get(serde_json::json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true})).0, host);
        assert_eq!(
            get(serde_json::json!({"dnsPolicy": "None", "dnsConfig": {"nameservers": ["1.1.1.1"]}}))
                .0
                .servers,
            ["1.1.1.1"]
        );
        let (c, w) = pod_dns(&pod(serde_json::json!({})), host.clone(), &[], "");
        assert_eq!(c, host);
        assert!(w.is_some());
    }

    #[test]
    fn names_and_hosts() {
        let p = pod(serde_json::json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true,
            "hostAliases": [{"ip": "1.1.1.1", "hostnames": ["a", "b"]}]}));
        let (h, d) = hostname(&p, "cluster.local").unwrap();
        assert_eq!((h.as_str(), d.as_str()), ("h", "s.n.svc.cluster.local"));
        assert_eq!(node_hostname(&p, &h, &d).unwrap(), "h.s.n.svc.cluster.local");
        let file = hosts_file(&p, &["10.0.0.2".into()], &h, &d);
        assert!(file.contains("10.0.0.2\th.s.n.svc.cluster.local\th\n"));
        assert!(file.ends_with("\n# Entries added by HostAliases.\n1.1.1.1\ta\tb\n"));
    }
}
