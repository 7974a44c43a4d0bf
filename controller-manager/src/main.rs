//! `kube-controller-manager`: drives the cluster from its actual state to the desired one.

use std::process::ExitCode;

use controller_manager::flags::{Flags, INERT};

fn main() -> ExitCode {
    let (flags, unused) = component_base::flags::parse::<Flags>(INERT);
    let logs = flags.logs.clone();
    component_base::process::run("kube-controller-manager", &logs, move |shutdown| {
        component_base::flags::warn(&unused);
        controller_manager::run(flags, shutdown)
    })
}
