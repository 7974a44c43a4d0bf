//! `ctl store`: operation of the store inside the API servers.
//!
//! | file | what |
//! | --- | --- |
//! | `members.rs` | who belongs to the store, over the API server's `/store/v1/` |
//! | `snapshot.rs` | saving one while the store runs |
//! | `offline.rs` | files and directories that no server uses: checking, restoring, moving from and to etcd |

mod members;
mod offline;
mod snapshot;

use std::path::PathBuf;

use anyhow::bail;
use clap::Subcommand;
use store::embedded::offline::Source;

use crate::api::rest::Rest;
use crate::cli::Global;

#[derive(Debug, clap::Args)]
pub struct StoreCommand {
    #[command(subcommand)]
    action: Action,
}

/// How to print lists.
#[derive(Debug, Clone, Default, clap::Args)]
struct Output {
    /// Output format: json or yaml; a table without it
    #[arg(short, long)]
    output: Option<String>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Ask each member how it is
    Status(Output),
    /// List the members
    Members(Output),
    /// Take a new member in, which receives everything and does not vote yet
    Add {
        /// Name of the new member: its --store-name, unique for ever
        name: String,
        /// Where the others reach it
        #[arg(long, value_name = "HOST:PORT")]
        address: String,
        #[command(flatten)]
        output: Output,
    },
    /// Let a member vote that is nearly in step
    Promote {
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Remove a member, for ever
    Remove {
        name: String,
        #[command(flatten)]
        output: Output,
    },
    /// Have another member lead
    TransferLeader { name: String },
    /// Forget history before a revision; the newest one if none is given
    Compact { revision: Option<u64> },
    /// Give back the disk space that a member, or one member after the other, does not need any more
    Defrag {
        name: Option<String>,
        #[command(flatten)]
        output: Output,
    },
    /// Save everything in a file, or make a data directory of one
    #[command(subcommand)]
    Snapshot(Snapshot),
    /// Check a data directory that is not in use, or the file of a snapshot
    Verify {
        /// The directory, or the file
        path: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Move everything from etcd into a new data directory, or from a store into etcd; no API server may run meanwhile
    #[command(group(clap::ArgGroup::new("way").required(true).args(["from_etcd", "to_etcd"])))]
    Migrate(Box<Migrate>),
}

#[derive(Debug, clap::Args)]
struct Migrate {
    /// URLs of the etcd servers to read
    #[arg(long, value_name = "URL,...")]
    from_etcd: Option<String>,
    /// URLs of the etcd servers to fill
    #[arg(long, value_name = "URL,...")]
    to_etcd: Option<String>,
    /// With --to-etcd: the file of a snapshot, in place of a data directory
    #[arg(long, value_name = "FILE", conflicts_with_all = ["from_etcd", "data_dir"])]
    snapshot: Option<PathBuf>,
    /// The data directory: to make, or to read
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Revisions to leave out, so that no client takes old ones for new
    #[arg(long, value_name = "COUNT", default_value_t = 1_000_000_000, conflicts_with = "to_etcd")]
    bump_revision: u64,
    #[command(flatten)]
    etcd: offline::EtcdFlags,
    #[command(flatten)]
    output: Output,
}

impl Migrate {
    async fn run(self) -> anyhow::Result<()> {
        if let Some(servers) = &self.from_etcd {
            let Some(data_dir) = self.data_dir else {
                bail!("--from-etcd needs --data-dir, the directory to make")
            };
            let new = offline::New {
                data_dir,
                name: None,
                initial_cluster: None,
                initial_cluster_token: String::new(),
                bump_revision: self.bump_revision,
            };
            return offline::from_etcd(servers, self.etcd, &new, &self.output).await;
        }
        let source = match (self.data_dir, self.snapshot) {
            (Some(dir), _) => Source::Directory(dir),
            (None, Some(file)) => Source::Snapshot(file),
            (None, None) => bail!("--to-etcd needs --data-dir or --snapshot, what to read"),
        };
        let servers = self.to_etcd.unwrap_or_default();
        offline::to_etcd(&servers, self.etcd, &source, &self.output).await
    }
}

#[derive(Debug, Subcommand)]
enum Snapshot {
    /// Save everything in a file, while the store runs
    Save {
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Make a data directory of a file; its revisions go on above all that clients have seen
    Restore {
        file: PathBuf,
        #[command(flatten)]
        new: offline::New,
        #[command(flatten)]
        output: Output,
    },
}

impl StoreCommand {
    pub async fn run(self, global: &Global) -> anyhow::Result<()> {
        let rest = || Rest::connect(global);
        match self.action {
            Action::Status(o) => members::status(&rest().await?, &o).await,
            Action::Members(o) => members::list(&rest().await?, &o).await,
            Action::Add { name, address, output } => {
                members::add(&rest().await?, &name, &address, &output).await
            }
            Action::Promote { name, output } => members::promote(&rest().await?, &name, &output).await,
            Action::Remove { name, output } => members::remove(&rest().await?, &name, &output).await,
            Action::TransferLeader { name } => members::transfer_leader(&rest().await?, &name).await,
            Action::Compact { revision } => members::compact(&rest().await?, revision).await,
            Action::Defrag { name, output } => {
                members::defragment(&rest().await?, name.as_deref(), &output).await
            }
            Action::Snapshot(Snapshot::Save { file, output }) => {
                snapshot::save(&rest().await?, &file, &output).await
            }
            Action::Snapshot(Snapshot::Restore { file, new, output }) => {
                offline::restore(&file, &new, &output)
            }
            Action::Verify { path, output } => offline::verify(&path, &output),
            Action::Migrate(m) => m.run().await,
        }
    }
}
