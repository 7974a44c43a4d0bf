//! The cluster's authorities, one certificate and kubeconfig per component, and the service-account key. What is
//! there already is kept, so that repeating `up` changes no identity.

use std::net::{IpAddr, Ipv4Addr};

use anyhow::Context;
use base64::Engine;
use component_base::pki::{Authority, Pair, Subject};

use super::layout::{self, CLUSTER_DOMAIN, KUBERNETES_SERVICE_IP, Layout};

/// Makes what is missing.
///
/// # Errors
/// A file cannot be read or written, or an authority on disk is damaged.
pub fn ensure(layout: &Layout, nodes: u32) -> anyhow::Result<()> {
    let ca = authority(layout, "ca", "kubernetes")?;
    let front_proxy = authority(layout, "front-proxy-ca", "kubernetes-front-proxy-ca")?;
    certificate(layout, &ca, "apiserver", api_server(layout))?;
    let client = |user: &str, groups: &[&str]| Subject {
        common_name: user.into(),
        organizations: groups.iter().map(|g| (*g).to_owned()).collect(),
        client: true,
        ..Subject::default()
    };
    certificate(
        layout,
        &ca,
        "apiserver-kubelet-client",
        client("kube-apiserver-kubelet-client", &["system:masters"]),
    )?;
    certificate(layout, &front_proxy, "front-proxy-client", client("front-proxy-client", &[]))?;
    if !layout.pki("sa.key").exists() {
        let key = rcgen::KeyPair::generate().context("generating the service-account key")?;
        layout::write(&layout.pki("sa.pub"), &key.public_key_pem(), 0o644)?;
        layout::write(&layout.pki("sa.key"), &key.serialize_pem(), 0o600)?;
    }
    user(layout, &ca, "admin", client("kubernetes-admin", &["system:masters"]))?;
    user(layout, &ca, "kube-controller-manager", client("system:kube-controller-manager", &[]))?;
    user(layout, &ca, "kube-scheduler", client("system:kube-scheduler", &[]))?;
    user(layout, &ca, "kube-proxy", client("system:kube-proxy", &[]))?;
    for n in 1..=nodes {
        let name = layout.node_name(n);
        user(
            layout,
            &ca,
            &format!("kubelet-{name}"),
            client(&format!("system:node:{name}"), &["system:nodes"]),
        )?;
        let serving = Subject {
            common_name: format!("system:node:{name}"),
            organizations: vec!["system:nodes".into()],
            dns_names: vec![name.clone()],
            ips: vec![IpAddr::V4(layout.node_ip(n))],
            server: true,
            ..Subject::default()
        };
        certificate(layout, &ca, &format!("kubelet-{name}-serving"), serving)?;
    }
    Ok(())
}

fn api_server(layout: &Layout) -> Subject {
    let mut dns_names = vec![
        "localhost".to_owned(),
        "kubernetes".into(),
        "kubernetes.default".into(),
        "kubernetes.default.svc".into(),
    ];
    dns_names.push(format!("kubernetes.default.svc.{CLUSTER_DOMAIN}"));
    let ips = [Ipv4Addr::LOCALHOST, layout.host_ip(), KUBERNETES_SERVICE_IP];
    Subject {
        common_name: "kube-apiserver".into(),
        dns_names,
        ips: ips.into_iter().map(IpAddr::V4).collect(),
        server: true,
        ..Subject::default()
    }
}

fn authority(layout: &Layout, file: &str, common_name: &str) -> anyhow::Result<Authority> {
    if let Some(pair) = read(layout, file)? {
        return Authority::load(pair).with_context(|| format!("authority {file}"));
    }
    let ca = Authority::generate(common_name)?;
    store(layout, file, ca.pair())?;
    Ok(ca)
}

fn certificate(layout: &Layout, ca: &Authority, file: &str, subject: Subject) -> anyhow::Result<Pair> {
    if let Some(pair) = read(layout, file)? {
        return Ok(pair);
    }
    let pair = ca.issue(&subject)?;
    store(layout, file, &pair)?;
    Ok(pair)
}

fn user(layout: &Layout, ca: &Authority, name: &str, subject: Subject) -> anyhow::Result<()> {
    let path = layout.kubeconfig(name);
    if path.exists() {
        return Ok(());
    }
    let user = subject.common_name.clone();
    let pair = ca.issue(&subject)?;
    // Nodes find the API server on the bridge; people and the control plane on the host's loopback.
    let in_node = name.starts_with("kubelet-") || name == "kube-proxy";
    let host = if in_node { layout.host_ip() } else { Ipv4Addr::LOCALHOST };
    let b64 = |s: &str| base64::engine::general_purpose::STANDARD.encode(s);
    let text = serde_yaml::to_string(&serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "coxswain",
        "clusters": [{"name": "coxswain", "cluster": {
            "server": format!("https://{host}:{}", layout.port), "certificate-authority-data": b64(&ca.pair().cert)}}],
        "users": [{"name": user, "user": {"client-certificate-data": b64(&pair.cert), "client-key-data": b64(&pair.key)}}],
        "contexts": [{"name": "coxswain", "context": {"cluster": "coxswain", "user": user}}],
    }))?;
    layout::write(&path, &text, 0o600)
}

fn read(layout: &Layout, file: &str) -> anyhow::Result<Option<Pair>> {
    let (cert, key) = (layout.pki(&format!("{file}.crt")), layout.pki(&format!("{file}.key")));
    if !cert.exists() || !key.exists() {
        return Ok(None);
    }
    component_base::serving::tls::read_pair(&cert, &key).map(Some)
}

fn store(layout: &Layout, file: &str, pair: &Pair) -> anyhow::Result<()> {
    layout::write(&layout.pki(&format!("{file}.key")), &pair.key, 0o600)?;
    layout::write(&layout.pki(&format!("{file}.crt")), &pair.cert, 0o644)
}
