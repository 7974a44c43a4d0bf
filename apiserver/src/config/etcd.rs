//! Flags of an etcd that serves as the store.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::bail;
use clap::Args;
use component_base::duration::GoDuration;

use crate::store::etcd::Config;

/// What upstream's flags say about etcd, apart from `--etcd-servers`.
#[derive(Debug, Clone, Args)]
pub struct EtcdFlags {
    /// The storage backend for persistence: etcd3, where --etcd-servers are given
    #[arg(long, default_value = "")]
    pub storage_backend: String,
    /// File with the authorities that etcd's certificates are signed by
    #[arg(long)]
    pub etcd_cafile: Option<PathBuf>,
    /// File with the client certificate for etcd
    #[arg(long)]
    pub etcd_certfile: Option<PathBuf>,
    /// File with the private key of --etcd-certfile
    #[arg(long)]
    pub etcd_keyfile: Option<PathBuf>,
    /// The prefix of all keys in etcd
    #[arg(long, default_value = "/registry")]
    pub etcd_prefix: String,
    /// The interval of compaction requests; 0 leaves compaction to others
    #[arg(long, default_value = "5m0s")]
    pub etcd_compaction_interval: GoDuration,
    /// For how many seconds a lease is given to further objects
    #[arg(long, default_value_t = 60)]
    pub lease_reuse_duration_seconds: u64,
}

impl EtcdFlags {
    /// Checks what clap cannot.
    pub fn check(&self, servers: &[String]) -> anyhow::Result<()> {
        if !matches!(self.storage_backend.as_str(), "" | "etcd3") {
            bail!(
                "--storage-backend invalid, allowed values: etcd3. If not specified, it will default to 'etcd3'"
            );
        }
        if self.etcd_certfile.is_some() != self.etcd_keyfile.is_some() {
            bail!("--etcd-certfile and --etcd-keyfile must be given together");
        }
        if let Some(bad) = servers.iter().find(|s| !s.starts_with("http://") && !s.starts_with("https://")) {
            bail!("--etcd-servers: {bad:?} is not an http or https URL");
        }
        if servers.is_empty() && self.etcd_prefix.trim_matches('/') != "registry" {
            bail!("--etcd-prefix needs --etcd-servers: the embedded store keeps everything under /registry");
        }
        Ok(())
    }

    /// Settings of the engine; none without servers.
    pub fn config(&self, servers: &[String]) -> Option<Config> {
        (!servers.is_empty()).then(|| Config {
            ca_file: self.etcd_cafile.clone(),
            cert_file: self.etcd_certfile.clone(),
            key_file: self.etcd_keyfile.clone(),
            prefix: self.etcd_prefix.clone(),
            compaction_interval: self.etcd_compaction_interval.0,
            lease_reuse: Duration::from_secs(self.lease_reuse_duration_seconds),
            ..Config::new(servers.to_vec())
        })
    }
}
