//! The `ctl` program: parses the command line and runs one command.

use std::process::ExitCode;

use clap::Parser;

/// The one place that needs `unsafe`: changing how the process takes a signal.
mod sigpipe {
    use nix::sys::signal::{SigHandler, Signal, signal};

    /// Lets `ctl get pods | head -1` end quietly, as other command line programs do. Rust ignores SIGPIPE, which
    /// makes printing panic instead.
    #[allow(unsafe_code)]
    pub fn restore_default() {
        // SAFETY: the default action is no handler of ours, and no other thread runs yet.
        let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    }
}

fn main() -> ExitCode {
    sigpipe::restore_default();
    let cli = ctl::cli::Cli::parse();
    component_base::process::install_crypto();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(r) => r,
        Err(e) => {
            eprintln!("error: cannot start the async runtime: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = match runtime.block_on(ctl::cmd::run(cli)) {
        Ok(code) => code,
        Err(e) => {
            // What the server said is an error message already.
            if e.is::<ctl::api::rest::ApiError>() {
                eprintln!("{e}")
            } else {
                eprintln!("error: {e:#}")
            }
            ExitCode::FAILURE
        }
    };
    // Reads of standard input that nobody waits for any more must not hold up the exit.
    runtime.shutdown_background();
    code
}
