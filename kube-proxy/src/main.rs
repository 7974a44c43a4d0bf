//! The `kube-proxy` daemon.

use std::process::ExitCode;

use anyhow::Context;
use kube_proxy::options::{Flags, INERT};

fn main() -> ExitCode {
    let (flags, unused) = component_base::flags::parse::<Flags>(INERT);
    component_base::process::run("kube-proxy", &flags.logs.clone(), |shutdown| async move {
        component_base::flags::warn(&unused);
        if flags.cleanup {
            return kube_proxy::run::clean_up().await;
        }
        if let Some(path) = &flags.write_config_to {
            let mut file = serde_json::to_value(flags.configuration()?)?;
            file["apiVersion"] = kube_proxy::config::VERSIONS[0].into();
            file["kind"] = kube_proxy::config::KIND.into();
            let text = serde_yaml::to_string(&file)?;
            return std::fs::write(path, text).with_context(|| format!("writing {}", path.display()));
        }
        kube_proxy::run::run(flags.settings()?, shutdown).await
    })
}
