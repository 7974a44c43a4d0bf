//! `kubelet`: flags, then [`kubelet::run`].

use std::process::ExitCode;

use clap::Parser;
use kubelet::{options::Flags, run};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let logs = flags.logs.clone();
    component_base::process::run("kubelet", &logs, move |shutdown| run::run(flags, shutdown))
}
