//! `kubelet`: flags, then [`kubelet::run`].

use std::process::ExitCode;

use component_base::flags;
use kubelet::options::{Flags, INERT};
use kubelet::run;

fn main() -> ExitCode {
    let (flags, unused) = flags::parse::<Flags>(INERT);
    let logs = flags.logs.clone();
    component_base::process::run("kubelet", &logs, move |shutdown| {
        component_base::flags::warn(&unused);
        run::run(flags, shutdown)
    })
}
