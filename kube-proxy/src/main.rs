//! The `kube-proxy` daemon.

use std::process::ExitCode;

fn main() -> ExitCode {
    kube_proxy::daemon::main()
}
