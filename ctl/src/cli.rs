//! The command line's grammar.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Flags that every command takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// Path to the kubeconfig file to use for CLI requests
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// The name of the kubeconfig context to use
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
    /// If present, the namespace scope for this CLI request
    #[arg(long, short = 'n', global = true, value_name = "NAMESPACE")]
    pub namespace: Option<String>,
}

/// Controls Kubernetes clusters, and makes them.
#[derive(Debug, Parser)]
#[command(name = "ctl", disable_help_subcommand = true, version = component_base::version::LINE)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a cluster on this machine and show a pod running in it
    Up(crate::cmd::up::Up),
    /// Remove the cluster that `up` made, with everything it left on this machine
    Down(crate::cmd::up::Down),
    /// Work with the images of a node
    Image(crate::cmd::image::ImageCommand),
}
