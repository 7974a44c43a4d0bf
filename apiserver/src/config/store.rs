//! Flags of the embedded store as one member of a group. Upstream has none of these: there, they are etcd's, whose
//! meaning and names they follow.

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context as _, bail};
use clap::{ArgAction, Args};
use component_base::duration::GoDuration;

use crate::store::embedded::{GroupConfig, TlsFiles};

/// Bytes a second at which a member that is far behind is sent a snapshot.
const SNAPSHOT_RATE: u64 = 64 << 20;

/// Several API servers, one store.
#[derive(Debug, Clone, Args)]
pub struct StoreFlags {
    /// Name of this member of the embedded store, unique for ever
    #[arg(long, default_value = "")]
    pub store_name: String,
    /// Name and address of every member, this one included: NAME=HOST:PORT,...
    #[arg(long, default_value = "")]
    pub store_initial_cluster: String,
    /// "new" makes a group of the members listed, "existing" joins one that was told of this member
    #[arg(long, default_value = "new")]
    pub store_initial_cluster_state: String,
    /// How long the embedded store keeps history, for watches that resume and for ctl history; 0 keeps all
    #[arg(long, default_value = "5m0s")]
    pub store_history_retention: GoDuration,
    /// A member that leads the embedded store and has just been answered by a majority answers reads without asking
    /// again; turn it off where virtual machines are frozen and go on
    #[arg(long, action = ArgAction::Set, num_args = 0..=1, default_missing_value = "true", default_value_t = true)]
    pub store_lease_reads: bool,
    /// Where other members reach this one; the port of its entry in --store-initial-cluster, on all addresses
    #[arg(long)]
    pub store_listen_peer: Option<SocketAddr>,
    /// File with the authority that signs the members' certificates
    #[arg(long)]
    pub store_peer_ca_file: Option<PathBuf>,
    /// File with this member's certificate, for serving and for calling
    #[arg(long)]
    pub store_peer_cert_file: Option<PathBuf>,
    /// File with the private key of --store-peer-cert-file
    #[arg(long)]
    pub store_peer_key_file: Option<PathBuf>,
}

impl StoreFlags {
    /// The group; none where this server's store stands alone.
    pub fn group(&self) -> anyhow::Result<Option<GroupConfig>> {
        if self.store_initial_cluster.is_empty() {
            if !self.store_name.is_empty() || self.store_listen_peer.is_some() {
                bail!("--store-name and --store-listen-peer need --store-initial-cluster");
            }
            return Ok(None);
        }
        let initial =
            GroupConfig::parse_members(&self.store_initial_cluster).context("--store-initial-cluster")?;
        let Some(own) = initial.get(&self.store_name) else {
            bail!("--store-name={:?} is not in --store-initial-cluster", self.store_name);
        };
        let join = match self.store_initial_cluster_state.as_str() {
            "new" => false,
            "existing" => true,
            other => bail!("--store-initial-cluster-state: {other:?} is neither new nor existing"),
        };
        let listen = match self.store_listen_peer {
            Some(listen) => listen,
            // A loopback address is for this machine alone.
            None => match own.parse::<SocketAddr>() {
                Ok(address) if address.ip().is_loopback() => address,
                _ => {
                    let port = own.rsplit_once(':').and_then(|(_, port)| port.parse().ok());
                    SocketAddr::from(([0, 0, 0, 0], port.context("--store-initial-cluster: no port")?))
                }
            },
        };
        let tls = match (&self.store_peer_ca_file, &self.store_peer_cert_file, &self.store_peer_key_file) {
            (Some(ca), Some(cert), Some(key)) => {
                Some(TlsFiles { ca: ca.clone(), cert: cert.clone(), key: key.clone() })
            }
            (None, None, None) => None,
            _ => bail!("--store-peer-ca-file, --store-peer-cert-file and --store-peer-key-file go together"),
        };
        let name = self.store_name.clone();
        let group = GroupConfig { name, listen, initial, join, tls, snapshot_rate: SNAPSHOT_RATE };
        group.check().context("--store-initial-cluster")?;
        Ok(Some(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        store: StoreFlags,
    }

    fn of(args: &[&str]) -> anyhow::Result<Option<GroupConfig>> {
        Line::try_parse_from(["x"].iter().chain(args))?.store.group()
    }

    #[test]
    fn groups() {
        assert!(of(&[]).unwrap().is_none());
        let members = "--store-initial-cluster=a=10.0.0.1:2380,b=10.0.0.2:2380";
        let tls = ["--store-peer-ca-file=ca", "--store-peer-cert-file=c", "--store-peer-key-file=k"];
        let group = of(&[&[members, "--store-name=b"][..], &tls].concat()).unwrap().unwrap();
        assert_eq!((group.listen.to_string().as_str(), group.join), ("0.0.0.0:2380", false));
        for wrong in [
            &["--store-name=a"][..],
            &[members],
            &[members, "--store-name=c"],
            &[members, "--store-name=a"],
            &[members, "--store-name=a", "--store-peer-ca-file=ca"],
            &[members, "--store-name=a", "--store-initial-cluster-state=old"],
        ] {
            assert!(of(wrong).is_err(), "{wrong:?}");
        }
        let local = of(&["--store-initial-cluster=a=127.0.0.1:7,b=127.0.0.1:8", "--store-name=a"]).unwrap();
        assert_eq!(local.unwrap().listen.to_string(), "127.0.0.1:7");
    }
}
