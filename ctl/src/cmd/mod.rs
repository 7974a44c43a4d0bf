//! One module per command, or per family of commands.

pub mod image;
pub mod up;

use std::process::ExitCode;

use crate::cli::{Cli, Command};

/// Runs the command that the user gave.
///
/// # Errors
/// What went wrong, in words for the user; `main` prints it.
pub async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(c) => c.run().await?,
        Command::Down(c) => c.run().await?,
        Command::Image(c) => c.run().await?,
    }
    Ok(ExitCode::SUCCESS)
}
