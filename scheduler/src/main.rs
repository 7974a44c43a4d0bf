//! The `kube-scheduler` daemon.

use std::process::ExitCode;

use anyhow::Context;
use scheduler::options::{Flags, INERT};

fn main() -> ExitCode {
    let (flags, unused) = component_base::flags::parse::<Flags>(INERT);
    component_base::process::run("kube-scheduler", &flags.logs.clone(), |shutdown| async move {
        component_base::flags::warn(&unused);
        let settings = flags.settings()?;
        if let Some(path) = &flags.write_config_to {
            let mut file = serde_json::to_value(&settings.config)?;
            file["apiVersion"] = scheduler::config::VERSIONS[0].into();
            file["kind"] = scheduler::config::KIND.into();
            let text = serde_yaml::to_string(&file)?;
            return std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
        }
        scheduler::run::run(settings, shutdown).await
    })
}
