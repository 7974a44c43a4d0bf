//! Carries out one probe or hook action: exec, HTTP, TCP, gRPC.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, Probe, TCPSocketAction},
    apimachinery::pkg::util::intstr::IntOrString,
};
use tokio::net::TcpStream;
use url::Url;

use super::{exec, grpc, http};
use crate::cri::Cri;

/// So many requests are sent after each other where one is redirected.
const REDIRECTS: usize = 10;

/// What an action found, with its output.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    Good(String),
    /// Counts as good, and is told of.
    Doubtful(String),
    Bad(String),
}

impl From<(bool, String)> for Found {
    fn from((good, output): (bool, String)) -> Self {
        if good { Self::Good(output) } else { Self::Bad(output) }
    }
}

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

/// Carries out the probe; `Err` where it could not be made.
pub async fn run(t: &Target<'_>, probe: &Probe) -> Result<Found, String> {
    let timeout = Duration::from_secs(probe.timeout_seconds.unwrap_or(1).max(1) as u64);
    if let Some(e) = &probe.exec {
        let command = e.command.clone().unwrap_or_default();
        return exec::run(t.cri, t.container_id, &command, timeout).await.map(Found::from);
    }
    if let Some(h) = &probe.http_get {
        return http_get(t, h, timeout, "kube-probe/1.36").await;
    }
    if let Some(tcp) = &probe.tcp_socket {
        return tcp_connect(t, tcp, timeout).await.map(Found::from);
    }
    if let Some(g) = &probe.grpc {
        let port = u16::try_from(g.port).map_err(|_| format!("invalid port number: {}", g.port))?;
        let service = g.service.as_deref().unwrap_or_default();
        return Ok(grpc::check(t.pod_ip, port, service, timeout).await.into());
    }
    Err("missing probe handler".into())
}

/// An HTTP GET: 2xx is good. Redirects are followed on the same host; what another host says tells nothing about this
/// container, so that a redirect there is doubtful, as is every other 3xx.
pub async fn http_get(
    t: &Target<'_>,
    h: &HTTPGetAction,
    timeout: Duration,
    user_agent: &str,
) -> Result<Found, String> {
    let headers: Vec<(String, String)> =
        h.http_headers.iter().flatten().map(|x| (x.name.clone(), x.value.clone())).collect();
    let host = h.host.as_deref().filter(|x| !x.is_empty()).unwrap_or(t.pod_ip);
    let mut path = h.path.clone().filter(|p| !p.is_empty()).unwrap_or_else(|| "/".into());
    if !path.starts_with('/') {
        path.insert(0, '/');
    }
    let tls = h.scheme.as_deref() == Some("HTTPS");
    let mut place = Place { tls, host: host.to_owned(), port: port(&h.port, t.container)?, path };
    let deadline = Instant::now() + timeout;
    for _ in 0..REDIRECTS {
        let Place { tls, ref host, port, ref path } = place;
        let request = http::Get { tls, host, port, path, headers: &headers, user_agent };
        let left = deadline.saturating_duration_since(Instant::now());
        let (status, body, location) = match http::get(&request, left).await {
            Err(e) => return Ok(Found::Bad(e)),
            Ok(answer) => answer,
        };
        match (status, location) {
            (200..=299, _) => return Ok(Found::Good(body)),
            (301 | 302 | 303 | 307 | 308, Some(location)) => match place.redirected(&location) {
                Ok(Some(next)) => place = next,
                Ok(None) => return Ok(redirect_ends(&body)),
                Err(e) => return Ok(Found::Bad(e)),
            },
            (300..=399, _) => return Ok(redirect_ends(&body)),
            _ => return Ok(Found::Bad(format!("HTTP probe failed with statuscode: {status}"))),
        }
    }
    let url = http::url(place.tls, &place.host, place.port, &place.path);
    Ok(Found::Bad(format!("Get {url:?}: stopped after {REDIRECTS} redirects")))
}

fn redirect_ends(body: &str) -> Found {
    Found::Doubtful(format!("Probe terminated redirects, Response body: {body}"))
}

/// Where a request goes.
#[derive(Debug, PartialEq, Eq)]
struct Place {
    tls: bool,
    host: String,
    port: u16,
    path: String,
}

impl Place {
    /// Where a `Location` sends to; none if that is another host.
    fn redirected(&self, location: &str) -> Result<Option<Self>, String> {
        let wrong = |e: &dyn std::fmt::Display| format!("failed to parse Location header {location:?}: {e}");
        let here =
            Url::parse(&http::url(self.tls, &self.host, self.port, &self.path)).map_err(|e| wrong(&e))?;
        let there = here.join(location).map_err(|e| wrong(&e))?;
        if there.host_str() != here.host_str() {
            return Ok(None);
        }
        let (tls, port) = match (there.scheme(), there.port_or_known_default()) {
            (scheme @ ("http" | "https"), Some(port)) => (scheme == "https", port),
            (scheme, _) => return Err(format!("unsupported protocol scheme {scheme:?}")),
        };
        let path = there[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
        Ok(Some(Self { tls, host: self.host.clone(), port, path }))
    }
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

    #[test]
    fn redirects_stay_on_the_host() {
        let place = |tls, port, path: &str| Place { tls, host: "10.0.0.7".into(), port, path: path.into() };
        let here = place(false, 8080, "/a/b?c=d");
        for (location, there) in [
            ("/x?y=z", place(false, 8080, "/x?y=z")),
            ("x#top", place(false, 8080, "/a/x")),
            ("http://10.0.0.7:81/", place(false, 81, "/")),
            ("https://10.0.0.7/", place(true, 443, "/")),
            ("//10.0.0.7:8080/e", place(false, 8080, "/e")),
        ] {
            assert_eq!(here.redirected(location), Ok(Some(there)), "{location}");
        }
        for location in ["http://0.0.0.0/", "//10.0.0.8:8080/", "https://example.org/a/b"] {
            assert_eq!(here.redirected(location), Ok(None), "{location}");
        }
        assert!(here.redirected("http://[/").is_err());
        assert!(here.redirected("ftp://10.0.0.7/").is_err());
        let six = Place { tls: false, host: "fd00::7".into(), port: 80, path: "/".into() };
        assert_eq!(six.redirected("/x").map(|p| p.map(|p| p.path)), Ok(Some("/x".into())));
    }

    /// A server that gives each request the next of the answers.
    async fn answered(answers: &'static [&'static str]) -> Result<Found, String> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            for answer in answers.iter().cycle() {
                let (mut stream, _) = listener.accept().await.unwrap();
                let _ = stream.read(&mut [0; 4096]).await.unwrap();
                stream.write_all(format!("HTTP/1.1 {answer}").as_bytes()).await.unwrap();
            }
        });
        let cri = Cri::new("unix:///nowhere", "", Duration::from_secs(1)).unwrap();
        let container = Container::default();
        let target = Target { cri: &cri, container_id: "", container: &container, pod_ip: "127.0.0.1" };
        let get = HTTPGetAction { port: IntOrString::Int(i32::from(port)), ..HTTPGetAction::default() };
        http_get(&target, &get, Duration::from_secs(10), "kube-probe/1.36").await
    }

    #[tokio::test]
    async fn answers_are_good_doubtful_or_bad() {
        let good = answered(&["200 OK\r\nContent-Length: 2\r\n\r\nhi"]).await;
        assert_eq!(good, Ok(Found::Good("hi".into())));
        let followed = answered(&[
            "302 Found\r\nLocation: /there\r\nContent-Length: 0\r\n\r\n",
            "200 OK\r\nContent-Length: 5\r\n\r\nthere",
        ]);
        assert_eq!(followed.await, Ok(Found::Good("there".into())));
        let away = answered(&["302 Found\r\nLocation: http://0.0.0.0/\r\nContent-Length: 4\r\n\r\naway"]);
        let told = "Probe terminated redirects, Response body: away";
        assert_eq!(away.await, Ok(Found::Doubtful(told.into())));
        let nowhere = answered(&["304 Not Modified\r\n\r\n"]).await;
        assert!(matches!(nowhere, Ok(Found::Doubtful(_))), "{nowhere:?}");
        let bad = answered(&["500 Oh\r\nContent-Length: 0\r\n\r\n"]).await;
        assert_eq!(bad, Ok(Found::Bad("HTTP probe failed with statuscode: 500".into())));
        let round = answered(&["301 Moved\r\nLocation: /\r\nContent-Length: 0\r\n\r\n"]).await;
        assert!(matches!(round, Ok(Found::Bad(why)) if why.ends_with(": stopped after 10 redirects")));
    }
}
