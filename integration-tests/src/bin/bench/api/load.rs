//! h2load runs: four connections of HTTP/2 that share what is in flight.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, bail};
use ctl::cluster::layout::Layout;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;

use crate::figures::quantile;

/// What sends the load.
pub struct Load {
    base: String,
    authorization: String,
    /// For request bodies and per-request times.
    folder: tempfile::TempDir,
}

/// What a run of h2load found.
pub struct Run {
    requests: usize,
    pub seconds: f64,
    /// Of the answers' bodies.
    pub bytes: f64,
    /// The time, in ms, that 99 of 100 requests did not exceed.
    pub p99: f64,
}

impl Run {
    pub fn per_second(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

impl Load {
    pub fn new(layout: &Layout, token: &str) -> anyhow::Result<Self> {
        Ok(Self {
            base: format!("https://{}:{}", layout.host_ip(), layout.port),
            authorization: format!("authorization: Bearer {token}"),
            folder: tempfile::tempdir()?,
        })
    }

    /// Creates `count` objects from one body.
    pub fn post(&self, path: &str, body: &Value, count: usize, in_flight: usize) -> anyhow::Result<Run> {
        let file = self.folder.path().join("body");
        std::fs::write(&file, body.to_string())?;
        let body = format!("--data={}", file.display());
        self.run(path, &[body, "--header=content-type: application/json".into()], count, in_flight)
    }

    /// Reads `path` `count` times.
    pub fn get(&self, path: &str, accept: &str, count: usize, in_flight: usize) -> anyhow::Result<Run> {
        self.run(path, &[format!("--header=accept: {accept}")], count, in_flight)
    }

    fn run(&self, path: &str, more: &[String], count: usize, in_flight: usize) -> anyhow::Result<Run> {
        let times: PathBuf = self.folder.path().join("times");
        let connections = in_flight.min(4);
        let out = Command::new("h2load")
            .arg(format!("--requests={count}"))
            .arg(format!("--clients={connections}"))
            .arg(format!("--max-concurrent-streams={}", in_flight / connections))
            // Large windows: the figure wanted is the server's, not that of waiting for the reader's permission.
            .args(["--window-bits=26", "--connection-window-bits=26"])
            .arg(format!("--log-file={}", times.display()))
            .arg(format!("--header={}", self.authorization))
            .args(more)
            .arg(format!("{}{path}", self.base))
            .output()
            .context("running h2load (Debian's nghttp2-client)")?;
        let text = String::from_utf8_lossy(&out.stdout);
        // `status codes: 8000 2xx, 0 3xx, …`: a request that failed spoils the figure.
        let fine = text.lines().any(|l| l.starts_with(&format!("status codes: {count} 2xx")));
        if !fine {
            bail!(
                "h2load on {path}: not all of {count} requests succeeded:\n{text}{}",
                String::from_utf8_lossy(&out.stderr)
            );
        }
        let log = std::fs::read_to_string(&times)?;
        std::fs::remove_file(&times)?;
        // Per line: start in µs since 1970, status, µs until the end of the answer.
        let rows: Vec<(f64, f64)> = log
            .lines()
            .filter_map(|l| {
                let mut f = l.split('\t');
                Some((f.next()?.parse().ok()?, f.nth(1)?.parse().ok()?))
            })
            .collect();
        let start = rows.iter().map(|r| r.0).fold(f64::INFINITY, f64::min);
        let end = rows.iter().map(|r| r.0 + r.1).fold(0.0, f64::max);
        let bytes = data_bytes(&text).with_context(|| format!("h2load's traffic line in:\n{text}"))?;
        Ok(Run {
            requests: count,
            seconds: (end - start) / 1e6,
            bytes,
            p99: quantile(rows.iter().map(|r| r.1 / 1e3).collect(), 0.99),
        })
    }
}

/// Bytes of bodies from `traffic: 1.2MB (123) total, 1KB (12) headers (…), 1.1MB (111) data`.
fn data_bytes(text: &str) -> Option<f64> {
    let line = text.lines().find(|l| l.starts_with("traffic:"))?;
    let data = line.rsplit(", ").next()?;
    let from = data.find('(')? + 1;
    data[from..].split(')').next()?.parse().ok()
}

/// The name of any pod of a namespace.
pub async fn first_pod(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let list = pods.list(&ListParams::default().limit(1)).await?;
    Ok(list.items.first().context("no pod was created")?.name_any())
}
