//! The process: flags to a running daemon. It is here and not in `main.rs` because async code is compiled into
//! whatever awaits it first: awaited in the program, much would be compiled a second time, at every link.

use std::process::ExitCode;

use crate::options::{Flags, INERT};
use anyhow::Context;

/// Runs the daemon as the process's flags say, until SIGTERM or SIGINT.
pub fn main() -> ExitCode {
    let (flags, unused) = component_base::flags::parse::<Flags>(INERT);
    component_base::process::run("kube-proxy", &flags.logs.clone(), |shutdown| async move {
        component_base::flags::warn(&unused);
        if flags.cleanup {
            return crate::run::clean_up().await;
        }
        if let Some(path) = &flags.write_config_to {
            let mut file = serde_json::to_value(flags.configuration()?)?;
            file["apiVersion"] = crate::config::VERSIONS[0].into();
            file["kind"] = crate::config::KIND.into();
            let text = serde_yaml::to_string(&file)?;
            return std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
        }
        crate::run::run(flags.settings()?, shutdown).await
    })
}
