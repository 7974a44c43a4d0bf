//! `kubelet`: see [`kubelet::daemon`].

use std::process::ExitCode;

fn main() -> ExitCode {
    kubelet::daemon::main()
}
