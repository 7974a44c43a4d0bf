//! `kube-controller-manager`: drives the cluster from its actual state to the desired one.

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};
use controller_manager::flags::{self, Flags};

fn main() -> ExitCode {
    let matches = flags::with_ignored(Flags::command()).get_matches();
    let flags = match Flags::from_arg_matches(&matches) {
        Ok(flags) => flags,
        Err(e) => e.exit(),
    };
    let ignored = flags::ignored_in(&matches);
    let logs = flags.logs.clone();
    component_base::process::run("kube-controller-manager", &logs, move |shutdown| {
        controller_manager::run(flags, ignored, shutdown)
    })
}
