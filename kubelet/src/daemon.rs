//! The process: flags to a running daemon. It is here and not in `main.rs` because async code is compiled into
//! whatever awaits it first: awaited in the program, much would be compiled a second time, at every link.

use std::process::ExitCode;

use crate::options::{Flags, INERT};
use crate::run;
use component_base::flags;

/// Runs the daemon as the process's flags say, until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let (flags, unused) = flags::parse::<Flags>(INERT);
    let logs = flags.logs.clone();
    component_base::process::run("kubelet", &logs, move |shutdown| {
        component_base::flags::warn(&unused);
        run::run(flags, shutdown)
    })
}
