//! The `kube-scheduler` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    scheduler::daemon::main()
}
