//! Carries out one probe or hook action: exec, HTTP, TCP, gRPC.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;

use super::{exec, grpc, http};
use crate::cri::Cri;

/// A container to probe.
pub struct Target<'a> {
    pub cri: &'a Cri,
    pub container_id: &'a str,
    pub container: &'a Container,
    pub pod_ip: &'a str,
}

/// The number of a port given by number or by the container's name for it.
pub fn port(p: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match p {
        IntOrString::Int(n) => *n,
        IntOrString::String(name) => {
            let named = container.ports.iter().flatten().find(|x| x.name.as_ref() == Some(name));
            match named {
                Some(found) => found.container_port,
                None => {
                    name.parse().map_err(|_| format!("couldn't find port: {name:?} in {}", container.name))?
                }
            }
        }
    };
    u16::try_from(number).ok().filter(|n| *n > 0).ok_or_else(|| format!("invalid port number: {number}"))
}

/// Success and output; `Err` where the probe itself could not be made.
pub async fn run(t: &Target<'_>, probe: &Probe) -> Result<(bool, String), String> {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    if let Some(e) = &probe.exec {
        let command = e.command.clone().unwrap_or_default();
        return exec::run(t.cri, t.container_id, &command, timeout).await;
    }
    if let Some(h) = &probe.http_get {
        return http_get(t, h, timeout, "kube-probe/1.36").await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        return tcp_connect(t, tcp, timeout).await;
    }
    if let Some(g) = &probe.grpc {
        let port = u16::try_from(g.port).map_err(|_| format!("invalid port number: {}", g.port))?;
        return Ok(grpc::check(t.pod_ip, port, g.service.as_deref().unwrap_or_default(), timeout).await);
    }
    Err("missing probe handler".into())
}

/// An HTTP GET: 2xx and 3xx are success. Redirects are followed on the same host.
pub async fn http_get(
    t: &Target<'_>,
    h: &HTTPGetAction,
    timeout: Duration,
    user_agent: &str,
) -> Result<(bool, String), String> {
    let headers: Vec<(String, String)> =
        h.http_headers.iter().flatten().map(|x| (x.name.clone(), x.value.clone())).collect();
    let host = h.host.as_deref().filter(|x| !x.is_empty()).unwrap_or(t.pod_ip);
    let port = port(&h.port, t.container)?;
    let mut path = h.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    for _ in 0..10 {
        let request = http::Get {
            tls: h.scheme.as_deref() == Some("HTTPS"),
            host,
            port,
            path: &path,
            headers: &headers,
            user_agent,
        };
        match http::get(&request, timeout).await {
            Err(e) => return Ok((false, e)),
            Ok((status @ 301..=308, body, Some(location))) if status != 304 => {
                if location.starts_with('/') && !location.starts_with("//") {
                    path = location;
                    continue;
                }
                // Another host: what it says about this container cannot be known; upstream counts it as good.
                return Ok((true, body));
            }
            Ok((200..=399, body, _)) => return Ok((true, body)),
            Ok((status, _, _)) => return Ok((false, format!("HTTP probe failed with statuscode: {status}"))),
        }
    }
    Ok((false, "stopped after 10 redirects".into()))
}

async fn tcp_connect(
    t: &Target<'_>,
    tcp: &TCPSocketAction,
    timeout: Duration,
) -> Result<(bool, String), String> {
    let host = tcp.host.as_deref().filter(|x| !x.is_empty()).unwrap_or(t.pod_ip);
    let port = port(&tcp.port, t.container)?;
    let shown = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    Ok(match tokio::time::timeout(timeout, TcpStream::connect(&shown)).await {
        Ok(Ok(_)) => (true, String::new()),
        Ok(Err(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
            (false, format!("dial tcp {shown}: connect: connection refused"))
        }
        Ok(Err(e)) => (false, format!("dial tcp {shown}: {e}")),
        Err(_) => (false, format!("dial tcp {shown}: i/o timeout")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_by_number_and_name() {
        let c: Container = serde_json::from_value(
            serde_json::json!({"name": "c", "ports": [{"name": "web", "containerPort": 80}]}),
        )
        .unwrap();
        assert_eq!(port(&IntOrString::Int(8080), &c), Ok(8080));
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(80));
        assert!(port(&IntOrString::String("nope".into()), &c).is_err());
        assert!(port(&IntOrString::Int(0), &c).is_err());
    }
}
