//! `kube-controller-manager`: drives the cluster from its actual state to the desired one.

use std::process::ExitCode;

fn main() -> ExitCode {
    controller_manager::daemon::main()
}
