//! How late watchers hear of a change while many of them watch and much changes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use ctl::cluster::layout::Layout;
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::mpsc;

use crate::figures::{line, quantile};

const WATCHERS: usize = 200;
const CONNECTIONS: usize = 4;
const UPDATES: usize = 2_500;
/// Between updates: 500 in a second.
const PAUSE: Duration = Duration::from_millis(2);
/// Stands before the moment of an update, which is written into the object.
const MARK: &[u8] = b"sent-at=";
/// Digits of that moment, in µs.
const DIGITS: usize = 12;

type Http = HttpClient<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>;

/// Prints how long after the request of an update its event reached the watchers.
pub async fn run(layout: &Layout, client: &Client, namespace: &str, token: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let some = pods.list(&ListParams::default().limit(50)).await?;
    let version = pods.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
    let uri = format!(
        "https://{}:{}/api/v1/namespaces/{namespace}/pods?watch=true&resourceVersion={}",
        layout.host_ip(),
        layout.port,
        version.unwrap_or_default()
    );
    let clients = (0..CONNECTIONS).map(|_| http(layout)).collect::<anyhow::Result<Vec<_>>>()?;
    let start = Instant::now();
    let (delays, mut heard) = mpsc::unbounded_channel();
    let seen = Arc::new(AtomicUsize::new(0));
    // Ends with this function: what is measured next is without watchers.
    let mut followers = tokio::task::JoinSet::new();
    for i in 0..WATCHERS {
        let request = http::Request::get(&uri)
            .header("authorization", format!("Bearer {token}"))
            .header("accept", "application/vnd.kubernetes.protobuf;stream=watch, application/json")
            .body(Full::default())?;
        let response = clients[i % CONNECTIONS].request(request).await.context("beginning a watch")?;
        ensure!(response.status().is_success(), "a watch was answered with {}", response.status());
        followers.spawn(follow(response.into_body(), start, delays.clone(), seen.clone()));
    }
    let names: Vec<String> = some.items.iter().map(ResourceExt::name_any).collect();
    let mut tick = tokio::time::interval(PAUSE);
    let mut writes = tokio::task::JoinSet::new();
    for i in 0..UPDATES {
        tick.tick().await;
        let (pods, name) = (pods.clone(), names[i % names.len()].clone());
        writes.spawn(async move {
            let at = format!("sent-at={:0DIGITS$}", start.elapsed().as_micros());
            let patch = serde_json::json!({"metadata": {"annotations": {"example.org/at": at}}});
            pods.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await.map(|_| ())
        });
    }
    while let Some(done) = writes.join_next().await {
        done?.context("updating a pod")?;
    }
    let all = WATCHERS * UPDATES;
    let deadline = Instant::now() + Duration::from_secs(30);
    while seen.load(Ordering::Relaxed) < all {
        if Instant::now() > deadline {
            bail!("{} of {all} events reached the watchers", seen.load(Ordering::Relaxed));
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let mut values = Vec::with_capacity(all);
    while let Ok(delay) = heard.try_recv() {
        values.push(delay);
    }
    line("api.watch.p50", quantile(values.clone(), 0.5), "ms");
    line("api.watch.p99", quantile(values, 0.99), "ms");
    Ok(())
}

fn http(layout: &Layout) -> anyhow::Result<Http> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(layout.pki("ca.crt"))? {
        roots.add(certificate?)?;
    }
    let tls = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_only().enable_http2().build();
    Ok(HttpClient::builder(TokioExecutor::new()).http2_only(true).build(connector))
}

/// Reads a watch to its end and tells of each event how old it was, in ms. Only the mark is looked for: decoding
/// would measure this program.
async fn follow(
    mut body: hyper::body::Incoming,
    start: Instant,
    delays: mpsc::UnboundedSender<f64>,
    seen: Arc<AtomicUsize>,
) {
    let finder = memchr::memmem::Finder::new(MARK);
    let mut rest: Vec<u8> = Vec::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let now = start.elapsed().as_micros() as f64;
        rest.extend_from_slice(&data);
        let mut from = 0;
        while let Some(at) = finder.find(&rest[from..]) {
            let digits = from + at + MARK.len();
            let Some(text) = rest.get(digits..digits + DIGITS) else { break };
            from = digits + DIGITS;
            if let Some(sent) = std::str::from_utf8(text).ok().and_then(|t| t.parse::<f64>().ok()) {
                let _ = delays.send((now - sent) / 1e3);
                seen.fetch_add(1, Ordering::Relaxed);
            }
        }
        // What may be the beginning of a mark stays.
        let keep = rest.len().saturating_sub(MARK.len() + DIGITS).max(from);
        rest.drain(..keep);
    }
}
