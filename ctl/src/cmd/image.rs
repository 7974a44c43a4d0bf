//! `ctl image`: images of a node without a registry.

use std::fs::File;
use std::path::PathBuf;

use anyhow::Context;
use clap::Subcommand;

#[derive(Debug, clap::Args)]
pub struct ImageCommand {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Import an image archive (OCI layout, or written by docker save) into containerd
    Import {
        /// The archive, plain or gzipped tar
        file: PathBuf,
        /// containerd's socket
        #[arg(long, default_value = ".cluster/node1/containerd.sock", value_name = "SOCKET")]
        containerd: PathBuf,
    },
}

impl ImageCommand {
    pub async fn run(self) -> anyhow::Result<()> {
        let Action::Import { file, containerd } = self.action;
        let archive = File::open(&file).with_context(|| format!("opening {}", file.display()))?;
        let names = crate::image::import::import(&containerd, archive)
            .await
            .with_context(|| format!("importing {}", file.display()))?;
        for name in names {
            println!("imported {name}");
        }
        Ok(())
    }
}
