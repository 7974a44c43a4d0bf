//! `kube-apiserver`: see [`apiserver::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    apiserver::daemon::main()
}
