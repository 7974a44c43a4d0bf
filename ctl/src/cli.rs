//! The command line's grammar.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::cmd::{
    change, create, describe, get, history, image, info, rollout, store, stream, up, why, write,
};

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
    Up(Box<up::Up>),
    /// Remove the cluster that `up` made, with everything it left on this machine
    Down(up::Down),
    /// Work with the images of a node
    Image(image::ImageCommand),
    /// Operate the store inside the API servers
    Store(store::StoreCommand),

    /// Show objects
    Get(Box<get::Get>),
    /// Show what an object was at each revision that the store keeps, and who changed which field
    History(history::History),
    /// Show the details of objects
    Describe(describe::Describe),
    /// Say why a pod is pending, or why an object does not go away
    Why(why::Why),
    /// Create objects
    Create(Box<create::Create>),
    /// Make objects be as a file says
    Apply(write::Apply),
    /// Replace objects by what a file says
    Replace(write::Replace),
    /// Change fields of an object
    Patch(write::Patch),
    /// Delete objects
    Delete(Box<write::Delete>),
    /// Run an image in a pod
    Run(Box<create::RunPod>),
    /// Make a service for a workload
    Expose(create::Expose),
    /// Change the number of replicas
    Scale(change::Scale),
    /// Change labels
    Label(change::Metadata),
    /// Change annotations
    Annotate(change::Metadata),
    /// Change images, environment or resources of a pod template
    Set(change::Set),
    /// Follow, undo, pause, resume or restart rollouts
    Rollout(rollout::Rollout),

    /// Print the log of a container
    Logs(stream::Logs),
    /// Run a command in a container
    Exec(stream::Exec),
    /// Attach to the process of a container
    Attach(stream::Attach),
    /// Forward local ports to a pod
    PortForward(stream::PortForward),

    /// Explain the fields of a type
    Explain(info::Explain),
    /// List the types that the server has
    ApiResources(info::ApiResources),
    /// List the versions that the server has
    ApiVersions,
    /// Show where the control plane is
    ClusterInfo,
    /// Say who you are and what you may do
    Auth(info::Auth),
    /// Show and change kubeconfig files
    Config(info::ConfigCommand),
    /// Show the versions of client and server
    Version(info::Version),
}
