//! The process: flags to a running daemon. It is here and not in `main.rs` because async code is compiled into
//! whatever awaits it first: awaited in the program, much would be compiled a second time, at every link.

use std::process::ExitCode;

use crate::flags::{Flags, INERT};

/// Runs the daemon as the process's flags say, until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let (flags, unused) = component_base::flags::parse::<Flags>(INERT);
    let logs = flags.logs.clone();
    component_base::process::run("kube-controller-manager", &logs, move |shutdown| {
        component_base::flags::warn(&unused);
        crate::run(flags, shutdown)
    })
}
