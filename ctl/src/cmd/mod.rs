//! One module per command, or per family of commands.

mod args;
pub mod change;
pub mod create;
pub mod describe;
pub mod get;
pub mod history;
pub mod image;
pub mod info;
mod moment;
pub mod rollout;
pub mod store;
pub mod stream;
pub mod up;
pub mod why;
pub mod write;

use std::process::ExitCode;

use crate::api::rest::Rest;
use crate::cli::{Cli, Command};

/// Runs the command that the user gave and returns the program's exit code.
///
/// # Errors
/// What went wrong, in words for the user; `main` prints it.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = &cli.global;
    let rest = || Rest::connect(global);
    let yes_or_no = |yes: bool| if yes { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    match cli.command {
        Command::Up(c) => c.run().await?,
        Command::Down(c) => c.run().await?,
        Command::Image(c) => c.run().await?,
        Command::Store(c) => c.run(global).await?,
        Command::Get(c) => c.run(&rest().await?).await?,
        Command::History(c) => c.run(&rest().await?).await?,
        Command::Describe(c) => c.run(&rest().await?).await?,
        Command::Why(c) => c.run(&rest().await?).await?,
        Command::Create(c) => c.run(&rest().await?).await?,
        Command::Apply(c) => c.run(&rest().await?).await?,
        Command::Replace(c) => c.run(&rest().await?).await?,
        Command::Patch(c) => c.run(&rest().await?).await?,
        Command::Delete(c) => c.run(&rest().await?).await?,
        Command::Run(c) => return Ok(ExitCode::from(c.run(&rest().await?).await?)),
        Command::Expose(c) => c.run(&rest().await?).await?,
        Command::Scale(c) => c.run(&rest().await?).await?,
        Command::Label(c) => c.run(&rest().await?, "labels", "labeled").await?,
        Command::Annotate(c) => c.run(&rest().await?, "annotations", "annotated").await?,
        Command::Set(c) => c.run(&rest().await?).await?,
        Command::Rollout(c) => c.run(&rest().await?).await?,
        Command::Logs(c) => c.run(&rest().await?).await?,
        Command::Exec(c) => return c.run(&rest().await?).await,
        Command::Attach(c) => return c.run(&rest().await?).await,
        Command::PortForward(c) => c.run(&rest().await?).await?,
        Command::Explain(c) => c.run(&rest().await?).await?,
        Command::ApiResources(c) => c.run(&rest().await?).await?,
        Command::ApiVersions => info::api_versions(&rest().await?).await?,
        Command::ClusterInfo => info::cluster_info(&rest().await?).await?,
        Command::Auth(c) => return Ok(yes_or_no(c.run(&rest().await?).await?)),
        Command::Config(c) => c.run(global)?,
        Command::Version(c) => c.run(global).await?,
    }
    Ok(ExitCode::SUCCESS)
}
