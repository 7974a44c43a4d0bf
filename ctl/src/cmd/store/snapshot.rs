//! Saving a snapshot while the store runs. It is written beside the file, synced, and only then given its name.

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use http::header::CONTENT_LENGTH;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::Output;
use super::members::size;
use crate::api::rest::{ApiError, Rest};
use crate::print::table::Table;

/// Fetches a snapshot, checks it and keeps it as `file`.
///
/// # Errors
/// The server refuses, the transfer breaks off, or the file cannot be written; then there is no `file`.
pub async fn save(rest: &Rest, file: &Path, output: &Output) -> anyhow::Result<()> {
    if file.exists() {
        bail!("{} is there already", file.display());
    }
    let part = file.with_extension("part");
    let saved = fetch(rest, &part).await;
    let (sha256, bytes, revision) = match saved {
        Ok(saved) => saved,
        Err(e) => {
            // Best effort: there may be nothing to remove.
            let _ = std::fs::remove_file(&part);
            return Err(e);
        }
    };
    if let Err(e) = store::embedded::offline::verify_snapshot(&part) {
        // Best effort, as above.
        let _ = std::fs::remove_file(&part);
        return Err(e).context("what came is damaged");
    }
    std::fs::rename(&part, file).with_context(|| format!("naming {}", file.display()))?;
    let dir = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(dir)
        .and_then(|d| d.sync_all())
        .with_context(|| format!("syncing {}", dir.display()))?;
    let value = json!({
        "file": file.display().to_string(), "revision": revision, "bytes": bytes, "sha256": sha256,
    });
    output.print(&value, table)
}

fn table(v: &Value) -> Table {
    let cell = |name: &str| match &v[name] {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    };
    Table {
        header: ["FILE", "REVISION", "SIZE", "SHA256"].map(str::to_owned).to_vec(),
        rows: vec![vec![
            cell("file"),
            cell("revision"),
            size(v["bytes"].as_u64().unwrap_or_default()),
            cell("sha256"),
        ]],
    }
}

/// Checksum, bytes and revision of what was fetched into `part`.
async fn fetch(rest: &Rest, part: &Path) -> anyhow::Result<(String, u64, u64)> {
    let doing = || format!("writing {}", part.display());
    let mut out = std::fs::OpenOptions::new();
    // Everything is in it, secrets too.
    std::os::unix::fs::OpenOptionsExt::mode(&mut out, 0o600);
    let mut out = out.write(true).create(true).truncate(true).open(part).with_context(doing)?;
    let response = rest.fetch("/store/v1/snapshot").await?;
    let number = |name: &str| -> Option<u64> { response.headers().get(name)?.to_str().ok()?.parse().ok() };
    let (length, revision) = (number(CONTENT_LENGTH.as_str()), number("store-revision"));
    let (Some(length), Some(revision)) = (length, revision) else {
        bail!("{} answered with something that is no snapshot", rest.server);
    };
    let mut body = response.into_body();
    let (mut digest, mut bytes) = (Sha256::new(), 0u64);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::Connection(e.to_string()))?;
        if let Some(data) = frame.data_ref() {
            digest.update(data);
            bytes += data.len() as u64;
            out.write_all(data).with_context(doing)?;
        }
    }
    if bytes != length {
        bail!("the transfer broke off after {bytes} of {length} bytes");
    }
    out.sync_all().with_context(doing)?;
    let sha256 = digest.finalize().iter().map(|b| format!("{b:02x}")).collect();
    Ok((sha256, bytes, revision))
}
