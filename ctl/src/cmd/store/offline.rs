//! What needs no running store: checking files, making a data directory of a snapshot, moving from and to etcd.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use store::embedded::GroupConfig;
use store::embedded::offline::{self, DirectoryReport, Made, SnapshotReport, Source, Target};
use store::etcd;
use store::migrate::{self, Step};

use super::Output;
use super::members::size;
use crate::print::table::Table;

/// The data directory to make.
#[derive(Debug, Clone, clap::Args)]
pub struct New {
    /// The data directory to make; it must not exist, or be empty
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// The name of this member (its --store-name), where the store is to have several
    #[arg(long, value_name = "NAME", requires = "initial_cluster")]
    pub name: Option<String>,
    /// Name and address of every member, each of which makes its directory of the same file: NAME=HOST:PORT,...
    #[arg(long, value_name = "LIST", requires = "name")]
    pub initial_cluster: Option<String>,
    /// Tells apart stores that are made of the same file for the same members; the same at all members
    #[arg(long, value_name = "TEXT", default_value = "")]
    pub initial_cluster_token: String,
    /// Revisions to leave out, so that no client takes old ones for new
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000_000)]
    pub bump_revision: u64,
}

/// An etcd cluster.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct EtcdFlags {
    /// Authorities that etcd's certificates are signed by
    #[arg(long, value_name = "FILE")]
    pub etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd
    #[arg(long, value_name = "FILE", requires = "etcd_keyfile")]
    pub etcd_certfile: Option<PathBuf>,
    /// Private key of --etcd-certfile
    #[arg(long, value_name = "FILE", requires = "etcd_certfile")]
    pub etcd_keyfile: Option<PathBuf>,
    /// The prefix of all keys in etcd
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
}

impl EtcdFlags {
    fn config(self, servers: &str) -> anyhow::Result<etcd::Config> {
        let servers: Vec<String> = servers.split(',').map(str::to_owned).collect();
        if let Some(bad) = servers.iter().find(|s| !s.starts_with("http://") && !s.starts_with("https://")) {
            bail!("{bad:?} is not an http or https URL");
        }
        Ok(etcd::Config {
            ca_file: self.etcd_cafile,
            cert_file: self.etcd_certfile,
            key_file: self.etcd_keyfile,
            prefix: self.etcd_prefix,
            ..etcd::Config::new(servers)
        })
    }
}

impl New {
    fn target(&self) -> anyhow::Result<Target> {
        let group = match (&self.name, &self.initial_cluster) {
            (Some(name), Some(list)) => {
                let initial = GroupConfig::parse_members(list).context("--initial-cluster")?;
                Some((name.clone(), initial))
            }
            _ => None,
        };
        Ok(Target {
            dir: self.data_dir.clone(),
            group,
            token: self.initial_cluster_token.clone(),
            bump: self.bump_revision,
        })
    }
}

fn number(id: u64) -> String {
    format!("{id:016x}")
}

fn snapshot_value(s: &SnapshotReport) -> Value {
    json!({
        "store": number(s.store_id), "revision": s.revision, "compactRevision": s.compacted, "index": s.index,
        "records": s.records, "bytes": s.bytes, "members": s.members, "checksum": format!("{:08x}", s.checksum),
    })
}

fn directory_value(d: &DirectoryReport) -> Value {
    json!({
        "store": number(d.store_id), "member": number(d.member), "firstEntry": d.first, "lastEntry": d.last,
        "commands": d.commands, "tornWrite": d.torn, "snapshot": d.snapshot.as_ref().map(snapshot_value),
    })
}

fn made_value(m: &Made, dir: &Path) -> Value {
    json!({
        "dataDir": dir.display().to_string(), "store": number(m.store_id), "member": number(m.member),
        "revision": m.revision, "records": m.records,
    })
}

/// One row of the fields named.
fn row(value: &Value, fields: &[(&str, &str)]) -> Table {
    let cell = |field: &str| match value.pointer(field) {
        Some(Value::String(s)) => s.clone(),
        Some(Value::Null) | None => "-".to_owned(),
        Some(other) => other.to_string(),
    };
    Table {
        header: fields.iter().map(|(name, _)| (*name).to_owned()).collect(),
        rows: vec![fields.iter().map(|(_, field)| cell(field)).collect()],
    }
}

/// `ctl store verify`
pub fn verify(path: &Path, output: &Output) -> anyhow::Result<()> {
    if !path.is_dir() {
        let value = snapshot_value(&offline::verify_snapshot(path)?);
        let bytes = size(value["bytes"].as_u64().unwrap_or_default());
        output.print(&value, |v| {
            let mut table = row(
                v,
                &[
                    ("STORE", "/store"),
                    ("REVISION", "/revision"),
                    ("RECORDS", "/records"),
                    ("CHECKSUM", "/checksum"),
                ],
            );
            table.header.push("SIZE".to_owned());
            table.rows[0].push(bytes);
            table
        })?;
    } else {
        let report = offline::verify(path)?;
        output.print(&directory_value(&report), |v| {
            row(
                v,
                &[
                    ("STORE", "/store"),
                    ("MEMBER", "/member"),
                    ("FIRST ENTRY", "/firstEntry"),
                    ("LAST ENTRY", "/lastEntry"),
                    ("COMMANDS", "/commands"),
                    ("SNAPSHOT REVISION", "/snapshot/revision"),
                ],
            )
        })?;
        if report.torn {
            eprintln!(
                "the last write was torn when the machine stopped; it was never acknowledged, and the next start cuts it off"
            );
        }
    }
    Ok(())
}

const MADE: &[(&str, &str)] =
    &[("DATA DIR", "/dataDir"), ("STORE", "/store"), ("REVISION", "/revision"), ("RECORDS", "/records")];

/// `ctl store snapshot restore`
pub fn restore(file: &Path, new: &New, output: &Output) -> anyhow::Result<()> {
    let made = offline::restore(file, &new.target()?)?;
    output.print(&made_value(&made, &new.data_dir), |v| row(v, MADE))
}

/// How far a migration is, on a terminal.
fn tell(step: &Step) {
    if !std::io::stderr().is_terminal() {
        return;
    }
    match step {
        Step::Keys(n) => eprint!("\r{n} keys\x1b[K"),
        Step::Revisions { at, to } => eprint!("\rrevision {at} of {to}\x1b[K"),
    }
}

fn told() {
    if std::io::stderr().is_terminal() {
        eprint!("\r\x1b[K");
    }
}

/// `ctl store migrate --from-etcd`
pub async fn from_etcd(servers: &str, flags: EtcdFlags, new: &New, output: &Output) -> anyhow::Result<()> {
    let moved = migrate::from_etcd(flags.config(servers)?, new.target()?, &mut |s| tell(&s)).await;
    told();
    let (moved, made) = moved?;
    let mut value = made_value(&made, &new.data_dir);
    value["keys"] = json!(moved.keys);
    value["fromRevision"] = json!(moved.from);
    output.print(&value, |v| row(v, MADE))
}

/// `ctl store migrate --to-etcd`
pub async fn to_etcd(
    servers: &str,
    flags: EtcdFlags,
    source: &Source,
    output: &Output,
) -> anyhow::Result<()> {
    // Beside what is read: there is room for a store.
    let (Source::Directory(place) | Source::Snapshot(place)) = source;
    let beside = place.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let scratch = tempfile::Builder::new().prefix(".migrate").tempdir_in(beside);
    let scratch = scratch.with_context(|| format!("making a directory in {}", beside.display()))?;
    let moved = migrate::to_etcd(source, scratch.path(), flags.config(servers)?, &mut |s| tell(&s)).await;
    told();
    let moved = moved?;
    let value = json!({"keys": moved.keys, "fromRevision": moved.from, "revision": moved.to});
    output.print(&value, |v| {
        row(v, &[("KEYS", "/keys"), ("FROM REVISION", "/fromRevision"), ("REVISION", "/revision")])
    })
}
